// models/encoder.py's Encoder, forward and backward, for float32 on a CPU.
//
// One sample goes through all layers while it lies in a core's cache; samples are shared out to
// the threads. Values stand channels by tokens, and the tokens are the lanes of the vector
// registers: layer norms and softmaxes then need no sums across lanes, weights are read as they
// are, and only the weights' gradients want anything transposed. Scores are not stored but made
// again in the backward pass.
//
// WIDTH, HEADS and FEEDFORWARD come from the compiler's command line; see cpu_encoder.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include <omp.h>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 4;  // TILE: vectors side by side in a product's inner tile
#else
constexpr int LANES = 8, TILE = 2;
#endif
typedef float Vector __attribute__((vector_size(LANES * 4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4), may_alias));
typedef float Four __attribute__((vector_size(16), may_alias));

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Bits){__VA_ARGS__})
#endif
#if defined(__AVX512F__)
#define PAIRS_LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define PAIRS_HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define HALVES_LOW 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HALVES_HIGH 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#else
#define PAIRS_LOW 0, 8, 1, 9, 4, 12, 5, 13
#define PAIRS_HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define HALVES_LOW 0, 1, 8, 9, 4, 5, 12, 13
#define HALVES_HIGH 2, 3, 10, 11, 6, 7, 14, 15
#endif

constexpr int D = WIDTH, H = HEADS, HEAD = D / H, F = FEEDFORWARD;
static_assert(D % 16 == 0 && F % 16 == 0 && D % H == 0 && HEAD % 4 == 0, "sizes");
constexpr float EPSILON = 1e-5f;  // of the layer norms
constexpr float LN_2 = 0.693147181f;

int padded(int tokens) { return (tokens + LANES - 1) / LANES * LANES; }
Vector& at(float* x) { return *reinterpret_cast<Vector*>(x); }
const Vector& at(const float* x) { return *reinterpret_cast<const Vector*>(x); }
Vector same(float value) { return Vector{} + value; }

// What a caller passes; cpu_encoder.py has the same.
struct Call {
    int64_t batch, tokens, memory_tokens, queries, layers;  // memory_tokens 0: self-attention
    const float *x, *memory;                                // (B, T, D), (B, M, D)
    const float* positions;                                 // (max(T, M), D)
    const uint32_t* dropout_keys;                           // (B), or null: no dropout
    double keep;                                            // the share dropout keeps
    float* kept;                                            // (B, kept_size), for backward
    float* out;                                             // (B, Q, D)
    const float* grad_out;
    float *grad_x, *grad_memory;
};

// ---- products -----------------------------------------------------------------------------

template <int ROWS, int VECTORS>
void tile(const float* a, long row, long column, const float* b, long b_row, float* c, long c_row,
          int inner) {
    Vector sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) sum[r][v] = at(c + r * c_row + v * LANES);
    for (int k = 0; k < inner; k++) {
        Vector factor[VECTORS];
        for (int v = 0; v < VECTORS; v++) factor[v] = at(b + k * b_row + v * LANES);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECTORS; v++) sum[r][v] += a[r * row + k * column] * factor[v];
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) at(c + r * c_row + v * LANES) = sum[r][v];
}

template <int ROWS, int VECTORS>
void tiles(const float* a, long row, long column, const float* b, long b_row, float* c, long c_row,
           int rows, int inner) {
    for (int r = 0; r < rows; r += ROWS)
        tile<ROWS, VECTORS>(a + r * row, row, column, b, b_row, c + r * c_row, c_row, inner);
}

// c (rows, columns) += a (rows, inner) b (inner, columns); a's strides are given, so that it may
// be read transposed. `rows` is a multiple of 8, `columns` of LANES.
void add_product(const float* a, long row, long column, const float* b, long b_row, float* c,
                 long c_row, int rows, int columns, int inner) {
    for (int n = 0; n < columns; n += TILE * LANES) {
        const int vectors = (columns - n) / LANES;
        const auto part = [&](auto multiply) {
            multiply(a, row, column, b + n, b_row, c + n, c_row, rows, inner);
        };
        if (vectors >= TILE) part(tiles<4, TILE>);
        else if (vectors == 3) part(tiles<4, 3>);
        else if (vectors == 2) part(tiles<8, 2>);
        else part(tiles<8, 1>);
    }
}

