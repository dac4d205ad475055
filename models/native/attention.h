// Multi-head attention between its input and its output projection.
#pragma once

#include <algorithm>
#include <cmath>

#include "dropout.h"
#include "sizes.h"
#include "vectors.h"

namespace {

template <typename V>
V score(const float* key, int stride, const V (&query)[HEAD]) {
    V sum = query[0] * key[0];
    for (int d = 1; d < HEAD; d++) sum += query[d] * key[d * stride];
    return sum;
}

// q, result: (D, q_stride); k, v: (D, stride) of `keys` tokens. q is scaled for base 2.
// largest, inverse: each query's largest score and 1 / its sum of powers of two, (H, q_stride).
template <bool DROPS>
void attend(const float* q, const float* k, const float* v, int q_stride, int stride, int keys,
            const Dropout& dropout, float* scores, float* result, float* largest, float* inverse) {
    const auto attend_here = [&](auto lanes, int h, int t) {
        typedef typename Lanes<lanes>::Vector V;
        const float *head_k = k + h * HEAD * stride, *head_v = v + h * HEAD * stride;
        V query[HEAD], sums[HEAD] = {}, total = {};
        for (int d = 0; d < HEAD; d++) query[d] = at<lanes>(q + (h * HEAD + d) * q_stride + t);
        V highest = score(head_k, stride, query);
        for (int key = 0; key < keys; key++) {
            const V s = score(head_k + key, stride, query);
            at<lanes>(scores + key * LANES) = s;
            highest = s > highest ? s : highest;
        }
        for (int key = 0; key < keys; key++) {
            V power = power_of_two(at<lanes>(scores + key * LANES) - highest);
            total += power;
            if (DROPS) power = dropout.keep(power, h * keys + key, t);
            for (int d = 0; d < HEAD; d++) sums[d] += power * head_v[d * stride + key];
        }
        const V inv_total = 1.0f / total;
        at<lanes>(largest + h * q_stride + t) = highest;
        at<lanes>(inverse + h * q_stride + t) = inv_total;
        for (int d = 0; d < HEAD; d++)
            at<lanes>(result + (h * HEAD + d) * q_stride + t) = sums[d] * inv_total * dropout.scale;
    };
    for (int h = 0; h < H; h++)
        each(q_stride, [&](auto lanes, int t) { attend_here(lanes, h, t); });
}

// Some queries of a head, the results of their attention, and their gradients.
template <bool DROPS, int COUNT>
struct Queries {
    typedef typename Lanes<COUNT>::Vector V;
    V query[HEAD], grad[HEAD], grad_query[HEAD] = {}, along = {}, largest, inverse;

    // Adds one key's part to the gradients of the key, of its value and of these queries.
    void add_key(const float* k, const float* v, int stride, const Dropout& dropout, int row,
                 int first, V (&to_k)[HEAD], V (&to_v)[HEAD]) {
        const V weight = power_of_two(score(k, stride, query) - largest) * inverse;
        V kept = weight, grad_weight = score(v, stride, grad);
        if (DROPS) {
            const V mask = dropout.keep(V{} + dropout.scale, row, first);
            kept *= mask;
            grad_weight *= mask;
        }
        const V grad_score = weight * (grad_weight - along);
        for (int d = 0; d < HEAD; d++) {
            to_v[d] += kept * grad[d];
            to_k[d] += grad_score * query[d];
            grad_query[d] += grad_score * k[d * stride];
        }
    }
};

// The backward pass of `attend`: grad_q is written, grad_k and grad_v (D, stride) are added to.
struct AttentionBackward {
    const float *q, *k, *v;
    int q_stride, stride, keys;
    const Dropout& dropout;
    const float *result, *largest, *inverse, *grad;
    float *grad_q, *grad_k, *grad_v;

    template <bool DROPS>
    void of_head(int h) const {
        constexpr decltype(&AttentionBackward::part<DROPS, 1, false>) parts[2][5] = {
            {nullptr, &AttentionBackward::part<DROPS, 1, false>,
             &AttentionBackward::part<DROPS, 2, false>, &AttentionBackward::part<DROPS, 3, false>,
             &AttentionBackward::part<DROPS, 4, false>},
            {&AttentionBackward::part<DROPS, 0, true>, &AttentionBackward::part<DROPS, 1, true>,
             &AttentionBackward::part<DROPS, 2, true>, &AttentionBackward::part<DROPS, 3, true>}};
        for (int first = 0; first < q_stride; first += 4 * LANES) {
            const int remaining = q_stride - first, vectors = std::min(4, remaining / LANES);
            (this->*parts[vectors < 4 && remaining % LANES][vectors])(h, first);
        }
    }

  private:
    // For the queries of VECTORS registers and, where HAS_HALF, of half a register, from `first`.
    template <bool DROPS, int VECTORS, bool HAS_HALF>
    void part(int h, int first) const {
        Queries<DROPS, LANES> whole[VECTORS ? VECTORS : 1];
        Queries<DROPS, HALF> half;
        const int last = first + VECTORS * LANES;
        for (int n = 0; n < VECTORS; n++) begin(whole[n], h, first + n * LANES);
        if (HAS_HALF) begin(half, h, last);
        for (int key = 0; key < keys; key++) {
            const long offset = long(h) * HEAD * stride + key;
            const int row = h * keys + key;
            Vector to_k[HEAD] = {}, to_v[HEAD] = {};
            for (int n = 0; n < VECTORS; n++)
                whole[n].add_key(k + offset, v + offset, stride, dropout, row, first + n * LANES,
                                 to_k, to_v);
            if (HAS_HALF) {
                Lanes<HALF>::Vector half_k[HEAD] = {}, half_v[HEAD] = {};
                half.add_key(k + offset, v + offset, stride, dropout, row, last, half_k, half_v);
                for (int d = 0; d < HEAD; d++) {
                    to_k[d] += widened(half_k[d]);
                    to_v[d] += widened(half_v[d]);
                }
            }
            for (int d = 0; d < HEAD; d += 4) {
                const Four k_sums =
                    lane_sums({to_k[d], to_k[d + 1], to_k[d + 2], to_k[d + 3]}) * LN_2;
                const Four v_sums = lane_sums({to_v[d], to_v[d + 1], to_v[d + 2], to_v[d + 3]});
                for (int i = 0; i < 4; i++) {
                    grad_k[offset + (d + i) * stride] += k_sums[i];
                    grad_v[offset + (d + i) * stride] += v_sums[i];
                }
            }
        }
        for (int n = 0; n < VECTORS; n++) end(whole[n], h, first + n * LANES);
        if (HAS_HALF) end(half, h, last);
    }

    template <bool DROPS, int COUNT>
    void begin(Queries<DROPS, COUNT>& group, int h, int t) const {
        for (int d = 0; d < HEAD; d++) {
            const long offset = long(h * HEAD + d) * q_stride + t;
            group.query[d] = at<COUNT>(q + offset);
            group.grad[d] = at<COUNT>(grad + offset);
            group.along += group.grad[d] * at<COUNT>(result + offset);
        }
        group.largest = at<COUNT>(largest + long(h) * q_stride + t);
        group.inverse = at<COUNT>(inverse + long(h) * q_stride + t);
    }

    template <bool DROPS, int COUNT>
    void end(const Queries<DROPS, COUNT>& group, int h, int t) const {
        const float scale = 1 / std::sqrt(float(HEAD));
        for (int d = 0; d < HEAD; d++)
            at<COUNT>(grad_q + long(h * HEAD + d) * q_stride + t) = group.grad_query[d] * scale;
    }
};

}  // namespace
