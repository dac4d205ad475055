// What a call from Python passes.
#pragma once

#include <cstdint>

namespace {

// call.py has the same; whoever changes it counts ABI, there, up.
struct Call {
    int64_t threads, has_own_threads;  // and not PyTorch's
    int64_t batch, tokens, memory_tokens, queries,
        layers;                    // memory_tokens 0: self-attention
    const float *x, *memory;       // (B, T, D), (B, M, D)
    const float* positions;        // (max(T, M), D)
    const uint32_t* dropout_keys;  // (B), or null: no dropout
    double keep;                   // the share dropout keeps
    float* kept;                   // (B, kept_size), for backward
    float* out;                    // (B, Q, D)
    const float* grad_out;
    float *grad_x, *grad_memory;
    const float* weights;  // those of each layer's list, then the last norm's, one behind the other
    float* grad_weights;   // in the same order; written
};

}  // namespace
