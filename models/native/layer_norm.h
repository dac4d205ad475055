// Layer normalisation over the channels, lane by lane.
#pragma once

#include <cmath>

#include "sizes.h"
#include "vectors.h"

namespace {

struct Moments {
    Vector mean, inverse_deviation;
};

Moments moments(const float* x, int stride) {
    Vector mean = {}, variance = {};
    for (int c = 0; c < D; c++) mean += at(x + c * stride);
    mean *= 1.0f / D;
    for (int c = 0; c < D; c++) {
        const Vector distance = at(x + c * stride) - mean;
        variance += distance * distance;
    }
    Vector inverse;
    for (int lane = 0; lane < LANES; lane++)
        inverse[lane] = 1.0f / std::sqrt(variance[lane] * (1.0f / D) + EPSILON);
    return {mean, inverse};
}

void layer_norm(const float* x, const float* gamma, const float* beta, float* out, int stride) {
    for (int t = 0; t < stride; t += LANES) {
        const Moments m = moments(x + t, stride);
        for (int c = 0; c < D; c++)
            at(out + c * stride + t) =
                (at(x + c * stride + t) - m.mean) * (m.inverse_deviation * gamma[c]) + beta[c];
    }
}

// grad_x += the gradient of x; those of gamma and beta are not yet summed over lanes.
void layer_norm_backward(const float* grad, const float* x, const float* gamma, float* grad_gamma,
                         float* grad_beta, float* grad_x, int stride) {
    for (int t = 0; t < stride; t += LANES) {
        const Moments m = moments(x + t, stride);
        Vector sum = {}, weighted = {};
        for (int c = 0; c < D; c++) {
            const Vector normed = (at(x + c * stride + t) - m.mean) * m.inverse_deviation;
            const Vector g = at(grad + c * stride + t);
            at(grad_beta + c * LANES) += g;
            at(grad_gamma + c * LANES) += g * normed;
            sum += g * gamma[c];
            weighted += g * gamma[c] * normed;
        }
        sum *= 1.0f / D;
        weighted *= 1.0f / D;
        for (int c = 0; c < D; c++) {
            const Vector normed = (at(x + c * stride + t) - m.mean) * m.inverse_deviation;
            const Vector g = at(grad + c * stride + t) * gamma[c];
            at(grad_x + c * stride + t) += m.inverse_deviation * (g - sum - normed * weighted);
        }
    }
}

}  // namespace
