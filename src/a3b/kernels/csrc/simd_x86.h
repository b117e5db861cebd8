// Reductions over 16 lanes for AVX-512 and AVX2: lanes i and i + 8, then i + 4, i + 2, i + 1.
#pragma once

namespace a3b::A3B_NS {

inline float reduce_add(F x) {
  const __m256 eight = _mm256_add_ps(first_half(x), second_half(x));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)),
               two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline int32_t reduce_add(I x) {
  const __m256i eight = _mm256_add_epi32(first_half(x), second_half(x));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline float reduce_max(F x) {
  const __m256 eight = _mm256_max_ps(first_half(x), second_half(x));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)),
               two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max_abs(F x) {  // of sizes: NaN before infinity before numbers, as integers are compared
  const __m256i eight = _mm256_max_epi32(_mm256_castps_si256(first_half(x)), _mm256_castps_si256(second_half(x)));
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
}

}  // namespace a3b::A3B_NS
