// SHA-256 in plain C++, or with the instructions for it.
#include "sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace a3b {

const uint32_t SHA256_CONSTANTS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

uint32_t big_endian(const uint8_t* p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

void store_big_endian(uint8_t* p, uint32_t word) {
  for (int i = 0; i < 4; ++i) p[i] = (uint8_t)(word >> (24 - 8 * i));
}

Sha256Blocks chosen_blocks() {
  static const Sha256Blocks fast = sha256_blocks_of_machine();
  return fast ? fast : sha256_blocks;
}

}  // namespace

void sha256_blocks(uint32_t words[8], const uint8_t* data, size_t num_blocks) {
  using std::rotr;
  for (; num_blocks; --num_blocks, data += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = big_endian(data + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const uint32_t x = w[i - 15], y = w[i - 2];
      w[i] = w[i - 16] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + w[i - 7] + (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
    }
    uint32_t a = words[0], b = words[1], c = words[2], d = words[3];
    uint32_t e = words[4], f = words[5], g = words[6], h = words[7];
    for (int i = 0; i < 64; ++i) {
      const uint32_t one =
          h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + SHA256_CONSTANTS[i] + w[i];
      const uint32_t two = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
    }
    const uint32_t added[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) words[i] += added[i];
  }
}

void Sha256::update(const uint8_t* data, size_t size) {
  const Sha256Blocks blocks = chosen_blocks();
  const size_t held = num_bytes % 64;
  num_bytes += size;
  if (held) {
    const size_t taken = std::min(size, 64 - held);
    memcpy(rest + held, data, taken);
    data += taken, size -= taken;
    if (held + taken < 64) return;
    blocks(words, rest, 1);
  }
  blocks(words, data, size / 64);
  if (size % 64) memcpy(rest, data + size / 64 * 64, size % 64);
}

void Sha256::digest(uint8_t out[32]) const {
  Sha256 last = *this;
  uint8_t end[72] = {0x80};  // then zeros up to the last 8 bytes of a block, which hold the number of bits
  const size_t padding = (num_bytes % 64 < 56 ? 56 : 120) - num_bytes % 64;
  store_big_endian(end + padding, (uint32_t)(num_bytes >> 29));
  store_big_endian(end + padding + 4, (uint32_t)(num_bytes << 3));
  last.update(end, padding + 8);
  for (int i = 0; i < 8; ++i) store_big_endian(out + 4 * i, last.words[i]);
}

}  // namespace a3b
