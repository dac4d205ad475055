// Sharing work out to threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// To fall asleep and wake up takes about as long.
constexpr std::chrono::microseconds PATIENCE{100};

// Calls `work(state, i)` for each i below `count`, in a thread for each of `states`. Whoever is free
// takes the next i, so that a thread that does not get to run holds nobody up for long. Threads
// kept for the next time would spin, or be missing after a fork: these end with the work. They
// allocate nothing: in a new thread that is slow.
template <typename State, typename Work>
void share_out(int64_t count, std::vector<State>& states, const Work& work) {
    std::atomic<int64_t> taken{0};
    std::atomic<size_t> finished{0};
    const auto run = [&](State& state) {
        for (int64_t i; (i = taken++) < count;) work(state, i);
        finished++;
    };
    std::vector<std::thread> others;
    others.reserve(states.size());
    try {
        for (size_t i = 1; i < states.size(); i++) others.emplace_back(run, std::ref(states[i]));
    } catch (const std::system_error&) {  // no more threads to be had: fewer do it all the same
    }
    run(states[0]);
    const auto end = std::chrono::steady_clock::now() + PATIENCE;
    while (finished <= others.size() && std::chrono::steady_clock::now() < end)
        std::this_thread::yield();
    for (std::thread& other : others) other.join();
}

}  // namespace
