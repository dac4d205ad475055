// The recurrence of models/layers/lstm.py's LSTM, forward and backward, for float32 on a CPU.
//
// A group of samples takes all steps together: a step is then a product of matrices, and the
// weights stay in a core's cache. The groups are distributed to the threads. The layout is that of
// PyTorch, and the channels are the lanes of the vector registers.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "linear.h"
#include "threads.h"
#include "vectors.h"

namespace {

// lstm.py has the same fields.
struct Call {
    int64_t threads, has_own_threads;   // new threads instead of PyTorch's
    int64_t batch, steps, hidden;       // B, T, H
    const float* weight;                // (4 H / PANEL, H, PANEL); backward (H / PANEL, 4 H, PANEL)
    float *gates, *cells, *out;         // (B, T, 4 H): the input's share, then gates; (B, T, H)
    const float *grad_out, *grad_cell;  // (B, T, H); (B, H), of the last step
    float* grad_sums;                   // (B, T, 4 H): gradients of the gates' arguments
};

constexpr int ROWS = TILE_ROWS;  // samples of a group

Vector sigmoid(Vector x) {
    const Vector power = power_of_two((x > 0.0f ? -x : x) * (1 / LN_2));
    return (x > 0.0f ? same(1) : power) / (1.0f + power);
}

Vector tanh_of(Vector x) {
    const Vector power = power_of_two_less_one((x > 0.0f ? -x : x) * (2 / LN_2));
    const Vector size = power / (2.0f + power);
    return x > 0.0f ? -size : size;
}

// A thread's memory, and the work on a group of samples.
class Group {
  public:
    explicit Group(const Call& call_)
        : call(call_), hidden(call.hidden), storage(2 * ROWS * hidden / PANEL) {
        grad_state = storage.data()->values;
        grad_cell = grad_state + ROWS * hidden;
    }

    void forward(int64_t group) {
        begin(group);
        for (int64_t t = 0; t < call.steps; t++) {
            if (t)
                multiply(call.out + start(0, t - 1), hidden, call.gates + 4 * start(0, t),
                         4 * hidden, call.steps);
            for (int row = 0; row < rows; row++) step(start(row, t), t);
        }
    }

    void backward(int64_t group) {
        begin(group);
        const float* last = call.grad_cell + first * hidden;
        std::copy(last, last + rows * hidden, grad_cell);
        for (int64_t t = call.steps; t--;) {
            for (int row = 0; row < rows; row++) {
                const float* grad = call.grad_out + start(row, t);
                std::copy(grad, grad + hidden, grad_state + row * hidden);
            }
            if (t + 1 < call.steps)
                multiply(call.grad_sums + 4 * start(0, t + 1), 4 * hidden, grad_state, hidden, 1);
            for (int row = 0; row < rows; row++) step_backward(row, start(row, t), t);
        }
    }

  private:
    struct alignas(64) Line {
        float values[PANEL];
    };
    const Call& call;
    const int64_t hidden;
    std::vector<Line> storage;
    float *grad_state, *grad_cell;  // (ROWS, H)
    int64_t first = 0;
    int rows = 0;

    void begin(int64_t group) {
        first = group * ROWS;
        rows = std::min<int64_t>(ROWS, call.batch - first);
    }

    // The offset in (B, T, H) of a sample's channels at a step.
    int64_t start(int row, int64_t t) const { return ((first + row) * call.steps + t) * hidden; }

    // to (rows, columns) += from (rows, inner) weight, in every `row_stride`-th row of `to`.
    void multiply(const float* from, int64_t inner, float* to, int64_t columns,
                  int64_t row_stride) const {
        constexpr decltype(&tile<1, 2>) parts[] = {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>,
                                                   tile<5, 2>, tile<6, 2>, tile<7, 2>, tile<8, 2>};
        static_assert(ROWS <= 8);
        for (int64_t c = 0; c < columns; c += 2 * LANES)
            parts[rows - 1](from, call.steps * inner, 1,
                            call.weight + c / PANEL * PANEL * inner + c % PANEL, PANEL, to + c,
                            row_stride * columns, inner);
    }

    void step(int64_t offset, int64_t t) {
        float* gates = call.gates + 4 * offset;
        for (int64_t c = 0; c < hidden; c += LANES) {
            Vector &input = at(gates + c), &forget = at(gates + hidden + c),
                   &candidate = at(gates + 2 * hidden + c), &output = at(gates + 3 * hidden + c);
            const Vector previous = t ? at(call.cells + offset - hidden + c) : Vector{};
            input = sigmoid(input);
            forget = sigmoid(forget);
            candidate = tanh_of(candidate);
            output = sigmoid(output);
            const Vector cell = forget * previous + input * candidate;
            at(call.cells + offset + c) = cell;
            at(call.out + offset + c) = output * tanh_of(cell);
        }
    }

    void step_backward(int row, int64_t offset, int64_t t) {
        const float* gates = call.gates + 4 * offset;
        float* sums = call.grad_sums + 4 * offset;
        for (int64_t c = 0; c < hidden; c += LANES) {
            const Vector input = at(gates + c), forget = at(gates + hidden + c),
                         candidate = at(gates + 2 * hidden + c),
                         output = at(gates + 3 * hidden + c);
            const Vector previous = t ? at(call.cells + offset - hidden + c) : Vector{};
            const Vector cell_tanh = tanh_of(at(call.cells + offset + c));
            const Vector grad = at(grad_state + row * hidden + c);
            Vector& cell_grad = at(grad_cell + row * hidden + c);
            const Vector to_cell = cell_grad + grad * output * (1.0f - cell_tanh * cell_tanh);
            at(sums + c) = to_cell * candidate * input * (1.0f - input);
            at(sums + hidden + c) = to_cell * previous * forget * (1.0f - forget);
            at(sums + 2 * hidden + c) = to_cell * input * (1.0f - candidate * candidate);
            at(sums + 3 * hidden + c) = grad * cell_tanh * output * (1.0f - output);
            cell_grad = to_cell * forget;
        }
    }
};

int64_t groups(const Call& call) { return (call.batch + ROWS - 1) / ROWS; }

}  // namespace

extern "C" {

void lstm_forward(const Call* call) {
    share_out<Group>(*call, groups(*call), [](Group& group, int64_t n) { group.forward(n); });
}
void lstm_backward(const Call* call) {
    share_out<Group>(*call, groups(*call), [](Group& group, int64_t n) { group.backward(n); });
}

}  // extern "C"
