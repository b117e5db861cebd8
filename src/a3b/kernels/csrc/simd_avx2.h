// AVX2 with FMA and F16C: two registers hold 8 lanes each.
#pragma once

namespace a3b::A3B_NS {

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct Bytes {
  __m256i a, b;
};

inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F set1(float x) {
  __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline __m256 max_abs(__m256 top, __m256 x) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(top),
                                              _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff))));
}
inline F max_abs(F top, F x) { return {max_abs(top.a, x.a), max_abs(top.b, x.b)}; }  // max(top, |x|), top a size
inline I iset1(int32_t x) {
  __m256i v = _mm256_set1_epi32(x);
  return {v, v};
}
inline I iload(const int32_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))};
}
inline void istore(int32_t* p, I x) {
  _mm256_storeu_si256((__m256i*)p, x.a);
  _mm256_storeu_si256((__m256i*)(p + 8), x.b);
}
inline I operator+(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I operator*(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
inline I rint(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline F scale_by_power(F x, I n) {
  __m256i bias = _mm256_set1_epi32(127);
  return {_mm256_mul_ps(x.a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.a, bias), 23))),
          _mm256_mul_ps(x.b, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.b, bias), 23)))};
}
inline F load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline __m256 bf16_8(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline F load_bf16(const uint16_t* p) { return {bf16_8(p), bf16_8(p + 8)}; }
inline I iload_u8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
inline I iload_s8(const uint8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
inline __m256i packed_s16(I x) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8); }
inline void store_s16(int16_t* p, I x) { _mm256_storeu_si256((__m256i*)p, packed_s16(x)); }
inline void store_s8(int8_t* p, I x) {
  __m256i wide = packed_s16(x);
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
}

inline Bytes load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
inline Bytes low_half(Bytes x) {
  __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline Bytes high_half(Bytes x) {
  __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(x.b, 4), mask)};
}
template <int S>
inline __m256i top_bits(__m256i top) {
  __m256i shifted = S < 2 ? _mm256_slli_epi16(top, 4 - 2 * S) : _mm256_srli_epi16(top, 2 * S - 4);
  return _mm256_and_si256(shifted, _mm256_set1_epi8(0x30));
}
template <int S>
inline Bytes with_top(Bytes low, Bytes top) {
  return {_mm256_or_si256(low.a, top_bits<S>(top.a)), _mm256_or_si256(low.b, top_bits<S>(top.b))};
}

// Without VNNI: vpmaddubsw makes sums of two products in 16 bits. Eight of them fit for 4-bit weights (8·2·15·127 <
// 2^15), two for 6 bits; 8-bit weights are moved to [-128, 127] first and multiplied by magnitude (2·128·127 < 2^15).
template <int BITS>
struct Dot {
  static constexpr int BIAS = BITS == 8 ? 128 : 0;
  static constexpr int STEPS_BEFORE_FLUSH = BITS == 4 ? 8 : BITS == 6 ? 2 : 1;  // steps until `flush` has to be called
  __m256i sum_a, sum_b, part_a, part_b;
  void start(int32_t init) {
    sum_a = sum_b = _mm256_set1_epi32(init);
    part_a = part_b = _mm256_setzero_si256();
  }
  void step(Bytes w, const int8_t* x) {
    __m256i word = _mm256_set1_epi32(four_bytes(x));
    if constexpr (BITS == 8) {
      __m256i middle = _mm256_set1_epi8((char)0x80);
      __m256i signed_a = _mm256_xor_si256(w.a, middle), signed_b = _mm256_xor_si256(w.b, middle);
      part_a = _mm256_maddubs_epi16(_mm256_abs_epi8(signed_a), _mm256_sign_epi8(word, signed_a));
      part_b = _mm256_maddubs_epi16(_mm256_abs_epi8(signed_b), _mm256_sign_epi8(word, signed_b));
    } else {
      part_a = _mm256_add_epi16(part_a, _mm256_maddubs_epi16(w.a, word));
      part_b = _mm256_add_epi16(part_b, _mm256_maddubs_epi16(w.b, word));
    }
  }
  void flush() {
    __m256i ones = _mm256_set1_epi16(1);
    sum_a = _mm256_add_epi32(sum_a, _mm256_madd_epi16(part_a, ones));
    sum_b = _mm256_add_epi32(sum_b, _mm256_madd_epi16(part_b, ones));
    part_a = part_b = _mm256_setzero_si256();
  }
  I value() const { return {sum_a, sum_b}; }
};

inline Bytes opaque(Bytes x) {
  asm volatile("" : "+x"(x.a), "+x"(x.b));
  return x;
}

struct Int16s {
  __m256i a, b;
};
inline Int16s load_int16s(const int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(p + 16)))};
}
inline Int16s load_pairs(const uint8_t* first, const uint8_t* second) {
  const I x = iload_u8(first), y = iload_u8(second);
  return {_mm256_or_si256(x.a, _mm256_slli_epi32(y.a, 16)), _mm256_or_si256(x.b, _mm256_slli_epi32(y.b, 16))};
}
struct PairDot {
  __m256i sum_a, sum_b;
  void start() { sum_a = sum_b = _mm256_setzero_si256(); }
  void step(Int16s values, int32_t pair) {
    __m256i word = _mm256_set1_epi32(pair);
    sum_a = _mm256_add_epi32(sum_a, _mm256_madd_epi16(values.a, word));
    sum_b = _mm256_add_epi32(sum_b, _mm256_madd_epi16(values.b, word));
  }
  I value() const { return {sum_a, sum_b}; }
};

inline __m256 first_half(F x) { return x.a; }
inline __m256 second_half(F x) { return x.b; }
inline __m256i first_half(I x) { return x.a; }
inline __m256i second_half(I x) { return x.b; }

}  // namespace a3b::A3B_NS

#include "simd_x86.h"
