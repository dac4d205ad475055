// The encoder on one sample, forward and backward.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <utility>

#include "attention.h"
#include "call.h"
#include "dropout.h"
#include "layer_norm.h"
#include "linear.h"
#include "weights.h"

namespace {

// The values of a layer's forward pass on a sample that its backward pass needs.
struct Kept {
    float *x, *context, *largest, *inverse;
};

// A thread's memory, and the work on one sample.
class Worker {
  public:
    explicit Worker(const Call& call_)
        : call(call_),
          tokens(call.tokens),
          attended_tokens(call.memory_tokens ? call.memory_tokens : tokens),
          stride(padded(tokens)),
          attended_stride(padded(attended_tokens)) {
        const int widest = std::max(stride, attended_stride);
        float** const planes[] = {&memory,      &normed,      &attended, &x_last, &last,
                                  &q,           &y,           &normed_y, &next,   &grad,
                                  &grad_y,      &grad_normed, &grad_q,   &grad_x, &grad_attended,
                                  &grad_memory, &grad_last};
        const long size =
            long(widest + HALF) *
                (D * std::size(planes) + 4 * D + 2 * F + std::max(D, F) + LANES) +
            (call.kept ? 0 : kept_size(call));
        storage.reset(static_cast<float*>(std::aligned_alloc(64, (size * 4 + 63) / 64 * 64)));
        if (!storage) std::abort();
        float* next_free = storage.get();
        const auto take = [&](long count) { return std::exchange(next_free, next_free + count); };
        for (float** plane : planes) *plane = take(D * widest);
        kv = take(2 * D * widest);
        grad_kv = take(2 * D * widest);
        hidden = take(F * widest);
        grad_hidden = take(F * widest);
        by_token = take(std::max(D, F) * (widest + HALF));
        scores = take(LANES * widest);
        own_kept = next_free;
    }

    static int64_t kept_size(const Call& call) {
        const int64_t all = padded(call.tokens), last = padded(call.queries);
        return (call.layers - 1) * (2 * D + 2 * H) * all + (D * all + (D + 2 * H) * last) +
               D * last;
    }

    void forward(int64_t sample, const Weights& weights) {
        begin(sample);
        embed(call.x + sample * tokens * D, tokens, stride, kept(0).x);
        for (int n = 0; n < call.layers; n++) {
            const Kept saved = kept(n);
            const LayerWeights& w = weights.layers[n];
            project(w, saved.x, n);
            attend_to(sample, n, saved);
            feed_forward(w, saved.context);
            float* out = kept(n + 1).x;
            std::memcpy(out, y, sizeof(float) * D * q_stride);
            for (int c = 0; c < D; c++)
                each(q_stride, [&](auto lanes, int t) {
                    at<lanes>(out + c * q_stride + t) += w.b2[c];
                });
            add_product(w.w2, F, 1, hidden, q_stride, out, q_stride, D, q_stride, F);
        }
        layer_norm(kept(call.layers).x, weights.norm.gamma, weights.norm.beta, y, q_stride);
        to_tokens(y, D, q_stride, queries, by_token);
        std::memcpy(call.out + sample * queries * D, by_token, sizeof(float) * queries * D);
    }

    void backward(int64_t sample, const Weights& weights, LayerGrads* grads,
                  NormGrads& norm_grads) {
        begin(sample);
        select(call.layers - 1);
        clear(grad_memory, D, attended_stride);
        clear(y, D, q_stride);
        const float* grad_out = call.grad_out + sample * queries * D;
        for (int t = 0; t < queries; t++)
            for (int c = 0; c < D; c++) y[c * q_stride + t] = grad_out[t * D + c];
        clear(grad, D, q_stride);
        layer_norm_backward(y, kept(call.layers).x, weights.norm.gamma, norm_grads.gamma,
                            norm_grads.beta, grad, q_stride);
        for (int n = call.layers - 1; n >= 0; n--)
            layer_backward(sample, weights.layers[n], grads[n], n);
        write_embedded_grad(grad, tokens, stride, call.grad_x + sample * tokens * D);
        if (call.memory_tokens)
            write_embedded_grad(grad_memory, attended_tokens, attended_stride,
                                call.grad_memory + sample * attended_tokens * D);
    }

