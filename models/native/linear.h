// Matrix products, and the linear layer.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "vectors.h"

namespace {

constexpr int TILE_ROWS = LANES / 2;  // of two vectors each: the registers' limit

// Calls `work` with 0, 1, ... below COUNT as constants: GCC keeps an array in registers only if its
// indices are constants, and unrolls loops too late for that.
template <int COUNT, typename Work>
inline __attribute__((always_inline)) void unrolled(const Work& work) {
    if constexpr (COUNT > 0) {
        unrolled<COUNT - 1>(work);
        work(std::integral_constant<int, COUNT - 1>{});
    }
}

template <int ROWS, int VECTORS, int COUNT = LANES>
void tile(const float* a, long row, long column, const float* b, long b_row, float* c, long c_row,
          int inner) {
    typename Lanes<COUNT>::Vector sum[ROWS][VECTORS];
    unrolled<ROWS>([&](auto r) {
        unrolled<VECTORS>([&](auto v) { sum[r][v] = at<COUNT>(c + r * c_row + v * COUNT); });
    });
    for (int k = 0; k < inner; k++) {
        typename Lanes<COUNT>::Vector factor[VECTORS];
        unrolled<VECTORS>([&](auto v) { factor[v] = at<COUNT>(b + k * b_row + v * COUNT); });
        unrolled<ROWS>([&](auto r) {
            unrolled<VECTORS>([&](auto v) { sum[r][v] += a[r * row + k * column] * factor[v]; });
        });
    }
    unrolled<ROWS>([&](auto r) {
        unrolled<VECTORS>([&](auto v) { at<COUNT>(c + r * c_row + v * COUNT) = sum[r][v]; });
    });
}

template <int ROWS, int VECTORS, int COUNT = LANES>
void tiles(const float* a, long row, long column, const float* b, long b_row, float* c, long c_row,
           int rows, int inner) {
    for (int r = 0; r < rows; r += ROWS)
        tile<ROWS, VECTORS, COUNT>(a + r * row, row, column, b, b_row, c + r * c_row, c_row, inner);
}

// c (rows, columns) += a (rows, inner) b (inner, columns). `row` and `column` are a's strides, so
// that it can be read transposed. `rows` is a multiple of 8, `columns` of HALF.
void add_product(const float* a, long row, long column, const float* b, long b_row, float* c,
                 long c_row, int rows, int columns, int inner) {
    int n = 0;
    for (; n + 2 * LANES <= columns; n += 2 * LANES)
        tiles<TILE_ROWS, 2>(a, row, column, b + n, b_row, c + n, c_row, rows, inner);
    each(columns - n, [&](auto lanes, int t) {
        tiles<8, 1, lanes>(a, row, column, b + n + t, b_row, c + n + t, c_row, rows, inner);
    });
}

// out = weight x + bias
void linear(const float* weight, const float* bias, const float* x, float* out, int inputs,
            int outputs, int stride) {
    for (int c = 0; c < outputs; c++)
        std::fill(out + c * stride, out + (c + 1) * stride, bias[c]);
    add_product(weight, inputs, 1, x, stride, out, stride, outputs, stride, inputs);
}

// out = weight^T grad
void linear_backward(const float* weight, const float* grad, float* out, int inputs, int outputs,
                     int stride) {
    std::memset(out, 0, sizeof(float) * inputs * stride);
    add_product(weight, 1, inputs, grad, stride, out, stride, inputs, stride, outputs);
}

// The weight's gradient += grad x^T; the bias's, not yet summed over lanes, += grad.
void linear_weight_grad(const float* grad, const float* x, float* weight_grad, float* bias_grad,
                        int inputs, int outputs, int stride, int tokens, float* scratch) {
    to_tokens(x, inputs, stride, tokens, scratch);
    add_product(grad, stride, 1, scratch, inputs, weight_grad, inputs, outputs, inputs, tokens);
    for (int c = 0; c < outputs; c++)
        each(stride, [&](auto lanes, int t) {
            at<lanes>(bias_grad + c * LANES) += at<lanes>(grad + c * stride + t);
        });
}

}  // namespace
