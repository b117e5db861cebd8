// embed: rows of a matrix as floats.
#include "tiles.h"

namespace a3b::A3B_NS {

namespace {

// The integer of a row (`lane` of its tile) and a column of a group, given the group's first byte.
template <class Q>
int integer_at(const uint8_t* group, int lane, int column) {
  const uint8_t* q = group + 4 * lane + column % 4;
  const int step = column / 4;  // 64 bytes of 16 rows and 4 columns at 8 bits
  if constexpr (Q::BITS == 4) return q[step / 2 * 64] >> 4 * (step % 2) & 15;
  if constexpr (Q::BITS == 8) return q[step * 64];
  const uint8_t* piece = q + step / 4 * 192;
  return (piece[step % 4 / 2 * 64] >> 4 * (step % 2) & 15) | (piece[128] >> 2 * (step % 4) & 3) << 4;
}

// scale·q + minimum, rounded as the sum of the two.
template <class Q>
void decode_row(const Tiles& t, int64_t row, float* out) {
  const int lane = row % TILE_ROWS;
  const uint8_t* tile = t.data + row / TILE_ROWS * t.tile_bytes;
  for (int u = 0; u < t.num_units; u++) {
    const uint8_t* unit = tile + (size_t)u * Q::UNIT_BYTES;
    for (int g = 0; g < Q::GROUPS; g++) {
      float scale[LANES], low[LANES];
      store(scale, Header<Q>::scale(unit, g));
      if constexpr (Q::MINIMUM) store(low, Header<Q>::minimum(unit, g));
      else store(low, Header<Q>::scale(unit, g) * set1(-(float)Q::ZERO));
      for (int i = 0; i < Q::GROUP; i++) {
        const int column = u * Q::UNIT + g * Q::GROUP + i;
        if (column >= t.n) return;
        const int q = integer_at<Q>(unit + Q::HEADER, lane, g * Q::GROUP + i);
        out[column] = scale[lane] * (float)q + low[lane];
      }
    }
  }
}

template <class W>
void copy_row(const Tiles& t, int64_t row, float* out) {
  const W* from = (const W*)t.data + row / TILE_ROWS * (size_t)t.n * TILE_ROWS + row % TILE_ROWS;
  for (int k = 0; k < t.n; k++, from += TILE_ROWS) {
    if constexpr (sizeof(W) == 4) {
      out[k] = *from;
    } else {
      const uint32_t bits = (uint32_t)*from << 16;
      memcpy(out + k, &bits, 4);
    }
  }
}

}  // namespace

void embed(const Tiles& t, const int64_t* ids, int num_ids, float* out) {
  for (int i = 0; i < num_ids; i++, out += t.n) {
    if (t.code == F32) copy_row<float>(t, ids[i], out);
    else if (t.code == BF16) copy_row<uint16_t>(t, ids[i], out);
    else with_format(t.code, [&](auto format) { decode_row<decltype(format)>(t, ids[i], out); });
  }
}

}  // namespace a3b::A3B_NS
