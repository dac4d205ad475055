// The recurrence of models/layers/lstm.py's LSTM, forward and backward, for float32 on a CPU.
//
// A few samples go through all steps together: a step is then a product of matrices, and the
// weights stay in a core's cache. Such groups are shared out to the threads. Values stand as they
// do in PyTorch, and the channels are the lanes of the vector registers.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "linear.h"
#include "threads.h"
#include "vectors.h"

namespace {

// lstm.py has the same.
struct Call {
    int64_t threads, has_own_threads;   // and not PyTorch's
    int64_t batch, steps, hidden;       // B, T, H
    const float* weight;                // (4 H / PANEL, H, PANEL); backward (H / PANEL, 4 H, PANEL)
    float *gates, *cells, *out;         // (B, T, 4 H): the input's share, then gates; (B, T, H)
    const float *grad_out, *grad_cell;  // (B, T, H); (B, H), of the last step
    float* grad_sums;                   // (B, T, 4 H): of what the gates' functions take
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
                multiply(call.out + place(0, t - 1), hidden, call.gates + 4 * place(0, t),
                         4 * hidden, call.steps);
            for (int row = 0; row < rows; row++) step(place(row, t), t);
        }
    }

    void backward(int64_t group) {
        begin(group);
        const float* last = call.grad_cell + first * hidden;
        std::copy(last, last + rows * hidden, grad_cell);
        for (int64_t t = call.steps; t--;) {
            for (int row = 0; row < rows; row++) {
                const float* grad = call.grad_out + place(row, t);
                std::copy(grad, grad + hidden, grad_state + row * hidden);
            }
            if (t + 1 < call.steps)
                multiply(call.grad_sums + 4 * place(0, t + 1), 4 * hidden, grad_state, hidden, 1);
            for (int row = 0; row < rows; row++) step_backward(row, place(row, t), t);
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

    // Where a sample's channels stand at a step in (B, T, H).
    int64_t place(int row, int64_t t) const { return ((first + row) * call.steps + t) * hidden; }

    // to (rows, columns) += from (rows, inner) weight; `to` has `apart` rows for each of these.
    void multiply(const float* from, int64_t inner, float* to, int64_t columns,
                  int64_t apart) const {
        constexpr decltype(&tile<1, 2>) parts[] = {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>,
                                                   tile<5, 2>, tile<6, 2>, tile<7, 2>, tile<8, 2>};
        static_assert(ROWS <= 8);
        for (int64_t c = 0; c < columns; c += 2 * LANES)
            parts[rows - 1](from, call.steps * inner, 1,
                            call.weight + c / PANEL * PANEL * inner + c % PANEL, PANEL, to + c,
                            apart * columns, inner);
    }

    void step(int64_t place, int64_t t) {
        float* gates = call.gates + 4 * place;
        for (int64_t c = 0; c < hidden; c += LANES) {
            Vector &input = at(gates + c), &forget = at(gates + hidden + c),
                   &fresh = at(gates + 2 * hidden + c), &output = at(gates + 3 * hidden + c);
            const Vector before = t ? at(call.cells + place - hidden + c) : Vector{};
            input = sigmoid(input);
            forget = sigmoid(forget);
            fresh = tanh_of(fresh);
            output = sigmoid(output);
            const Vector cell = forget * before + input * fresh;
            at(call.cells + place + c) = cell;
            at(call.out + place + c) = output * tanh_of(cell);
        }
    }

    void step_backward(int row, int64_t place, int64_t t) {
        const float* gates = call.gates + 4 * place;
        float* sums = call.grad_sums + 4 * place;
        for (int64_t c = 0; c < hidden; c += LANES) {
            const Vector input = at(gates + c), forget = at(gates + hidden + c),
                         fresh = at(gates + 2 * hidden + c), output = at(gates + 3 * hidden + c);
            const Vector before = t ? at(call.cells + place - hidden + c) : Vector{};
            const Vector shown = tanh_of(at(call.cells + place + c));
            const Vector grad = at(grad_state + row * hidden + c);
            Vector& carried = at(grad_cell + row * hidden + c);
            const Vector to_cell = carried + grad * output * (1.0f - shown * shown);
            at(sums + c) = to_cell * fresh * input * (1.0f - input);
            at(sums + hidden + c) = to_cell * before * forget * (1.0f - forget);
            at(sums + 2 * hidden + c) = to_cell * input * (1.0f - fresh * fresh);
            at(sums + 3 * hidden + c) = grad * shown * output * (1.0f - output);
            carried = to_cell * forget;
        }
    }
};

template <typename Work>
void share_groups(const Call& call, const Work& work) {
    const int64_t groups = (call.batch + ROWS - 1) / ROWS;
    std::vector<Group> states;
    states.reserve(call.threads);  // they point into their own memory
    while (int64_t(states.size()) < std::min(groups, call.threads)) states.emplace_back(call);
    share_out(groups, states, call.has_own_threads, work);
}

}  // namespace

extern "C" {

void lstm_forward(const Call* call) {
    share_groups(*call, [](Group& group, int64_t number) { group.forward(number); });
}
void lstm_backward(const Call* call) {
    share_groups(*call, [](Group& group, int64_t number) { group.backward(number); });
}

}  // extern "C"