  private:
    const Call& call;
    const int tokens, attended_tokens, stride, attended_stride;
    int queries = 0, q_stride = 0;  // of the current layer
    struct Free {
        void operator()(float* block) const { std::free(block); }
    };
    std::unique_ptr<float, Free> storage;
    float *memory, *normed, *attended, *x_last, *last, *q, *y, *normed_y, *next, *grad, *grad_y,
        *grad_normed, *grad_q, *grad_x, *grad_attended, *grad_memory, *grad_last;
    float *kv, *grad_kv, *hidden, *grad_hidden, *by_token, *scores, *own_kept, *kept_here = nullptr;

    static void clear(float* plane, int channels, int plane_stride) {
        std::memset(plane, 0, sizeof(float) * channels * plane_stride);
    }

    void begin(int64_t sample) {
        kept_here = call.kept ? call.kept + sample * kept_size(call) : own_kept;
        if (call.memory_tokens)
            embed(call.memory + sample * attended_tokens * D, attended_tokens, attended_stride,
                  memory);
    }

    // Sets the number of output tokens of a layer.
    void select(int layer) {
        queries = layer == call.layers - 1 ? int(call.queries) : tokens;
        q_stride = padded(queries);
    }

    Kept kept(int layer) const {
        float* x = kept_here + int64_t(layer) * (2 * D + 2 * H) * stride;
        const int plane_stride = layer >= call.layers - 1 ? padded(call.queries) : stride;
        if (layer == call.layers) x = kept(layer - 1).inverse + H * plane_stride;
        float* context = x + D * stride;
        float* largest = context + D * plane_stride;
        return {x, context, largest, largest + H * plane_stride};
    }

    void embed(const float* x, int count, int plane_stride, float* out) const {
        const float scale = std::sqrt(float(D));
        clear(out, D, plane_stride);
        for (int t = 0; t < count; t++)
            for (int c = 0; c < D; c++)
                out[c * plane_stride + t] =
                    scale * x[t * D + c] + (x[t * D] != 0 ? call.positions[t * D + c] : 0);
    }

    void write_embedded_grad(const float* plane_grad, int count, int plane_stride, float* out) {
        to_tokens(plane_grad, D, plane_stride, count, by_token);
        const float scale = std::sqrt(float(D));
        for (int i = 0; i < count * D; i++) out[i] = scale * by_token[i];
    }

    // The columns of x that the layer outputs: x itself, or a copy of the last ones.
    float* last_columns(float* x, float* copy) const {
        if (queries == tokens) return x;
        clear(copy, D, q_stride);
        for (int c = 0; c < D; c++)
            std::memcpy(copy + c * q_stride, x + c * stride + tokens - queries,
                        sizeof(float) * queries);
        return copy;
    }

    void add_to_last(const float* from, float* to) const {
        for (int c = 0; c < D; c++)
            for (int t = 0; t < queries; t++)
                to[c * stride + tokens - queries + t] += from[c * q_stride + t];
    }

    // Sets x_in, normed_in, keys_in, q and kv.
    float *x_in = nullptr, *normed_in = nullptr, *keys_in = nullptr;
    void project(const LayerWeights& w, float* x, int layer) {
        select(layer);
        layer_norm(x, w.gamma0, w.beta0, normed, stride);
        keys_in = normed;
        if (call.memory_tokens) {
            layer_norm(memory, w.gamma0, w.beta0, attended, attended_stride);
            keys_in = attended;
        }
        x_in = last_columns(x, x_last);
        normed_in = last_columns(normed, last);
        linear(w.w_in, w.b_in, normed_in, q, D, D, q_stride);
        const float scale = 1 / (std::sqrt(float(HEAD)) * LN_2);
        for (int i = 0; i < D * q_stride; i += LANES) at(q + i) *= scale;
        linear(w.w_in + D * D, w.b_in + D, keys_in, kv, D, 2 * D, attended_stride);
    }

