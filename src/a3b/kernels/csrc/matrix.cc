#include "matrix.h"

namespace a3b {

Tiles tiles_of_shape(Code code, const uint8_t* data, int rows, int n) {
  Tiles tiles{code, data, rows, n, 0, 0};
  if (code < F32) {
    const FormatSpec& spec = FORMAT_SPECS[code];
    tiles.num_units = (n + spec.unit - 1) / spec.unit;
    tiles.tile_bytes = (size_t)tiles.num_units * spec.unit_bytes();
  } else {
    tiles.tile_bytes = (size_t)n * TILE_ROWS * (code == F32 ? 4 : 2);
  }
  return tiles;
}

ActivationLayout layout_of(const Tiles& tiles) {
  if (tiles.code >= F32) return {0, 0, 0, false, 0, tiles.n};
  const FormatSpec& spec = FORMAT_SPECS[tiles.code];
  const int scale_group = spec.is_super() ? spec.unit : spec.group;
  return {scale_group, spec.group, spec.zero, spec.has_minimum, spec.bits, tiles.num_units * spec.unit};
}

bool ActivationLayout::operator==(const ActivationLayout& other) const {
  return scale_group == other.scale_group && group == other.group && zero == other.zero &&
         has_minimum == other.has_minimum && (bits == 8) == (other.bits == 8) && columns == other.columns;
}

PreparedRows take_rows(const ActivationLayout& layout, int num_rows, ScratchSlots& slots) {
  PreparedRows rows;
  if (!layout.scale_group) {
    rows.f_stride = layout.columns;
    rows.f = slots.take<float>((size_t)num_rows * layout.columns);
    return rows;
  }
  const int num_scales = layout.columns / layout.scale_group, num_offsets = layout.columns / layout.group;
  rows.q_stride = (layout.columns + 4 * (num_scales + num_offsets) + 63) / 64 * 64;
  rows.q = slots.take<int8_t>((size_t)num_rows * rows.q_stride);
  rows.scale_at = layout.columns;
  rows.offset_at = layout.columns + 4 * num_scales;
  return rows;
}

}  // namespace a3b
