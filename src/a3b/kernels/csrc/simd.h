// Sixteen lanes on every instruction set: the only file that names an instruction. Each source that includes it is compiled
// once per set, inside a namespace of its own (A3B_NS), so that nothing compiled for one set can be called on another.
//
// F: 16 floats. I: 16 int32. Bytes: 64 unsigned bytes, four per lane. Dot<BITS>: 16 integer sums of products of unsigned
// weights (of BITS bits) and int8 activations; four columns per step, exact, whatever the instruction set.
//
// NaN: `max` and `min` give their second operand if either is NaN, so the order of operands decides whether it survives.
// `larger_size` keeps NaN and infinity in any order.
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

namespace a3b::A3B_NS {

constexpr int LANES = 16;

inline int32_t four(const int8_t* x) {  // four activations as one broadcastable word
  int32_t word;
  memcpy(&word, x, 4);
  return word;
}

#if defined(A3B_AVX512)

struct F { __m512 v; };
struct I { __m512i v; };
struct Bytes { __m512i v; };

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
inline F larger_size(F top, F a) {  // max(top, |a|), top a size
  return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(top.v), _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))))};
}
inline F sqrt(F a) { return {_mm512_sqrt_ps(a.v)}; }
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
template <int S> inline Bytes with_top(Bytes low, Bytes top) {  // low | (top >> 2S & 3) << 4
  __m512i shifted = S < 2 ? _mm512_slli_epi16(top.v, 4 - 2 * S) : _mm512_srli_epi16(top.v, 2 * S - 4);
  return {_mm512_or_si512(low.v, _mm512_and_si512(shifted, _mm512_set1_epi8(0x30)))};
}

template <int BITS> struct Dot {
  static constexpr int BIAS = 0;  // what the instruction takes off every weight
  static constexpr int ROOM = 1 << 20;
  __m512i sum;
  void start(int32_t init) { sum = _mm512_set1_epi32(init); }
  void step(Bytes w, const int8_t* x) { sum = _mm512_dpbusd_epi32(sum, w.v, _mm512_set1_epi32(four(x))); }
  void settle() {}
  I value() const { return {sum}; }
};

inline Bytes opaque(Bytes a) {  // the compiler knows nothing of its value
  asm volatile("" : "+v"(a.v));
  return a;
}

struct Pairs {  // 16 sums of products of two int16 by two
  __m512i sum;
  void start() { sum = _mm512_setzero_si512(); }
  void step(__m512i values, int32_t pair) { sum = _mm512_dpwssd_epi32(sum, values, _mm512_set1_epi32(pair)); }
  I value() const { return {sum}; }
};
using Wide = __m512i;
inline Wide load_wide(const int8_t* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p)); }
inline Wide load_pairs(const uint8_t* first, const uint8_t* second) {  // two int16 a lane, one of each
  return _mm512_or_si512(iload_u8(first).v, _mm512_slli_epi32(iload_u8(second).v, 16));
}

#elif defined(A3B_AVX2)

struct F { __m256 a, b; };
struct I { __m256i a, b; };
struct Bytes { __m256i a, b; };

inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
inline F set1(float x) { __m256 v = _mm256_set1_ps(x); return {v, v}; }
inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline __m256 larger_size(__m256 top, __m256 x) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(top), _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff))));
}
inline F larger_size(F top, F x) { return {larger_size(top.a, x.a), larger_size(top.b, x.b)}; }  // max(top, |x|), top a size
inline F sqrt(F x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
inline I iset1(int32_t x) { __m256i v = _mm256_set1_epi32(x); return {v, v}; }
inline I iload(const int32_t* p) { return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))}; }
inline void istore(int32_t* p, I x) { _mm256_storeu_si256((__m256i*)p, x.a); _mm256_storeu_si256((__m256i*)(p + 8), x.b); }
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
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline __m256 bf16_8(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline F load_bf16(const uint16_t* p) { return {bf16_8(p), bf16_8(p + 8)}; }
inline I iload_u8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)), _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
inline I iload_s8(const uint8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)), _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
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
template <int S> inline __m256i top_bits(__m256i top) {
  __m256i shifted = S < 2 ? _mm256_slli_epi16(top, 4 - 2 * S) : _mm256_srli_epi16(top, 2 * S - 4);
  return _mm256_and_si256(shifted, _mm256_set1_epi8(0x30));
}
template <int S> inline Bytes with_top(Bytes low, Bytes top) {
  return {_mm256_or_si256(low.a, top_bits<S>(top.a)), _mm256_or_si256(low.b, top_bits<S>(top.b))};
}