    void attend_to(int64_t sample, int layer, const Kept& saved) {
        const Dropout dropout(call, sample, layer, queries);
        const auto run = dropout.active ? attend<true> : attend<false>;
        run(q, kv, kv + D * attended_stride, q_stride, attended_stride, attended_tokens, dropout,
            scores, saved.context, saved.largest, saved.inverse);
    }

    // Sets y, normed_y and hidden.
    void feed_forward(const LayerWeights& w, const float* context) {
        linear(w.w_out, w.b_out, context, y, D, D, q_stride);
        for (int i = 0; i < D * q_stride; i += LANES) at(y + i) += at(x_in + i);
        layer_norm(y, w.gamma1, w.beta1, normed_y, q_stride);
        linear(w.w1, w.b1, normed_y, hidden, D, F, q_stride);
        for (int i = 0; i < F * q_stride; i += LANES)
            at(hidden + i) = at(hidden + i) < 0.0f ? Vector{} : at(hidden + i);
    }

    // Turns `grad` from the gradient of the layer's output into that of its input.
    void layer_backward(int64_t sample, const LayerWeights& w, LayerGrads& grads, int layer) {
        const Kept saved = kept(layer);
        project(w, saved.x, layer);
        feed_forward(w, saved.context);

        linear_weight_grad(grad, hidden, grads.w2, grads.b2, F, D, q_stride, queries, by_token);
        linear_backward(w.w2, grad, grad_hidden, F, D, q_stride);
        for (int i = 0; i < F * q_stride; i += LANES)
            at(grad_hidden + i) = at(hidden + i) > 0.0f ? at(grad_hidden + i) : Vector{};
        linear_weight_grad(grad_hidden, normed_y, grads.w1, grads.b1, D, F, q_stride, queries,
                           by_token);
        linear_backward(w.w1, grad_hidden, grad_normed, D, F, q_stride);
        std::memcpy(grad_y, grad, sizeof(float) * D * q_stride);
        layer_norm_backward(grad_normed, y, w.gamma1, grads.gamma1, grads.beta1, grad_y, q_stride);

        linear_weight_grad(grad_y, saved.context, grads.w_out, grads.b_out, D, D, q_stride, queries,
                           by_token);
        linear_backward(w.w_out, grad_y, grad_normed, D, D, q_stride);
        attention_backward(sample, layer, saved, grad_normed);
        linear_weight_grad(grad_q, normed_in, grads.w_in, grads.b_in, D, D, q_stride, queries,
                           by_token);
        linear_weight_grad(grad_kv, keys_in, grads.w_in + D * D, grads.b_in + D * LANES, D, 2 * D,
                           attended_stride, attended_tokens, by_token);
        linear_backward(w.w_in, grad_q, grad_last, D, D, q_stride);
        linear_backward(w.w_in + D * D, grad_kv, grad_attended, D, 2 * D, attended_stride);
        float* through_norm = grad_attended;
        if (call.memory_tokens) {
            layer_norm_backward(grad_attended, memory, w.gamma0, grads.gamma0, grads.beta0,
                                grad_memory, attended_stride);
            clear(grad_x, D, stride);
            through_norm = grad_x;
        }
        add_to_last(grad_last, through_norm);
        clear(next, D, stride);
        layer_norm_backward(through_norm, saved.x, w.gamma0, grads.gamma0, grads.beta0, next,
                            stride);
        add_to_last(grad_y, next);
        std::swap(grad, next);
    }

    void attention_backward(int64_t sample, int layer, const Kept& saved,
                            const float* grad_context) {
        const Dropout dropout(call, sample, layer, queries);
        clear(grad_kv, 2 * D, attended_stride);
        const AttentionBackward backward{
            q, kv, kv + D * attended_stride, q_stride, attended_stride, attended_tokens, dropout,
            saved.context, saved.largest, saved.inverse, grad_context, grad_q, grad_kv,
            grad_kv + D * attended_stride};
        for (int h = 0; h < H; h++)
            dropout.active ? backward.of_head<true>(h) : backward.of_head<false>(h);
    }
};

}  // namespace
