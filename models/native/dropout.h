// Dropout by keys, with the same masks as models/layers/dropout.py.
#pragma once

#include <cstdint>

#include "call.h"
#include "vectors.h"

namespace {

constexpr uint32_t STRIDE = 0x9e3779b1;  // dropout.py's _STRIDE

// dropout.py's scramble.
template <typename Value>
Value scramble(Value x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// The attention weights that dropout keeps in a layer, for one sample.
struct Dropout {
    bool active;
    uint32_t key, limit;
    float scale;  // of the weights kept
    int queries;

    Dropout(const Call& call, int64_t sample, int64_t layer, int queries_)
        : active(call.dropout_keys != nullptr),
          key(active ? scramble(call.dropout_keys[sample] + uint32_t(layer)) : 0),
          limit(active ? uint32_t(call.keep * 4294967296.0) : 0),
          scale(active ? float(1 / call.keep) : 1.0f),
          queries(queries_) {}

    // x where its weights are kept, elsewhere 0. `row` is head * keys + key.
    template <typename V>
    V keep(V x, int row, int query) const {
        typedef Lanes<sizeof(V) / 4> Those;
        typedef typename Those::Bits Whole;
        const uint32_t index = uint32_t(row) * uint32_t(queries) + uint32_t(query);
        const Whole number = (key + index * STRIDE) + Those::NUMBERS * STRIDE;
        return (V)((Whole)x & (Whole)(scramble(number) < limit));
    }
};

}  // namespace