// Without VNNI: vpmaddubsw makes sums of two products in 16 bits. Eight of them fit for 4-bit weights (8·2·15·127 < 2^15),
// two for 6 bits; 8-bit weights are moved to [-128, 127] first and multiplied by magnitude (2·128·127 < 2^15).
template <int BITS> struct Dot {
  static constexpr int BIAS = BITS == 8 ? 128 : 0;
  static constexpr int ROOM = BITS == 4 ? 8 : BITS == 6 ? 2 : 1;  // steps until `settle` has to be called
  __m256i sum_a, sum_b, part_a, part_b;
  void start(int32_t init) {
    sum_a = sum_b = _mm256_set1_epi32(init);
    part_a = part_b = _mm256_setzero_si256();
  }
  void step(Bytes w, const int8_t* x) {
    __m256i word = _mm256_set1_epi32(four(x));
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
  void settle() {
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

struct Wide { __m256i a, b; };
inline Wide load_wide(const int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(p + 16)))};
}
inline Wide load_pairs(const uint8_t* first, const uint8_t* second) {
  const I x = iload_u8(first), y = iload_u8(second);
  return {_mm256_or_si256(x.a, _mm256_slli_epi32(y.a, 16)), _mm256_or_si256(x.b, _mm256_slli_epi32(y.b, 16))};
}
struct Pairs {
  __m256i sum_a, sum_b;
  void start() { sum_a = sum_b = _mm256_setzero_si256(); }
  void step(Wide values, int32_t pair) {
    __m256i word = _mm256_set1_epi32(pair);
    sum_a = _mm256_add_epi32(sum_a, _mm256_madd_epi16(values.a, word));
    sum_b = _mm256_add_epi32(sum_b, _mm256_madd_epi16(values.b, word));
  }
  I value() const { return {sum_a, sum_b}; }
};

#else  // scalar: plain loops, multiply and add rounded separately

struct F { float v[LANES]; };
struct I { int32_t v[LANES]; };
struct Bytes { uint8_t v[4 * LANES]; };
#define A3B_EACH for (int i = 0; i < LANES; i++)

