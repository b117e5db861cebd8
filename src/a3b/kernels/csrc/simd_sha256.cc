// The rounds of SHA-256 with the instructions that x86-64 processors have for them.
#include "sha256.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace a3b {

#if defined(__x86_64__)

namespace {

__attribute__((target("sha,sse4.1"))) void sha_blocks(uint32_t words[8], const uint8_t* data, size_t num_blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i*)words), 0xb1);
  const __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i*)(words + 4)), 0x1b);
  __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0);
  for (; num_blocks; --num_blocks, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      __m128i& now = w[i % 4];
      const __m128i one = w[(i + 3) % 4], two = w[(i + 2) % 4];  // the vector before, and the one before that
      if (i < 4) {
        now = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(data + 16 * i)), swap);
      } else {
        const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(now, w[(i + 1) % 4]), _mm_alignr_epi8(one, two, 4));
        now = _mm_sha256msg2_epu32(sum, one);
      }
      const __m128i k = _mm_add_epi32(now, _mm_loadu_si128((const __m128i*)(SHA256_CONSTANTS + 4 * i)));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
    }
    abef = _mm_add_epi32(abef, abef_before), cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128((__m128i*)words, _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128((__m128i*)(words + 4), _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace

Sha256Blocks sha256_blocks_of_machine() {
  unsigned a, b = 0, c, d;
  const bool has_sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> 29 & 1;
  return has_sha && __builtin_cpu_supports("sse4.1") ? sha_blocks : nullptr;
}

#else

Sha256Blocks sha256_blocks_of_machine() { return nullptr; }

#endif

}  // namespace a3b
