// Activations as products read them, and the RMS norm before them.
#include "products.h"

namespace a3b::A3B_NS {

namespace {

constexpr int MAX_GROUP = 256;
constexpr float ZEROS[MAX_GROUP] = {};

// One scale group: q = round(x·127/max|x|), halves to even; sums[i] of q[16i .. 16i + 15]. Returns max|x|, NaN or
// infinity if x holds it.
float quantise_group(const float* x, int n, int8_t* q, int32_t* sums) {
  F top = zero();
  for (int i = 0; i < n; i += LANES) top = max_abs(top, load(x + i));
  const float size = reduce_max_abs(top), inverse = size > 0 ? 127.0f / size : 0.0f;
  if (!(size < INFINITY)) x = ZEROS;  // integers could overflow their sums; zeros under this scale give NaN as well
  for (int i = 0; i < n; i += LANES) {
    const I rounded = rint(load(x + i) * set1(inverse));
    store_s8(q + i, rounded);
    sums[i / LANES] = reduce_add(rounded);
  }
  return size;
}

// The offset of a group whose integers sum to `total`; see ActivationLayout.
void store_offset(const ActivationLayout& layout, int total, float scale, float* offsets, int group) {
  const int bias = layout.bits == 8 ? Dot<8>::BIAS : 0;
  if (layout.has_minimum && layout.is_super()) {
    const int16_t sum = (int16_t)total;  // at most 32·127
    memcpy((int16_t*)offsets + group, &sum, 2);
  } else if (layout.has_minimum) {
    offsets[group] = scale * (float)total;
  } else {
    const int32_t start = -(layout.zero - bias) * total;
    memcpy(offsets + group, &start, 4);
  }
}

// Columns [begin, end) of a row; x[0] is column `begin`, columns from `begin + n` on are zero.
void prepare_columns(const ActivationLayout& layout, const float* x, int n, int begin, int end,
                     const PreparedRows& rows, int row) {
  int8_t* q = rows.row(row);
  float *scales = (float*)(q + rows.scale_at), *offsets = (float*)(q + rows.offset_at);
  const int num = layout.scale_group;
  for (int at = begin; at < end; at += num) {
    float padded[MAX_GROUP];
    int32_t sums[MAX_GROUP / LANES];
    const float* from = x + (at - begin);
    const int left = n - (at - begin);
    if (left < num) {
      memset(padded, 0, sizeof padded);
      if (left > 0) memcpy(padded, from, left * sizeof(float));
      from = padded;
    }
    const float scale = quantise_group(from, num, q + at, sums) / 127.0f;
    scales[at / num] = scale;
    for (int i = 0; i < num; i += layout.group) {
      int32_t total = 0;
      for (int j = i; j < i + layout.group; j += LANES) total += sums[j / LANES];
      store_offset(layout, total, scale, offsets, (at + i) / layout.group);
    }
  }
}

}  // namespace

void prepare(const ActivationLayout& layout, const float* x, int n, const PreparedRows& rows, int row) {
  if (layout.scale_group) prepare_columns(layout, x, n, 0, layout.columns, rows, row);
  else memcpy(rows.f + (size_t)row * rows.f_stride, x, n * sizeof(float));
}

void prepare_part(const ActivationLayout& layout, const float* x, int n, int begin, const PreparedRows& rows, int row) {
  const bool is_last = begin + layout.part_len() >= n;
  const int num = is_last ? n - begin : layout.part_len();
  if (layout.scale_group) prepare_columns(layout, x, num, begin, is_last ? layout.columns : begin + num, rows, row);
  else memcpy(rows.f + (size_t)row * rows.f_stride + begin, x, num * sizeof(float));
}

void rms_norm_row(const float* x, const float* weight, int n, float eps, float* out) {
  F squares = zero();
  int i = 0;
  for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
  float total = reduce_add(squares);
  for (; i < n; i++) total += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(finite_or_nan(total) / (float)n + eps);
  i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, load(x + i) * set1(factor) * load(weight + i));
  for (; i < n; i++) out[i] = x[i] * factor * weight[i];
}

}  // namespace a3b::A3B_NS
