// The sizes of the encoder. WIDTH, HEADS and FEEDFORWARD come from the compiler's command line.
#pragma once

namespace {

constexpr int D = WIDTH, H = HEADS, HEAD = D / H, F = FEEDFORWARD;
static_assert(D % 16 == 0 && F % 16 == 0 && D % H == 0 && HEAD % 4 == 0, "sizes");
constexpr float EPSILON = 1e-5f;  // of the layer norms

}  // namespace
