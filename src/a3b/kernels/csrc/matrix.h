// Matrices in tiles of 16 rows, and activations as products with them read them. See a3b.formats.tiles for the order of
// the integers.
#pragma once
#include <cstddef>
#include <cstdint>

#include "pool.h"

namespace a3b {

constexpr int TILE_ROWS = 16;

enum Code { W4S32, W4M32, W4M64, W4K32, W6S32, W6K16, W6K32, W8S32, F32, BF16, NUM_CODES };

// An integer format. A unit of `unit` columns has a header of scales (and minimums), then `groups()` groups of
// integers.
struct FormatSpec {
  int bits, group, unit, zero;
  bool has_minimum, has_signed_codes = false;

  constexpr bool is_super() const { return unit == 256; }  // 8-bit codes of scales under one float16 scale
  constexpr int groups() const { return unit / group; }
  constexpr int group_bytes() const { return TILE_ROWS * group * bits / 8; }
  constexpr int header_bytes() const {
    return TILE_ROWS * (is_super() ? 4 + groups() * (1 + has_minimum) : 2 * groups() * (1 + has_minimum));
  }
  constexpr int unit_bytes() const { return header_bytes() + groups() * group_bytes(); }
};

inline constexpr FormatSpec FORMAT_SPECS[] = {
    {4, 32, 64, 8, false},          // W4S32
    {4, 32, 64, 0, true},           // W4M32
    {4, 64, 64, 0, true},           // W4M64
    {4, 32, 256, 0, true},          // W4K32
    {6, 32, 64, 32, false},         // W6S32
    {6, 16, 256, 32, false, true},  // W6K16
    {6, 32, 256, 0, true},          // W6K32
    {8, 32, 64, 128, false},        // W8S32
};

// A matrix [rows, n] in ceil(rows / 16) tiles of `tile_bytes` each; several matrices of one shape may lie one after the
// other.
struct Tiles {
  Code code;
  const uint8_t* data;
  int rows, n, num_units;
  size_t tile_bytes;

  int num_tiles() const { return (rows + TILE_ROWS - 1) / TILE_ROWS; }
  size_t bytes() const { return num_tiles() * tile_bytes; }
  const uint8_t* tile(int index) const { return data + index * tile_bytes; }
  Tiles matrix(size_t index) const {
    Tiles other = *this;
    other.data = data + index * bytes();
    return other;
  }
};

Tiles tiles_of_shape(Code code, const uint8_t* data, int rows, int n);

// How activations are prepared for a format: int8 with one scale per `scale_group` columns, and per `group` columns one
// offset:
//   without minimums  int32, the start of the integer sum, which takes the zero point off the weights
//   with minimums     the sum of the activations: int16 in super-blocks, otherwise float32 and times the scale
// Float tiles read float32.
struct ActivationLayout {
  int scale_group, group, zero;  // scale_group 0: floats
  bool has_minimum;
  int bits;
  int columns;  // padded

  bool is_super() const { return scale_group == 256; }
  // Columns that can be prepared apart from the others.
  int part_len() const { return scale_group > 64 ? scale_group : 64; }
  bool operator==(const ActivationLayout& other) const;
};

ActivationLayout layout_of(const Tiles& tiles);

// Prepared activations, one row per token, in one of two forms:
//   floats    f [rows, columns]
//   integers  q [rows]: int8 [columns] | float32 scales [columns / scale_group] | offsets [columns / group] of 4 bytes
// Scales and offsets lie in the row, so that products need one pointer per token.
struct PreparedRows {
  int8_t* q = nullptr;
  float* f = nullptr;
  int q_stride = 0, scale_at = 0, offset_at = 0;  // bytes
  int f_stride = 0;                               // floats

  int8_t* row(int index) const { return q + (size_t)index * q_stride; }
};

PreparedRows take_rows(const ActivationLayout& layout, int num_rows, ScratchSlots& slots);

}  // namespace a3b
