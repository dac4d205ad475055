// Sharing work out to threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// Has `work(state, next)` run in a thread for each of `states`; each call of `next` gives another of
// the numbers below `count`, and `count` or more when there are none left. Whoever is free takes the
// next one, so that a thread that does not get to run holds nobody up for long. Threads kept for
// the next time would spin, or be missing after a fork: these end with the work. They allocate
// nothing: in a new thread that is slow.
template <typename State, typename Work>
void share_out(int64_t count, std::vector<State>& states, const Work& work) {
    std::atomic<int64_t> taken{0};
    const auto run = [&](State& state) { work(state, [&] { return taken++; }); };
    std::vector<std::thread> others;
    others.reserve(states.size());
    try {
        for (size_t i = 1; i < states.size(); i++) others.emplace_back(run, std::ref(states[i]));
    } catch (const std::system_error&) {  // no more threads to be had: fewer do it all the same
    }
    run(states[0]);
    for (std::thread& other : others) other.join();
}

}  // namespace
