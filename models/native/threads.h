// Sharing work out to threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// Has `work(next)` run on up to `threads` threads; each call of `next` gives another of the
// numbers below `count`, and `count` or more when there are none left. Whoever is free takes the
// next one, so that a thread that does not get to run holds nobody up for long. Threads that wait
// would spin or need waking, and what a fork leaves of them would hang: these end with the work.
template <typename Work>
void share_out(int64_t count, int64_t threads, const Work& work) {
    std::atomic<int64_t> taken{0};
    const auto run = [&] { work([&] { return taken++; }); };
    std::vector<std::thread> others;
    others.reserve(std::max<int64_t>(std::min(threads, count), 1));
    try {
        while (int64_t(others.size()) + 1 < std::min(threads, count)) others.emplace_back(run);
    } catch (const std::system_error&) {  // no more threads to be had: fewer do it all the same
    }
    run();
    for (std::thread& other : others) other.join();
}

}  // namespace
