// Sharing work out to threads.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// To fall asleep and wake up takes about as long.
constexpr std::chrono::microseconds PATIENCE{100};

// Calls `run` once in each of up to `threads` threads, the calling one among them; all have ended
// when it returns. They end with the work: kept ones would spin, or be missing after a fork.
template <typename Run>
void in_new_threads(size_t threads, const Run& run) {
    std::atomic<size_t> finished{0};
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
        for (size_t i = 1; i < threads; i++)
            others.emplace_back([&] {
                run();
                finished++;
            });
    } catch (const std::system_error&) {  // no more threads to be had: fewer do it all the same
    }
    run();
    const auto end = std::chrono::steady_clock::now() + PATIENCE;
    while (finished < others.size() && std::chrono::steady_clock::now() < end)
        std::this_thread::yield();
    for (std::thread& other : others) other.join();
}

// OpenMP's entry for a parallel region, which GCC's library has, and LLVM's and Intel's too.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// That of the library whose threads PyTorch's operators use; null where there is none to be found.
// It is looked up and not linked: Apple's compiler knows no OpenMP, and a second library's threads
// would get in the way of the first one's.
Parallel pytorchs_threads() {
    static const auto found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
}

// Calls `work(state, i)` for each i below `count`, in a thread for each of `states`. Whoever is free
// takes the next i, so that a thread that does not get to run holds nobody up for long. The threads
// allocate nothing: in a new thread that is slow. They are PyTorch's, or with `has_own_threads` new
// ones.
template <typename State, typename Work>
void share_out(int64_t count, std::vector<State>& states, bool has_own_threads, const Work& work) {
    std::atomic<int64_t> taken{0};
    std::atomic<size_t> begun{0};
    const auto run = [&] {
        State& state = states[begun++];
        for (int64_t i; (i = taken++) < count;) work(state, i);
    };
    const bool is_shared = states.size() > 1 && !has_own_threads;
    if (const Parallel parallel = is_shared ? pytorchs_threads() : nullptr) {
        const auto call = [](void* which) { (*static_cast<decltype(run)*>(which))(); };
        parallel(call, const_cast<void*>(static_cast<const void*>(&run)), states.size(), 0);
    } else {
        in_new_threads(states.size(), run);
    }
}

}  // namespace
