// Vector registers of tokens, powers of two in them, and transposing tokens from lanes to rows.
#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int HALF = 8;  // lanes: a row may end with half a register

template <int COUNT>
struct Lanes;
#define REGISTER(count)                                                            \
    typedef float Vector __attribute__((vector_size(count * 4), may_alias, aligned(HALF * 4))); \
    typedef uint32_t Bits __attribute__((vector_size(count * 4), may_alias));
template <>
struct Lanes<8> {
    REGISTER(8)
    static constexpr Bits NUMBERS = {0, 1, 2, 3, 4, 5, 6, 7};
};
template <>
struct Lanes<16> {
    REGISTER(16)
    static constexpr Bits NUMBERS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
};
typedef Lanes<LANES>::Vector Vector;
typedef Lanes<LANES>::Bits Bits;
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

int padded(int tokens) { return (tokens + HALF - 1) / HALF * HALF; }

template <int COUNT = LANES>
typename Lanes<COUNT>::Vector& at(float* x) {
    return *reinterpret_cast<typename Lanes<COUNT>::Vector*>(x);
}
template <int COUNT = LANES>
const typename Lanes<COUNT>::Vector& at(const float* x) {
    return *reinterpret_cast<const typename Lanes<COUNT>::Vector*>(x);
}
Vector same(float value) { return Vector{} + value; }

// Calls `work(lanes, t)` for each register of a row of `count` values; only the last may be half a
// register.
template <typename Work>
inline __attribute__((always_inline)) void each(int count, const Work& work) {
    int t = 0;
    for (; t + LANES <= count; t += LANES) work(std::integral_constant<int, LANES>{}, t);
    if (t < count) work(std::integral_constant<int, HALF>{}, t);
}

// The values of half a register, followed by zeros.
Vector widened(Lanes<HALF>::Vector x) {
#if defined(__AVX512F__)
    return (Vector)_mm512_zextps256_ps512((__m256)x);
#else
    return x;
#endif
}

constexpr float LN_2 = 0.693147181f;

// 2^x for x <= 0 in two parts, each in float precision: the integer part of x, to be added to an
// exponent, and 2^rest - 1, by a polynomial of the rest (fitted at Chebyshev's points; relative
// error of 2^rest 5e-9, none at 0).
template <typename V>
struct Power {
    typename Lanes<sizeof(V) / 4>::Bits exponent;
    V less_one;
};
template <typename V>
Power<V> parts_of_power(V x) {
    x = x < -126.0f ? V{} - 126.0f : x;
    const V shifted = x + 12582912.0f;  // 1.5 * 2^23: rounds; the low bits are the integer part
    const V rest = x - (shifted - 12582912.0f);
    V power = rest * 0.000154614475f + 0.00133908674f;
    power = power * rest + 0.00961805667f;
    power = power * rest + 0.055503571f;
    power = power * rest + 0.240226509f;
    power = power * rest + 0.693147188f;
    return {(typename Lanes<sizeof(V) / 4>::Bits)shifted << 23, power * rest};
}

// 2^x for x <= 0.
template <typename V>
V power_of_two(V x) {
    const Power<V> parts = parts_of_power(x);
    const V power = parts.less_one + 1.0f;
    typedef typename Lanes<sizeof(V) / 4>::Bits Whole;
    return x == x ? (V)((Whole)power + parts.exponent) : x;  // NaN stays NaN
}

// 2^x - 1 for x <= 0, with the same relative precision near 0.
Vector power_of_two_less_one(Vector x) {
    const auto parts = parts_of_power(x);
    const Vector scale = (Vector)((Bits)same(1) + parts.exponent);
    return x == x ? parts.less_one * scale + (scale - 1.0f) : x;
}

// Transposes four rows to the four values of each lane, in groups of four lanes.
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

// Transposes x (channels, stride) to tokens by channels. `out` has rows for whole registers of
// tokens; half a register of unused values follows x.
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

}  // namespace
