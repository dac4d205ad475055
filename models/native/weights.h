// A layer's weights and their gradients.
#pragma once

#include <vector>

#include "sizes.h"
#include "vectors.h"

namespace {

// A layer's weights, in the order of EncoderLayer.parameters().
struct LayerWeights {
    const float *w_in, *b_in, *w_out, *b_out, *w1, *b1, *w2, *b2, *gamma0, *beta0, *gamma1, *beta1;
};
constexpr int N_WEIGHTS = 12;
constexpr int SIZES[N_WEIGHTS] = {3 * D * D, 3 * D, D * D, D, F * D, F, D * F, D, D, D, D, D};
constexpr bool IS_MATRIX[N_WEIGHTS] = {true, false, true, false, true, false, true};
constexpr int NORM_SIZES[2] = {D, D};
constexpr bool NORM_IS_MATRIX[2] = {};

// The gradients of a layer's weights in one thread; a vector's are not yet summed over lanes.
struct alignas(64) LayerGrads {
    float w_in[3 * D * D], b_in[3 * D * LANES], w_out[D * D], b_out[D * LANES], w1[F * D],
        b1[F * LANES], w2[D * F], b2[D * LANES], gamma0[D * LANES], beta0[D * LANES],
        gamma1[D * LANES], beta1[D * LANES];
};

// Adds up what the threads found: `grads[thread]` has the gradients one after the other.
void add_up(const std::vector<const float*>& grads, const int* sizes, const bool* is_matrix,
            int count, float* const* out) {
    long offset = 0;
    for (int i = 0; i < count; i++) {
        const int lanes = is_matrix[i] ? 1 : LANES;
        for (int j = 0; j < sizes[i]; j++) {
            float sum = 0;
            for (const float* grad : grads)
                for (int lane = 0; lane < lanes; lane++) sum += grad[offset + j * lanes + lane];
            out[i][j] = sum;
        }
        offset += long(sizes[i]) * lanes;
    }
}

}  // namespace
