// The encoder's weights and their gradients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "sizes.h"
#include "vectors.h"

namespace {

// X(name, rows, columns) of a layer, and of the last norm; a vector has 0 columns. weights.py has
// the same order.
#define LAYER_WEIGHTS(X)  \
    X(w_in, 3 * D, D)     \
    X(b_in, 3 * D, 0)     \
    X(w_out, D, D)        \
    X(b_out, D, 0)        \
    X(w1, F, D)           \
    X(b1, F, 0)           \
    X(w2, D, F)           \
    X(b2, D, 0)           \
    X(gamma0, D, 0)       \
    X(beta0, D, 0)        \
    X(gamma1, D, 0)       \
    X(beta1, D, 0)
#define NORM_WEIGHTS(X) \
    X(gamma, D, 0)      \
    X(beta, D, 0)

#define POINTER(name, rows, columns) const float* name;
#define TAKE(name, rows, columns) name = next, next += rows * (columns ? columns : 1);
#define GRADIENT(name, rows, columns) float name[rows * (columns ? columns : LANES)];
#define SUMMED(name, rows, columns) +rows*(columns ? columns : 1)
#define SUM_UP(name, rows, columns) out = sum_lanes<rows, columns>(name, out);

// Sums a vector's gradient over lanes, copies a matrix's; returns the end of `out`.
template <int ROWS, int COLUMNS>
float* sum_lanes(const float* grad, float* out) {
    if (COLUMNS) return std::copy(grad, grad + ROWS * COLUMNS, out);
    for (int row = 0; row < ROWS; row += 4) {
        Vector lanes[4];
        for (int r = 0; r < 4; r++) lanes[r] = at(grad + (row + r) * LANES);
        const Four sums = lane_sums(lanes);
        for (int r = 0; r < 4; r++) *out++ = sums[r];
    }
    return out;
}

// Pointers to weights that follow each other in memory; moves `next` to their end.
struct LayerWeights {
    LAYER_WEIGHTS(POINTER)

    explicit LayerWeights(const float*& next) { LAYER_WEIGHTS(TAKE) }
};
struct NormWeights {
    NORM_WEIGHTS(POINTER)

    explicit NormWeights(const float*& next) { NORM_WEIGHTS(TAKE) }
};
struct Weights {
    std::vector<LayerWeights> layers;
    NormWeights norm;

    Weights(const float* next, int64_t count) : layers(layers_at(next, count)), norm(next) {}

  private:
    static std::vector<LayerWeights> layers_at(const float*& next, int64_t count) {
        std::vector<LayerWeights> layers;
        while (int64_t(layers.size()) < count) layers.emplace_back(next);
        return layers;
    }
};
constexpr int64_t LAYER_SIZE = 0 LAYER_WEIGHTS(SUMMED), NORM_SIZE = 0 NORM_WEIGHTS(SUMMED);

// Gradients while they are summed over samples; a vector's are not yet summed over lanes.
struct alignas(64) LayerGrads {
    LAYER_WEIGHTS(GRADIENT)

    float* sum(float* out) const {
        LAYER_WEIGHTS(SUM_UP)
        return out;
    }
};
struct alignas(64) NormGrads {
    NORM_WEIGHTS(GRADIENT)

    float* sum(float* out) const {
        NORM_WEIGHTS(SUM_UP)
        return out;
    }
};

}  // namespace
