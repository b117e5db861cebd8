// The steps that ops are made of: products of any number of tiles and tokens, preparing activations, the RMS norm.
#pragma once
#include "ops.h"
#include "simd.h"

namespace a3b::A3B_NS {

// A run of tiles of one matrix.
struct TileSpan {
  const Tiles& tiles;
  int first, count;
};

// Some tokens' prepared activations: rows[tokens[0]], rows[tokens[1]], ...
struct TokenSpan {
  const PreparedRows& rows;
  const int* tokens;
  int count;
};

// out[m·stride + 16·tile + row]. next: the tiles that this thread reads afterwards, or null.
void multiply(const Context& context, const TileSpan& matrix, const TokenSpan& x, float* out, int stride,
              const uint8_t* next = nullptr);

// One row of float [n] in the given layout. The columns after n are zero.
void prepare(const ActivationLayout& layout, const float* x, int n, const PreparedRows& rows, int row);

// The same for columns [begin, begin + part_len()) of a row of n, given as x[0] ..; begin is a multiple of that. The
// last part also clears the padding.
void prepare_part(const ActivationLayout& layout, const float* x, int n, int begin, const PreparedRows& rows, int row);

// out = x·weight/sqrt(mean(x²) + eps)
void rms_norm_row(const float* x, const float* weight, int n, float eps, float* out);

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
inline int at_most(int a, int b) { return a < b ? a : b; }

}  // namespace a3b::A3B_NS
