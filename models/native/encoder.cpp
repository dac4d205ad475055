// models/layers/encoder.py's Encoder, forward and backward, for float32 on a CPU.
//
// A sample goes through all layers while it is in a core's cache; samples are distributed to
// threads. The layout is channels by tokens, and the tokens are the lanes of the vector registers:
// layer norms and softmaxes then need no sums across lanes, weights are read in their own layout,
// and only the weights' gradients need a transposition. Scores are not stored, but computed again
// in the backward pass.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "call.h"
#include "threads.h"
#include "weights.h"
#include "worker.h"

namespace {

// The number of samples whose gradients are summed together grows with the batch. The sums, and so
// the results, depend on the batch alone, not on the number of threads.
constexpr int64_t SMALLEST_CHUNK = 4, MOST_CHUNKS = 16;

int64_t chunk_size(int64_t batch) {
    return std::max(SMALLEST_CHUNK, (batch + MOST_CHUNKS - 1) / MOST_CHUNKS);
}

struct BackwardState {
    Worker worker;
    std::vector<LayerGrads> layers;
    NormGrads norm;

    explicit BackwardState(const Call& call) : worker(call), layers(call.layers) {}

    // Writes the summed gradients of the samples from `begin` to `end` to `out`.
    void backward(const Weights& weights, int64_t begin, int64_t end, float* out) {
        std::memset(layers.data(), 0, sizeof(LayerGrads) * layers.size());
        std::memset(&norm, 0, sizeof norm);
        for (int64_t sample = begin; sample < end; sample++)
            worker.backward(sample, weights, layers.data(), norm);
        for (const LayerGrads& layer : layers) out = layer.sum(out);
        norm.sum(out);
    }
};

}  // namespace

extern "C" {

int64_t abi() { return ABI; }
int64_t call_size() { return sizeof(Call); }
int64_t kept_size(const Call* call) { return Worker::kept_size(*call); }
int64_t weights_size() { return LAYER_SIZE + NORM_SIZE; }

void forward(const Call* call) {
    const Weights weights(call->weights, call->layers);
    share_out<Worker>(*call, call->batch,
                      [&](Worker& worker, int64_t sample) { worker.forward(sample, weights); });
}

void backward(const Call* call) {
    const Weights weights(call->weights, call->layers);
    const int64_t batch = call->batch, size = chunk_size(batch), chunks = (batch + size - 1) / size;
    const int64_t total = call->layers * LAYER_SIZE + NORM_SIZE;
    std::vector<float> sums(chunks * total);
    share_out<BackwardState>(*call, chunks, [&](BackwardState& state, int64_t chunk) {
        state.backward(weights, chunk * size, std::min(batch, (chunk + 1) * size),
                       sums.data() + chunk * total);
    });
    std::fill(call->grad_weights, call->grad_weights + total, 0.0f);
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t i = 0; i < total; i++) call->grad_weights[i] += sums[chunk * total + i];
}

}  // extern "C"
