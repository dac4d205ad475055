// The arguments of a call from Python.
#pragma once

#include <cstdint>

namespace {

// call.py has the same fields; after a change, increase ABI there.
struct Call {
    int64_t threads, has_own_threads;  // new threads instead of PyTorch's
    int64_t batch, tokens, memory_tokens, queries,
        layers;                    // memory_tokens 0: self-attention
    const float *x, *memory;       // (B, T, D), (B, M, D)
    const float* positions;        // (max(T, M), D)
    const uint32_t* dropout_keys;  // (B), or null: no dropout
    double keep;                   // the share that dropout keeps
    float* kept;                   // (B, kept_size), for the backward pass
    float* out;                    // (B, Q, D)
    const float* grad_out;
    float *grad_x, *grad_memory;
    const float* weights;  // of each layer, then of the last norm, concatenated
    float* grad_weights;   // output, in the same order
};

}  // namespace
