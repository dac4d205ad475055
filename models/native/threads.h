// Distributing work to threads.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// About as long as a thread takes to fall asleep and wake up.
constexpr std::chrono::microseconds PATIENCE{100};

// Calls `run` once in each of up to `threads` threads, including the calling one; returns when all
// have ended. The threads are not reused: idle ones would spin, and a fork would lose them.
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
    } catch (const std::system_error&) {  // no more threads available: fewer do the same work
    }
    run();
    const auto end = std::chrono::steady_clock::now() + PATIENCE;
    while (finished < others.size() && std::chrono::steady_clock::now() < end)
        std::this_thread::yield();
    for (std::thread& other : others) other.join();
}

// OpenMP's entry point for a parallel region, in the libraries of GCC, LLVM and Intel.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// The entry point of the library whose threads PyTorch's operators use; null without one. It is
// looked up and not linked: Apple's compiler lacks OpenMP, and a second library's threads would
// compete with those of the first.
Parallel pytorchs_threads() {
    static const auto function = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return function;
}

// Calls `work(state, i)` for each i below `count`, in up to `call.threads` threads with a State of
// the call for each. A free thread takes the next i, so that a thread that cannot run delays the
// others little. The threads must not allocate memory: in a new thread that is slow. They are
// PyTorch's, or new ones with `call.has_own_threads`.
template <typename State, typename AnyCall, typename Work>
void share_out(const AnyCall& call, int64_t count, const Work& work) {
    const int64_t threads = std::max<int64_t>(std::min(call.threads, count), 1);
    std::vector<State> states;
    states.reserve(threads);  // they point into their own memory
    while (int64_t(states.size()) < threads) states.emplace_back(call);
    std::atomic<int64_t> next{0};
    std::atomic<size_t> started{0};
    const auto run = [&] {
        State& state = states[started++];
        for (int64_t i; (i = next++) < count;) work(state, i);
    };
    const bool is_shared = threads > 1 && !call.has_own_threads;
    if (const Parallel parallel = is_shared ? pytorchs_threads() : nullptr) {
        const auto start = [](void* which) { (*static_cast<decltype(run)*>(which))(); };
        parallel(start, const_cast<void*>(static_cast<const void*>(&run)), threads, 0);
    } else {
        in_new_threads(threads, run);
    }
}

}  // namespace
