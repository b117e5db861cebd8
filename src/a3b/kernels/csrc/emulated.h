// AVX-512 on machines without it, for tests: SIMDe, and in plain loops what SIMDe 0.7 lacks.
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

#include <cmath>
#include <cstdint>

#define A3B_LANEWISE(NAME, FROM_TYPE, LOAD_TYPE, TO_TYPE, RESULT, EXPRESSION) \
  inline RESULT NAME##_emulated(LOAD_TYPE a) {                                \
    FROM_TYPE from[sizeof(a) / sizeof(FROM_TYPE)];                            \
    TO_TYPE to[16];                                                           \
    RESULT r;                                                                 \
    __builtin_memcpy(from, &a, sizeof a);                                     \
    for (int i = 0; i < 16; i++) to[i] = EXPRESSION;                          \
    __builtin_memcpy(&r, to, sizeof r);                                       \
    return r;                                                                 \
  }

A3B_LANEWISE(cvtps_epi32, float, __m512, int32_t, __m512i, (int32_t)std::lrintf(from[i]))
A3B_LANEWISE(cvtepi32_ps, int32_t, __m512i, float, __m512, (float)from[i])
A3B_LANEWISE(cvtepu8_epi32, uint8_t, __m128i, int32_t, __m512i, from[i])
A3B_LANEWISE(cvtepi8_epi32, int8_t, __m128i, int32_t, __m512i, from[i])
A3B_LANEWISE(cvtepu16_epi32, uint16_t, __m256i, int32_t, __m512i, from[i])
A3B_LANEWISE(cvtepi32_epi8, int32_t, __m512i, int8_t, __m128i, (int8_t)from[i])
A3B_LANEWISE(cvtepi32_epi16, int32_t, __m512i, int16_t, __m256i, (int16_t)from[i])
#undef A3B_LANEWISE

inline __m512 cvtph_ps_emulated(__m256i a) {
  __m128i halves[2];
  __m256 floats[2];
  __m512 r;
  __builtin_memcpy(halves, &a, sizeof a);
  for (int i = 0; i < 2; i++) floats[i] = _mm256_cvtph_ps(halves[i]);
  __builtin_memcpy(&r, floats, sizeof r);
  return r;
}

inline __m512i dpbusd_epi32_emulated(__m512i sum, __m512i a, __m512i b) {  // SIMDe's trips a fault of GCC 12
  int32_t total[16];
  uint8_t u[64];
  int8_t s[64];
  __builtin_memcpy(total, &sum, sizeof sum);
  __builtin_memcpy(u, &a, sizeof a);
  __builtin_memcpy(s, &b, sizeof b);
  for (int i = 0; i < 64; i++) total[i / 4] += u[i] * s[i];
  __builtin_memcpy(&sum, total, sizeof sum);
  return sum;
}

#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 dpbusd_epi32_emulated
#define _mm512_cvtps_epi32 cvtps_epi32_emulated
#define _mm512_cvtepi32_ps cvtepi32_ps_emulated
#define _mm512_cvtepu8_epi32 cvtepu8_epi32_emulated
#define _mm512_cvtepi8_epi32 cvtepi8_epi32_emulated
#define _mm512_cvtepu16_epi32 cvtepu16_epi32_emulated
#define _mm512_cvtepi32_epi8 cvtepi32_epi8_emulated
#define _mm512_cvtepi32_epi16 cvtepi32_epi16_emulated
#define _mm512_cvtph_ps cvtph_ps_emulated