// Four rows of lanes to each lane's four values, group by group of four lanes.
void transpose(const Vector (&rows)[4], Vector (&groups)[4]) {
    const Vector low01 = SHUFFLE(rows[0], rows[1], PAIRS_LOW);
    const Vector high01 = SHUFFLE(rows[0], rows[1], PAIRS_HIGH);
    const Vector low23 = SHUFFLE(rows[2], rows[3], PAIRS_LOW);
    const Vector high23 = SHUFFLE(rows[2], rows[3], PAIRS_HIGH);
    groups[0] = SHUFFLE(low01, low23, HALVES_LOW);
    groups[1] = SHUFFLE(low01, low23, HALVES_HIGH);
    groups[2] = SHUFFLE(high01, high23, HALVES_LOW);
    groups[3] = SHUFFLE(high01, high23, HALVES_HIGH);
}

// The sums over the lanes of four vectors.
Four lane_sums(const Vector (&rows)[4]) {
    Vector groups[4];
    transpose(rows, groups);
    const Vector sums = (groups[0] + groups[1]) + (groups[2] + groups[3]);
    Four result = {};
    for (int part = 0; part < LANES / 4; part++)
        result += reinterpret_cast<const Four*>(&sums)[part];
    return result;
}

// x (channels, stride) to tokens by channels.
void to_tokens(const float* x, int channels, int stride, int tokens, float* out) {
    for (int c = 0; c < channels; c += 4)
        for (int t = 0; t < tokens; t += LANES) {
            Vector rows[4], groups[4];
            for (int r = 0; r < 4; r++) rows[r] = at(x + (c + r) * stride + t);
            transpose(rows, groups);
            for (int g = 0; g < 4; g++)
                for (int part = 0; part < LANES / 4; part++)
                    *reinterpret_cast<Four*>(out + (t + 4 * part + g) * channels + c) =
                        reinterpret_cast<const Four*>(&groups[g])[part];
        }
}

// out = weight x + bias
void linear(const float* weight, const float* bias, const float* x, float* out, int inputs,
            int outputs, int stride) {
    for (int c = 0; c < outputs; c++)
        for (int t = 0; t < stride; t += LANES) at(out + c * stride + t) = same(bias[c]);
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
        for (int t = 0; t < stride; t += LANES) at(bias_grad + c * LANES) += at(grad + c * stride + t);
}

// ---- layer norm ---------------------------------------------------------------------------

struct Moments {
    Vector mean, inverse_deviation;
};

Moments moments(const float* x, int stride) {
    Vector mean = {}, variance = {};
    for (int c = 0; c < D; c++) mean += at(x + c * stride);
    mean *= 1.0f / D;
    for (int c = 0; c < D; c++) {
        const Vector distance = at(x + c * stride) - mean;
        variance += distance * distance;
    }
    Vector inverse;
    for (int lane = 0; lane < LANES; lane++)
        inverse[lane] = 1.0f / std::sqrt(variance[lane] * (1.0f / D) + EPSILON);
    return {mean, inverse};
}

void layer_norm(const float* x, const float* gamma, const float* beta, float* out, int stride) {
    for (int t = 0; t < stride; t += LANES) {
        const Moments m = moments(x + t, stride);
        for (int c = 0; c < D; c++)
            at(out + c * stride + t) =
                (at(x + c * stride + t) - m.mean) * (m.inverse_deviation * gamma[c]) + beta[c];
    }
}

// grad_x += the gradient of x; those of gamma and beta are not yet summed over lanes.
void layer_norm_backward(const float* grad, const float* x, const float* gamma, float* grad_gamma,
                         float* grad_beta, float* grad_x, int stride) {
    for (int t = 0; t < stride; t += LANES) {
        const Moments m = moments(x + t, stride);
        Vector sum = {}, weighted = {};
        for (int c = 0; c < D; c++) {
            const Vector normed = (at(x + c * stride + t) - m.mean) * m.inverse_deviation;
            const Vector g = at(grad + c * stride + t);
            at(grad_beta + c * LANES) += g;
            at(grad_gamma + c * LANES) += g * normed;
            sum += g * gamma[c];
            weighted += g * gamma[c] * normed;
        }
        sum *= 1.0f / D;
        weighted *= 1.0f / D;
        for (int c = 0; c < D; c++) {
            const Vector normed = (at(x + c * stride + t) - m.mean) * m.inverse_deviation;
            const Vector g = at(grad + c * stride + t) * gamma[c];
            at(grad_x + c * stride + t) += m.inverse_deviation * (g - sum - normed * weighted);
        }
    }
}

// ---- attention ----------------------------------------------------------------------------

