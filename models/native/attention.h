// Multi-head attention between its input and its output projection.
#pragma once

#include <cmath>

#include "dropout.h"
#include "sizes.h"
#include "vectors.h"

namespace {

Vector score(const float* key, int stride, const Vector (&query)[HEAD]) {
    Vector sum = query[0] * key[0];
    for (int d = 1; d < HEAD; d++) sum += query[d] * key[d * stride];
    return sum;
}

// q, result: (D, q_stride); k, v: (D, stride) of `keys` tokens. q is scaled for powers of two.
// largest, inverse: each query's largest score and inverse sum of powers, (H, q_stride).
template <bool DROPS>
void attend(const float* q, const float* k, const float* v, int q_stride, int stride, int keys,
            const Dropout& dropout, float* scores, float* result, float* largest, float* inverse) {
    for (int h = 0; h < H; h++)
        for (int t = 0; t < q_stride; t += LANES) {
            const float *its_k = k + h * HEAD * stride, *its_v = v + h * HEAD * stride;
            Vector query[HEAD], sums[HEAD] = {}, total = {};
            for (int d = 0; d < HEAD; d++) query[d] = at(q + (h * HEAD + d) * q_stride + t);
            Vector most = score(its_k, stride, query);
            for (int key = 0; key < keys; key++) {
                const Vector s = score(its_k + key, stride, query);
                at(scores + key * LANES) = s;
                most = s > most ? s : most;
            }
            for (int key = 0; key < keys; key++) {
                Vector power = power_of_two(at(scores + key * LANES) - most);
                total += power;
                if (DROPS) power = dropout.keep(power, h * keys + key, t);
                for (int d = 0; d < HEAD; d++) sums[d] += power * its_v[d * stride + key];
            }
            const Vector one_over = 1.0f / total;
            at(largest + h * q_stride + t) = most;
            at(inverse + h * q_stride + t) = one_over;
            for (int d = 0; d < HEAD; d++)
                at(result + (h * HEAD + d) * q_stride + t) = sums[d] * one_over * dropout.scale;
        }
}

// grad_q is written; grad_k, grad_v (D, stride) are added to.
template <bool DROPS, int VECTORS>
void attend_backward(const float* q, const float* k, const float* v, int q_stride, int stride,
                     int keys, const Dropout& dropout, const float* result, const float* largest,
                     const float* inverse, const float* grad, float* grad_q, float* grad_k,
                     float* grad_v, int h, int first) {
    const long offset = long(h) * HEAD * q_stride + first;
    Vector query[VECTORS][HEAD], g[VECTORS][HEAD], to_q[VECTORS][HEAD], along[VECTORS];
    for (int n = 0; n < VECTORS; n++) {
        along[n] = Vector{};
        for (int d = 0; d < HEAD; d++) {
            const long place = offset + d * q_stride + n * LANES;
            query[n][d] = at(q + place);
            g[n][d] = at(grad + place);
            along[n] += g[n][d] * at(result + place);
            to_q[n][d] = Vector{};
        }
    }
    for (int key = 0; key < keys; key++) {
        const float *its_k = k + h * HEAD * stride + key, *its_v = v + h * HEAD * stride + key;
        Vector to_k[HEAD] = {}, to_v[HEAD] = {};
        for (int n = 0; n < VECTORS; n++) {
            const long place = long(h) * q_stride + first + n * LANES;
            const Vector weight =
                power_of_two(score(its_k, stride, query[n]) - at(largest + place)) *
                at(inverse + place);
            Vector kept = weight, grad_weight = score(its_v, stride, g[n]);
            if (DROPS) {
                const int row = h * keys + key;
                const Vector mask = dropout.keep(same(dropout.scale), row, first + n * LANES);
                kept *= mask;
                grad_weight *= mask;
            }
            const Vector grad_score = weight * (grad_weight - along[n]);
            for (int d = 0; d < HEAD; d++) {
                to_v[d] += kept * g[n][d];
                to_k[d] += grad_score * query[n][d];
                to_q[n][d] += grad_score * its_k[d * stride];
            }
        }
        for (int d = 0; d < HEAD; d += 4) {
            const Four k_sums = lane_sums({to_k[d], to_k[d + 1], to_k[d + 2], to_k[d + 3]}) * LN_2;
            const Four v_sums = lane_sums({to_v[d], to_v[d + 1], to_v[d + 2], to_v[d + 3]});
            for (int i = 0; i < 4; i++) {
                grad_k[(h * HEAD + d + i) * stride + key] += k_sums[i];
                grad_v[(h * HEAD + d + i) * stride + key] += v_sums[i];
            }
        }
    }
    const float scale = 1 / std::sqrt(float(HEAD));
    for (int n = 0; n < VECTORS; n++)
        for (int d = 0; d < HEAD; d++)
            at(grad_q + offset + d * q_stride + n * LANES) = to_q[n][d] * scale;
}

}  // namespace
