// Layer normalisation over the channels, lane by lane.
#pragma once

#include <cmath>

#include "sizes.h"
#include "vectors.h"

namespace {

template <int LANES_HERE>
struct Moments {
    typedef typename Lanes<LANES_HERE>::Vector V;
    V mean = {}, inverse_deviation;

    Moments(const float* x, int stride) {
        V variance = {};
        for (int c = 0; c < D; c++) mean += at<LANES_HERE>(x + c * stride);
        mean *= 1.0f / D;
        for (int c = 0; c < D; c++) {
            const V deviation = at<LANES_HERE>(x + c * stride) - mean;
            variance += deviation * deviation;
        }
        for (int lane = 0; lane < LANES_HERE; lane++)
            inverse_deviation[lane] = 1.0f / std::sqrt(variance[lane] * (1.0f / D) + EPSILON);
        inverse_deviation += 0.0f * variance;  // NaN, not 0, where that is beyond float32
    }
};

void layer_norm(const float* x, const float* gamma, const float* beta, float* out, int stride) {
    each(stride, [&](auto lanes, int t) {
        const Moments<lanes> m(x + t, stride);
        for (int c = 0; c < D; c++)
            at<lanes>(out + c * stride + t) =
                (at<lanes>(x + c * stride + t) - m.mean) * (m.inverse_deviation * gamma[c]) +
                beta[c];
    });
}

// grad_x += the gradient of x; the gradients of gamma and beta are not yet summed over lanes.
void layer_norm_backward(const float* grad, const float* x, const float* gamma, float* grad_gamma,
                         float* grad_beta, float* grad_x, int stride) {
    each(stride, [&](auto lanes, int t) {
        typedef typename Lanes<lanes>::Vector V;
        const Moments<lanes> m(x + t, stride);
        V sum = {}, weighted = {};
        for (int c = 0; c < D; c++) {
            const V normed = (at<lanes>(x + c * stride + t) - m.mean) * m.inverse_deviation;
            const V g = at<lanes>(grad + c * stride + t);
            at<lanes>(grad_beta + c * LANES) += g;
            at<lanes>(grad_gamma + c * LANES) += g * normed;
            sum += g * gamma[c];
            weighted += g * gamma[c] * normed;
        }
        sum *= 1.0f / D;
        weighted *= 1.0f / D;
        for (int c = 0; c < D; c++) {
            const V normed = (at<lanes>(x + c * stride + t) - m.mean) * m.inverse_deviation;
            const V g = at<lanes>(grad + c * stride + t) * gamma[c];
            at<lanes>(grad_x + c * stride + t) +=
                m.inverse_deviation * (g - sum - normed * weighted);
        }
    });
}

}  // namespace
