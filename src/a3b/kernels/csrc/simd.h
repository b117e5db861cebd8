// Sixteen lanes on every instruction set. Only the simd_*.h files name instructions. Each source that includes this one
// is compiled once per set, inside a namespace of its own (A3B_NS), so that code compiled for one set is never called
// on another.
//
// Every set defines:
//   F             16 floats: load, store, set1, zero, + - * /, fma, max, min, max_abs, load_half, load_bf16,
//                 scale_by_power
//   I             16 int32: iload, istore, iset1, + *, rint, to_float, iload_u8, iload_s8, store_s8, store_s16
//   Bytes         64 unsigned bytes, four per lane: load_bytes, low_half, high_half, with_top, opaque
//   Dot<BITS>     16 exact integer sums of products of unsigned weights (of BITS bits) and int8 activations, four
//                 columns per step
//   Int16s        32 int16: load_int16s, load_pairs
//   PairDot       16 sums of products of two int16 by two
//   reductions    reduce_add, reduce_max, reduce_max_abs: lanes i and i + 8, then i + 4, i + 2, i + 1
//
// NaN: `max` and `min` return their second operand if either is NaN, so the order of operands decides whether it
// survives. `max_abs` and `reduce_max_abs` keep NaN and infinity in any order: they compare magnitudes as integers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(A3B_AVX512)
#define A3B_NS avx512
#if defined(A3B_EMULATED)
#include "emulated.h"
#else
#include <immintrin.h>
#endif
#elif defined(A3B_AVX2)
#define A3B_NS avx2
#include <immintrin.h>
#else
#define A3B_NS scalar
#endif

#include "tuning.h"

namespace a3b::A3B_NS {

inline constexpr Tuning TUNING = tuning::A3B_NS;
constexpr int LANES = 16;

inline int32_t four_bytes(const int8_t* x) {  // four activations as one word to broadcast
  int32_t word;
  memcpy(&word, x, 4);
  return word;
}

}  // namespace a3b::A3B_NS

#if defined(A3B_AVX512)
#include "simd_avx512.h"
#elif defined(A3B_AVX2)
#include "simd_avx2.h"
#else
#include "simd_scalar.h"
#endif

// One source for all sets, so one order of additions.
namespace a3b::A3B_NS {

// x, or NaN if it is not finite: an infinity would vanish in the next norm, sigmoid or softmax.
inline F finite_or_nan(F x) { return fma(x, zero(), x); }
inline float finite_or_nan(float x) { return x * 0.0f + x; }

// e^x within 2 units in the last place; x is cut to [-87, 88], NaN stays. Cephes' polynomial for expf.
inline F exp(F x) {
  x = min(set1(88.0f), max(set1(-87.0f), x));
  I n = rint(x * set1(1.44269504088896341f));
  F k = to_float(n);
  F r = fma(k, set1(-0.693359375f), x);
  r = fma(k, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  return scale_by_power(fma(p, r * r, r + set1(1.0f)), n);
}

inline F sigmoid(F x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }
inline F silu(F x) { return x / (set1(1.0f) + exp(zero() - x)); }

}  // namespace a3b::A3B_NS
