// AVX-512 with VNNI: a register holds all 16 lanes.
#pragma once

namespace a3b::A3B_NS {

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct Bytes {
  __m512i v;
};

inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline F set1(float a) { return {_mm512_set1_ps(a)}; }
inline F zero() { return {_mm512_setzero_ps()}; }
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F max_abs(F top, F a) {  // max(top, |a|), top a size
  return {_mm512_castsi512_ps(_mm512_max_epi32(
      _mm512_castps_si512(top.v), _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))))};
}
inline I iset1(int32_t a) { return {_mm512_set1_epi32(a)}; }
inline I iload(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void istore(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
inline I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I operator*(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I rint(F a) { return {_mm512_cvtps_epi32(a.v)}; }
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline F scale_by_power(F a, I n) {  // a·2^n, n in [-126, 127]
  __m512i power = _mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23);
  return {_mm512_mul_ps(a.v, _mm512_castsi512_ps(power))};
}
inline F load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline F load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
inline I iload_u8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
inline I iload_s8(const uint8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
inline void store_s8(int8_t* p, I a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a.v)); }
inline void store_s16(int16_t* p, I a) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(a.v)); }

inline Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline Bytes low_half(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline Bytes high_half(Bytes a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
template <int S>
inline Bytes with_top(Bytes low, Bytes top) {  // low | (top >> 2S & 3) << 4
  __m512i shifted = S < 2 ? _mm512_slli_epi16(top.v, 4 - 2 * S) : _mm512_srli_epi16(top.v, 2 * S - 4);
  return {_mm512_or_si512(low.v, _mm512_and_si512(shifted, _mm512_set1_epi8(0x30)))};
}

template <int BITS>
struct Dot {
  static constexpr int BIAS = 0;  // what the instruction takes off every weight
  static constexpr int STEPS_BEFORE_FLUSH = 1 << 20;
  __m512i sum;
  void start(int32_t init) { sum = _mm512_set1_epi32(init); }
  void step(Bytes w, const int8_t* x) { sum = _mm512_dpbusd_epi32(sum, w.v, _mm512_set1_epi32(four_bytes(x))); }
  void flush() {}
  I value() const { return {sum}; }
};

inline Bytes opaque(Bytes a) {  // the compiler knows nothing of its value
  asm volatile("" : "+v"(a.v));
  return a;
}

struct PairDot {  // 16 sums of products of two int16 by two
  __m512i sum;
  void start() { sum = _mm512_setzero_si512(); }
  void step(__m512i values, int32_t pair) { sum = _mm512_dpwssd_epi32(sum, values, _mm512_set1_epi32(pair)); }
  I value() const { return {sum}; }
};
using Int16s = __m512i;
inline Int16s load_int16s(const int8_t* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p)); }
inline Int16s load_pairs(const uint8_t* first, const uint8_t* second) {  // two int16 a lane, one of each
  return _mm512_or_si512(iload_u8(first).v, _mm512_slli_epi32(iload_u8(second).v, 16));
}

inline __m256 first_half(F x) { return _mm512_castps512_ps256(x.v); }
inline __m256 second_half(F x) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x.v), 1)); }
inline __m256i first_half(I x) { return _mm512_castsi512_si256(x.v); }
inline __m256i second_half(I x) { return _mm512_extracti64x4_epi64(x.v, 1); }

}  // namespace a3b::A3B_NS

#include "simd_x86.h"