inline F load(const float* p) { F r; memcpy(r.v, p, sizeof r.v); return r; }
inline void store(float* p, F x) { memcpy(p, x.v, sizeof x.v); }
inline F set1(float x) { F r; A3B_EACH r.v[i] = x; return r; }
inline F zero() { return set1(0); }
inline F operator+(F x, F y) { A3B_EACH x.v[i] += y.v[i]; return x; }
inline F operator-(F x, F y) { A3B_EACH x.v[i] -= y.v[i]; return x; }
inline F operator*(F x, F y) { A3B_EACH x.v[i] *= y.v[i]; return x; }
inline F operator/(F x, F y) { A3B_EACH x.v[i] /= y.v[i]; return x; }
inline F fma(F x, F y, F z) { A3B_EACH x.v[i] = x.v[i] * y.v[i] + z.v[i]; return x; }
inline F max(F x, F y) { A3B_EACH x.v[i] = x.v[i] > y.v[i] ? x.v[i] : y.v[i]; return x; }
inline F min(F x, F y) { A3B_EACH x.v[i] = x.v[i] < y.v[i] ? x.v[i] : y.v[i]; return x; }
inline F larger_size(F top, F x) {  // max(top, |x|), top a size
  A3B_EACH {
    int32_t a, b;
    memcpy(&a, &top.v[i], 4), memcpy(&b, &x.v[i], 4);
    b &= 0x7fffffff;
    if (b > a) memcpy(&top.v[i], &b, 4);
  }
  return top;
}
inline F sqrt(F x) { A3B_EACH x.v[i] = std::sqrt(x.v[i]); return x; }
inline I iset1(int32_t x) { I r; A3B_EACH r.v[i] = x; return r; }
inline I iload(const int32_t* p) { I r; memcpy(r.v, p, sizeof r.v); return r; }
inline void istore(int32_t* p, I x) { memcpy(p, x.v, sizeof x.v); }
inline I operator+(I x, I y) { A3B_EACH x.v[i] += y.v[i]; return x; }
inline I operator*(I x, I y) { A3B_EACH x.v[i] *= y.v[i]; return x; }
inline I rint(F x) { I r; A3B_EACH r.v[i] = (int32_t)std::lrintf(x.v[i]); return r; }
inline F to_float(I x) { F r; A3B_EACH r.v[i] = (float)x.v[i]; return r; }
inline F scale_by_power(F x, I n) {
  A3B_EACH {
    uint32_t bits = (uint32_t)(n.v[i] + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    x.v[i] *= power;
  }
  return x;
}
inline float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
  if (exponent == 31) bits = sign | 0x7f800000 | fraction << 13;
  else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
  else {
    float value = (float)fraction * 0x1p-24f;
    memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float r;
  memcpy(&r, &bits, 4);
  return r;
}
inline F load_half(const uint16_t* p) { F r; A3B_EACH r.v[i] = half_to_float(p[i]); return r; }
inline F load_bf16(const uint16_t* p) {
  F r;
  A3B_EACH { uint32_t bits = (uint32_t)p[i] << 16; memcpy(&r.v[i], &bits, 4); }
  return r;
}
inline I iload_u8(const uint8_t* p) { I r; A3B_EACH r.v[i] = p[i]; return r; }
inline I iload_s8(const uint8_t* p) { I r; A3B_EACH r.v[i] = (int8_t)p[i]; return r; }
inline void store_s8(int8_t* p, I x) { A3B_EACH p[i] = (int8_t)x.v[i]; }
inline void store_s16(int16_t* p, I x) { A3B_EACH p[i] = (int16_t)x.v[i]; }
inline Bytes load_bytes(const uint8_t* p) { Bytes r; memcpy(r.v, p, sizeof r.v); return r; }
inline Bytes low_half(Bytes x) { for (uint8_t& b : x.v) b &= 15; return x; }
inline Bytes high_half(Bytes x) { for (uint8_t& b : x.v) b >>= 4; return x; }
template <int S> inline Bytes with_top(Bytes low, Bytes top) {
  for (int i = 0; i < 4 * LANES; i++) low.v[i] |= (top.v[i] >> 2 * S & 3) << 4;
  return low;
}
template <int BITS> struct Dot {
  static constexpr int BIAS = 0, ROOM = 1 << 20;
  int32_t sum[LANES];
  void start(int32_t init) { A3B_EACH sum[i] = init; }
  void step(Bytes w, const int8_t* x) {
    A3B_EACH sum[i] += w.v[4 * i] * x[0] + w.v[4 * i + 1] * x[1] + w.v[4 * i + 2] * x[2] + w.v[4 * i + 3] * x[3];
  }
  void settle() {}
  I value() const { return iload(sum); }
};
inline Bytes opaque(const Bytes& x) {
  asm volatile("" : : "r"(&x) : "memory");
  return x;
}

struct Wide { int16_t v[2 * LANES]; };
inline Wide load_wide(const int8_t* p) { Wide r; for (int i = 0; i < 2 * LANES; i++) r.v[i] = p[i]; return r; }
inline Wide load_pairs(const uint8_t* first, const uint8_t* second) {
  Wide r;
  A3B_EACH r.v[2 * i] = first[i], r.v[2 * i + 1] = second[i];
  return r;
}
struct Pairs {
  int32_t sum[LANES];
  void start() { A3B_EACH sum[i] = 0; }
  void step(const Wide& values, int32_t pair) {
    int16_t p[2];
    memcpy(p, &pair, 4);
    A3B_EACH sum[i] += values.v[2 * i] * p[0] + values.v[2 * i + 1] * p[1];
  }
  I value() const { return iload(sum); }
};
#undef A3B_EACH

#endif

// Below: one text for all sets, so one order of additions.

// Lanes i and i + 8, then i + 4, i + 2, i + 1.
#if defined(A3B_AVX512) || defined(A3B_AVX2)
#if defined(A3B_AVX512)
inline __m256 first_half(F x) { return _mm512_castps512_ps256(x.v); }
inline __m256 second_half(F x) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x.v), 1)); }
inline __m256i first_half(I x) { return _mm512_castsi512_si256(x.v); }
inline __m256i second_half(I x) { return _mm512_extracti64x4_epi64(x.v, 1); }
#else
inline __m256 first_half(F x) { return x.a; }
inline __m256 second_half(F x) { return x.b; }
inline __m256i first_half(I x) { return x.a; }
inline __m256i second_half(I x) { return x.b; }
#endif
inline float sum(F x) {
  const __m256 eight = _mm256_add_ps(first_half(x), second_half(x));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline int32_t sum(I x) {
  const __m256i eight = _mm256_add_epi32(first_half(x), second_half(x));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline float largest(F x) {
  const __m256 eight = _mm256_max_ps(first_half(x), second_half(x));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)), two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline float largest_size(F x) {  // of sizes: NaN before infinity before numbers, as integers are compared
  const __m256i eight = _mm256_max_epi32(_mm256_castps_si256(first_half(x)), _mm256_castps_si256(second_half(x)));
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
}
#else
inline float sum(F x) {
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) x.v[i] += x.v[i + half];
  return x.v[0];
}
inline int32_t sum(I x) {
  int32_t total = 0;
  for (int32_t value : x.v) total += value;
  return total;
}
inline float largest(F x) {
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) x.v[i] = x.v[i] > x.v[i + half] ? x.v[i] : x.v[i + half];
  return x.v[0];
}
inline float largest_size(F x) {  // of sizes: NaN before infinity before numbers, as integers are compared
  F top = zero();
  for (int i = 0; i < LANES; i++) top = larger_size(top, set1(x.v[i]));
  return top.v[0];
}
#endif

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
