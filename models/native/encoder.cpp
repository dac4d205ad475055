// models/layers/encoder.py's Encoder, forward and backward, for float32 on a CPU.
//
// One sample goes through all layers while it lies in a core's cache; samples are shared out to
// the threads. Values stand channels by tokens, and the tokens are the lanes of the vector
// registers: layer norms and softmaxes then need no sums across lanes, weights are read as they
// are, and only the weights' gradients want anything transposed. Scores are not stored but made
// again in the backward pass.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "call.h"
#include "threads.h"
#include "weights.h"
#include "worker.h"

namespace {

// Samples whose gradients are added up together: a few, and more where there are many. The sums,
// and so the results, depend on the batch alone, not on the threads.
constexpr int64_t SMALLEST_CHUNK = 4, MOST_CHUNKS = 16;

int64_t chunk_size(int64_t batch) {
    return std::max(SMALLEST_CHUNK, (batch + MOST_CHUNKS - 1) / MOST_CHUNKS);
}

const LayerWeights* layer_weights(const Call& call) {
    return reinterpret_cast<const LayerWeights*>(call.weights);
}

const NormWeights& norm_weights(const Call& call) {
    return *reinterpret_cast<const NormWeights*>(layer_weights(call) + call.layers);
}

struct Grads {
    std::vector<LayerGrads> layers;
    NormGrads norm;
};

}  // namespace

extern "C" {

int64_t abi() { return ABI; }
int64_t call_size() { return sizeof(Call); }
int64_t kept_size(const Call* call) { return Worker::kept_size(*call); }

// The weights in the order of Call::weights, to a name that is null.
struct Weight {
    const char* name;
    int64_t rows, columns;
};
#define WEIGHT(name, full, rows, columns) {full, rows, columns},
const Weight* layer_weight_list() {
    static const Weight list[] = {LAYER_WEIGHTS(WEIGHT){nullptr, 0, 0}};
    return list;
}
const Weight* norm_weight_list() {
    static const Weight list[] = {NORM_WEIGHTS(WEIGHT){nullptr, 0, 0}};
    return list;
}

void forward(const Call* call) {
    share_out(call->batch, call->threads, [&](const auto& next) {
        Worker worker(*call);
        for (int64_t sample; (sample = next()) < call->batch;)
            worker.forward(sample, layer_weights(*call), norm_weights(*call));
    });
}

void backward(const Call* call) {
    const int64_t size = chunk_size(call->batch), chunks = (call->batch + size - 1) / size;
    const int64_t grads_size = call->layers * LAYER_SIZE + NORM_SIZE;
    std::vector<float> sums(chunks * grads_size);
    share_out(chunks, call->threads, [&](const auto& next) {
        Worker worker(*call);
        Grads grads;
        for (int64_t chunk; (chunk = next()) < chunks;) {
            grads.layers.assign(call->layers, {});
            grads.norm = {};
            const int64_t end = std::min(call->batch, (chunk + 1) * size);
            for (int64_t sample = chunk * size; sample < end; sample++)
                worker.backward(sample, layer_weights(*call), grads.layers.data(),
                                norm_weights(*call), grads.norm);
            float* out = sums.data() + chunk * grads_size;
            for (const LayerGrads& layer : grads.layers) out = layer.sum(out);
            grads.norm.sum(out);
        }
    });
    std::fill_n(call->grad_weights, grads_size, 0.0f);
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t i = 0; i < grads_size; i++)
            call->grad_weights[i] += sums[chunk * grads_size + i];
}

}  // extern "C"
