#pragma once
#include <cstddef>
#include <cstdint>

namespace a3b {

// SHA-256 (FIPS 180-4) whose state can be stored and continued in another process.
struct Sha256 {
  uint32_t words[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint64_t num_bytes = 0;  // so far
  uint8_t rest[64] = {};   // the last num_bytes % 64 bytes, which fill no block yet

  void update(const uint8_t* data, size_t size);
  void digest(uint8_t out[32]) const;
};

// The rounds of whole blocks.
using Sha256Blocks = void (*)(uint32_t words[8], const uint8_t* data, size_t num_blocks);
void sha256_blocks(uint32_t words[8], const uint8_t* data, size_t num_blocks);
Sha256Blocks sha256_blocks_of_machine();  // with the machine's instructions for it; nullptr if it has none

extern const uint32_t SHA256_CONSTANTS[64];

}  // namespace a3b
