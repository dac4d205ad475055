// models/encoder.py's Encoder, forward and backward, for float32 on a CPU.
//
// One sample goes through all layers while it lies in a core's cache; samples are shared out to
// the threads. Values stand channels by tokens, and the tokens are the lanes of the vector
// registers: layer norms and softmaxes then need no sums across lanes, weights are read as they
// are, and only the weights' gradients want anything transposed. Scores are not stored but made
// again in the backward pass.

#include <omp.h>

#include <cstdint>
#include <vector>

#include "call.h"
#include "weights.h"
#include "worker.h"

extern "C" {

int64_t kept_size(const Call* call) { return Worker::kept_size(*call); }

// weights: LayerWeights of each layer, then the last norm's two.
void forward(const Call* call, const float* const* weights) {
    const auto* layers = reinterpret_cast<const LayerWeights*>(weights);
    const float* const* norm = weights + N_WEIGHTS * call->layers;
#pragma omp parallel num_threads(int(call->threads))
    {
        Worker worker(*call);
#pragma omp for schedule(static)
        for (int64_t sample = 0; sample < call->batch; sample++)
            worker.forward(sample, layers, norm[0], norm[1]);
    }
}

// grad_weights: as weights; written.
void backward(const Call* call, const float* const* weights, float* const* grad_weights) {
    const auto* layers = reinterpret_cast<const LayerWeights*>(weights);
    const float* gamma = weights[N_WEIGHTS * call->layers];
    struct alignas(64) NormGrads {
        float gamma[D * LANES], beta[D * LANES];
    };
    struct Found {
        std::vector<LayerGrads> layers;
        NormGrads norm = {};
    };
    std::vector<Found> found(call->threads);
#pragma omp parallel num_threads(int(call->threads))
    {
        Worker worker(*call);
        Found& mine = found[omp_get_thread_num()];
        mine.layers.resize(call->layers);
#pragma omp for schedule(static)
        for (int64_t sample = 0; sample < call->batch; sample++)
            worker.backward(sample, layers, mine.layers.data(), gamma, mine.norm.gamma,
                            mine.norm.beta);
#pragma omp for schedule(static)
        for (int64_t layer = 0; layer < call->layers; layer++) {
            std::vector<const float*> grads;
            for (const Found& its : found)
                if (!its.layers.empty()) grads.push_back(its.layers[layer].w_in);
            add_up(grads, SIZES, IS_MATRIX, N_WEIGHTS, grad_weights + N_WEIGHTS * layer);
        }
    }
    std::vector<const float*> grads;
    for (const Found& its : found) grads.push_back(its.norm.gamma);
    add_up(grads, NORM_SIZES, NORM_IS_MATRIX, 2, grad_weights + N_WEIGHTS * call->layers);
}

}  // extern "C"