// 2^x for x <= 0, to a float's precision: the whole part becomes the exponent, a polynomial
// (fitted at Chebyshev's points; exact at 0, relative error 5e-9) the rest.
Vector power_of_two(Vector x) {
    x = x < -126.0f ? same(-126.0f) : x;  // not-a-number stays
    const Vector shifted = x + 12582912.0f;  // 1.5 * 2^23: rounds, and holds the whole part
    const Vector rest = x - (shifted - 12582912.0f);
    Vector power = rest * 0.000154614475f + 0.00133908674f;
    power = power * rest + 0.00961805667f;
    power = power * rest + 0.055503571f;
    power = power * rest + 0.240226509f;
    power = power * rest + 0.693147188f;
    power = power * rest + 1.0f;
    return (Vector)((Bits)power + ((Bits)shifted << 23));
}

// dropout.py's scramble.
template <typename Value>
Value scramble(Value x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// Which attention weights of a sample and layer dropout keeps.
struct Dropout {
    bool active;
    uint32_t key, limit;
    float scale;  // of those kept
    int queries;

    Dropout(const Call& call, int64_t sample, int64_t layer, int queries_)
        : active(call.dropout_keys != nullptr),
          key(active ? scramble(call.dropout_keys[sample] + uint32_t(layer)) : 0),
          limit(active ? uint32_t(call.keep * 4294967296.0) : 0),
          scale(active ? float(1 / call.keep) : 1.0f),
          queries(queries_) {}

    // The vector where kept, elsewhere 0. `row` counts heads and keys.
    Vector keep(Vector x, int row, int query) const {
        Bits index = Bits{} + (key + uint32_t(row) * uint32_t(queries) + uint32_t(query));
        for (int lane = 0; lane < LANES; lane++) index[lane] += lane;
        return (Vector)((Bits)x & (Bits)(scramble(index) < limit));
    }
};

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

// ---- encoder ------------------------------------------------------------------------------

// A layer's weights, in the order of EncoderLayer.parameters().
struct LayerWeights {
    const float *w_in, *b_in, *w_out, *b_out, *w1, *b1, *w2, *b2, *gamma0, *beta0, *gamma1, *beta1;
};
constexpr int N_WEIGHTS = 12;
constexpr int SIZES[N_WEIGHTS] = {3 * D * D, 3 * D, D * D, D, F * D, F, D * F, D, D, D, D, D};
constexpr bool IS_MATRIX[N_WEIGHTS] = {true, false, true, false, true, false, true};
constexpr int NORM_SIZES[2] = {D, D};
constexpr bool NORM_IS_MATRIX[2] = {};

// The gradients of a layer's weights in one thread; a vector's are not yet summed over lanes.
struct alignas(64) LayerGrads {
    float w_in[3 * D * D], b_in[3 * D * LANES], w_out[D * D], b_out[D * LANES], w1[F * D],
        b1[F * LANES], w2[D * F], b2[D * LANES], gamma0[D * LANES], beta0[D * LANES],
        gamma1[D * LANES], beta1[D * LANES];
};

// What backward needs of a layer's forward pass on a sample.
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
        float** const planes[] = {&memory,   &normed,     &attended,      &x_last,
                                  &last,     &q,          &y,             &normed_y,
                                  &next,     &grad,       &grad_y,        &grad_normed,
                                  &grad_q,   &grad_x,     &grad_attended, &grad_memory,
                                  &grad_last};
        const long size = long(widest) * (D * std::size(planes) + 4 * D + 2 * F + std::max(D, F) + LANES) +
                          (call.kept ? 0 : kept_size(call));
        storage.reset(static_cast<float*>(std::aligned_alloc(64, (size * 4 + 63) / 64 * 64)));
        if (!storage) std::abort();
        float* place = storage.get();
        const auto take = [&](long count) { return std::exchange(place, place + count); };
        for (float** plane : planes) *plane = take(D * widest);
        kv = take(2 * D * widest);
        grad_kv = take(2 * D * widest);
        hidden = take(F * widest);
        grad_hidden = take(F * widest);
        by_token = take(std::max(D, F) * widest);
        scores = take(LANES * widest);
        own_kept = place;
    }

    static int64_t kept_size(const Call& call) {
        const int64_t all = padded(call.tokens), last = padded(call.queries);
        return (call.layers - 1) * (2 * D + 2 * H) * all + (D * all + (D + 2 * H) * last) + D * last;
    }

    void forward(int64_t sample, const LayerWeights* layers, const float* gamma, const float* beta) {
        begin(sample);
        embed(call.x + sample * tokens * D, tokens, stride, kept(0).x);
        for (int n = 0; n < call.layers; n++) {
            const Kept its = kept(n);
            project(layers[n], its.x, n);
            attend_to(sample, n, its);
            feed_forward(layers[n], its.context);
            float* out = kept(n + 1).x;
            std::memcpy(out, y, sizeof(float) * D * q_stride);
            for (int c = 0; c < D; c++)
                for (int t = 0; t < q_stride; t += LANES) at(out + c * q_stride + t) += layers[n].b2[c];
            add_product(layers[n].w2, F, 1, hidden, q_stride, out, q_stride, D, q_stride, F);
        }
        layer_norm(kept(call.layers).x, gamma, beta, y, q_stride);
        to_tokens(y, D, q_stride, queries, by_token);
        std::memcpy(call.out + sample * queries * D, by_token, sizeof(float) * queries * D);
    }

    void backward(int64_t sample, const LayerWeights* layers, LayerGrads* grads, const float* gamma,
                  float* grad_gamma, float* grad_beta) {
        begin(sample);
        select(call.layers - 1);
        clear(grad_memory, D, attended_stride);
        clear(y, D, q_stride);
        const float* grad_out = call.grad_out + sample * queries * D;
        for (int t = 0; t < queries; t++)
            for (int c = 0; c < D; c++) y[c * q_stride + t] = grad_out[t * D + c];
        clear(grad, D, q_stride);
        layer_norm_backward(y, kept(call.layers).x, gamma, grad_gamma, grad_beta, grad, q_stride);
        for (int n = call.layers - 1; n >= 0; n--) layer_backward(sample, layers[n], grads[n], n);
        write_embedded_grad(grad, tokens, stride, call.grad_x + sample * tokens * D);
        if (call.memory_tokens)
            write_embedded_grad(grad_memory, attended_tokens, attended_stride,
                                call.grad_memory + sample * attended_tokens * D);
    }

  private:
    const Call& call;
    const int tokens, attended_tokens, stride, attended_stride;
    int queries = 0, q_stride = 0;  // of the layer at work
    struct Free {
        void operator()(float* block) const { std::free(block); }
    };
    std::unique_ptr<float, Free> storage;
    float *memory, *normed, *attended, *x_last, *last, *q, *y, *normed_y, *next, *grad, *grad_y,
        *grad_normed, *grad_q, *grad_x, *grad_attended, *grad_memory, *grad_last;
    float *kv, *grad_kv, *hidden, *grad_hidden, *by_token, *scores, *own_kept, *kept_here = nullptr;

    static void clear(float* plane, int channels, int its_stride) {
        std::memset(plane, 0, sizeof(float) * channels * its_stride);
    }

    void begin(int64_t sample) {
        kept_here = call.kept ? call.kept + sample * kept_size(call) : own_kept;
        if (call.memory_tokens)
            embed(call.memory + sample * attended_tokens * D, attended_tokens, attended_stride, memory);
    }

    // Sets how many tokens come out of a layer.
    void select(int layer) {
        queries = layer == call.layers - 1 ? int(call.queries) : tokens;
        q_stride = padded(queries);
    }

    Kept kept(int layer) const {
        float* x = kept_here + int64_t(layer) * (2 * D + 2 * H) * stride;
        const int its_stride = layer >= call.layers - 1 ? padded(call.queries) : stride;
        if (layer == call.layers) x = kept(layer - 1).inverse + H * its_stride;
        float* context = x + D * stride;
        float* largest = context + D * its_stride;
        return {x, context, largest, largest + H * its_stride};
    }

    void embed(const float* x, int its_tokens, int its_stride, float* out) const {
        const float scale = std::sqrt(float(D));
        clear(out, D, its_stride);
        for (int t = 0; t < its_tokens; t++)
            for (int c = 0; c < D; c++)
                out[c * its_stride + t] =
                    scale * x[t * D + c] + (x[t * D] != 0 ? call.positions[t * D + c] : 0);
    }

    void write_embedded_grad(const float* its_grad, int its_tokens, int its_stride, float* out) {
        to_tokens(its_grad, D, its_stride, its_tokens, by_token);
        const float scale = std::sqrt(float(D));
        for (int i = 0; i < its_tokens * D; i++) out[i] = scale * by_token[i];
    }

    // The columns of x that come out of the layer: x itself, or a copy of the last.
    float* last_of(float* x, float* copy) const {
        if (queries == tokens) return x;
        clear(copy, D, q_stride);
        for (int c = 0; c < D; c++)
            std::memcpy(copy + c * q_stride, x + c * stride + tokens - queries, sizeof(float) * queries);
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
        x_in = last_of(x, x_last);
        normed_in = last_of(normed, last);
        linear(w.w_in, w.b_in, normed_in, q, D, D, q_stride);
        const float scale = 1 / (std::sqrt(float(HEAD)) * LN_2);
        for (int i = 0; i < D * q_stride; i += LANES) at(q + i) *= scale;
        linear(w.w_in + D * D, w.b_in + D, keys_in, kv, D, 2 * D, attended_stride);
    }

    void attend_to(int64_t sample, int layer, const Kept& its) {
        const Dropout dropout(call, sample, layer, queries);
        const auto run = dropout.active ? attend<true> : attend<false>;
        run(q, kv, kv + D * attended_stride, q_stride, attended_stride, attended_tokens, dropout,
            scores, its.context, its.largest, its.inverse);
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

    // Takes grad from the layer's output to its input.
    void layer_backward(int64_t sample, const LayerWeights& w, LayerGrads& grads, int layer) {
        const Kept its = kept(layer);
        project(w, its.x, layer);
        feed_forward(w, its.context);

        linear_weight_grad(grad, hidden, grads.w2, grads.b2, F, D, q_stride, queries, by_token);
        linear_backward(w.w2, grad, grad_hidden, F, D, q_stride);
        for (int i = 0; i < F * q_stride; i += LANES)
            at(grad_hidden + i) = at(hidden + i) > 0.0f ? at(grad_hidden + i) : Vector{};
        linear_weight_grad(grad_hidden, normed_y, grads.w1, grads.b1, D, F, q_stride, queries, by_token);
        linear_backward(w.w1, grad_hidden, grad_normed, D, F, q_stride);
        std::memcpy(grad_y, grad, sizeof(float) * D * q_stride);
        layer_norm_backward(grad_normed, y, w.gamma1, grads.gamma1, grads.beta1, grad_y, q_stride);

        linear_weight_grad(grad_y, its.context, grads.w_out, grads.b_out, D, D, q_stride, queries, by_token);
        linear_backward(w.w_out, grad_y, grad_normed, D, D, q_stride);
        attention_backward(sample, layer, its, grad_normed);
        linear_weight_grad(grad_q, normed_in, grads.w_in, grads.b_in, D, D, q_stride, queries, by_token);
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
        layer_norm_backward(through_norm, its.x, w.gamma0, grads.gamma0, grads.beta0, next, stride);
        add_to_last(grad_y, next);
        std::swap(grad, next);
    }

    void attention_backward(int64_t sample, int layer, const Kept& its, const float* grad_context) {
        const Dropout dropout(call, sample, layer, queries);
        clear(grad_kv, 2 * D, attended_stride);
        const auto run = [&](auto part, int h, int first) {
            part(q, kv, kv + D * attended_stride, q_stride, attended_stride, attended_tokens, dropout,
                 its.context, its.largest, its.inverse, grad_context, grad_q, grad_kv,
                 grad_kv + D * attended_stride, h, first);
        };
        for (int h = 0; h < H; h++)
            for (int first = 0; first < q_stride; first += 4 * LANES) {
                const int vectors = std::min(4, (q_stride - first) / LANES);
                if (dropout.active) {
                    if (vectors == 4) run(attend_backward<true, 4>, h, first);
                    else if (vectors == 3) run(attend_backward<true, 3>, h, first);
                    else if (vectors == 2) run(attend_backward<true, 2>, h, first);
                    else run(attend_backward<true, 1>, h, first);
                } else {
                    if (vectors == 4) run(attend_backward<false, 4>, h, first);
                    else if (vectors == 3) run(attend_backward<false, 3>, h, first);
                    else if (vectors == 2) run(attend_backward<false, 2>, h, first);
                    else run(attend_backward<false, 1>, h, first);
                }
            }
    }
};

// Adds up what the threads found: `grads[thread]` has the gradients one after the other.
void add_up(const std::vector<const float*>& grads, const int* sizes, const bool* is_matrix,
            int count, float* const* out) {
    long offset = 0;
    for (int i = 0; i < count; i++) {
        const int lanes = is_matrix[i] ? 1 : LANES;
        for (int j = 0; j < sizes[i]; j++) {
            float sum = 0;
            for (const float* grad : grads)
                for (int lane = 0; lane < lanes; lane++) sum += grad[offset + j * lanes + lane];
            out[i][j] = sum;
        }
        offset += long(sizes[i]) * lanes;
    }
}

}  // namespace

extern "C" {

int64_t kept_size(const Call* call) { return Worker::kept_size(*call); }

// weights: LayerWeights of each layer, then the last norm's two.
void forward(const Call* call, const float* const* weights) {
    const auto* layers = reinterpret_cast<const LayerWeights*>(weights);
    const float* const* norm = weights + N_WEIGHTS * call->layers;
#pragma omp parallel
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
    std::vector<Found> found(omp_get_max_threads());
#pragma omp parallel
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
