// Products of tiles with activations. A tile is 16 rows of a matrix; see a3b.formats.tiles for the layout of the
// integers. Float tiles hold [columns][16] numbers, float32 or BF16.
//
// One order of additions: an integer sum covers one group, or one super-block with its codes of scales; these are added
// in ascending order to one float per row and token, first scale·sum, then minimum·sum of activations. Float tiles add
// ascending columns. So the bits do not depend on how many rows or tokens a call has.
//
// A scale or an activation that is not finite makes every result it contributes to NaN, whatever the integers under
// that scale.
#pragma once
#include <utility>

#include "matrix.h"
#include "simd.h"

namespace a3b::A3B_NS {

static_assert(LANES == TILE_ROWS);

template <Code CODE>
struct Format {
  static constexpr const FormatSpec& SPEC = FORMAT_SPECS[CODE];
  static constexpr int BITS = SPEC.bits, GROUP = SPEC.group, UNIT = SPEC.unit, ZERO = SPEC.zero, GROUPS = SPEC.groups();
  static constexpr bool MINIMUM = SPEC.has_minimum, SUPER = SPEC.is_super(), SIGNED = SPEC.has_signed_codes;
  static constexpr int HEADER = SPEC.header_bytes(), GROUP_BYTES = SPEC.group_bytes(), UNIT_BYTES = SPEC.unit_bytes();
  static constexpr int STEP = BITS == 4 ? 8 : BITS == 6 ? 16 : 4;  // columns whose integers lie in one piece
  static constexpr int STEP_BYTES = TILE_ROWS * STEP * BITS / 8;
  static constexpr int UNITS_PER_PREFETCH = SUPER ? 1 : TUNING.flat_units_per_prefetch;
};

// fn(Format<...>{}) for the format of a code.
template <class Fn>
[[gnu::always_inline]] inline auto with_format(Code code, const Fn& fn) {
  switch (code) {
    case W4S32: return fn(Format<W4S32>{});
    case W4M32: return fn(Format<W4M32>{});
    case W4M64: return fn(Format<W4M64>{});
    case W4K32: return fn(Format<W4K32>{});
    case W6S32: return fn(Format<W6S32>{});
    case W6K16: return fn(Format<W6K16>{});
    case W6K32: return fn(Format<W6K32>{});
    default: return fn(Format<W8S32>{});
  }
}

// Bytes to prefetch, `lines` of 64 each time. Their number is constant, because branches would cost more than the wait.
struct PrefetchShare {
  const uint8_t* at;
  int lines;
  [[gnu::always_inline]] void prefetch() {
    for (int i = 0; i < lines; i++, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

// fn(0), fn(1), .., each a constant: arrays that are only indexed by constants live in registers, however the compiler
// treats loops.
template <int N, class Fn>
[[gnu::always_inline]] inline void unroll(const Fn& fn) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (fn(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// The header of the unit at `at`: float16 scales (and minimums) of 16 rows per group, or in super-blocks two float16
// per row, then codes of scales (and minimums) of 16 rows per group.
template <class Q>
struct Header {
  static F half(const uint8_t* at, int index) { return load_half((const uint16_t*)at + TILE_ROWS * index); }
  static const uint8_t* codes(const uint8_t* at, int index) { return at + 4 * TILE_ROWS + TILE_ROWS * index; }
  static I scale_code(const uint8_t* at, int group) {
    return Q::SIGNED ? iload_s8(codes(at, group)) : iload_u8(codes(at, group));
  }
  static Int16s minimum_codes(const uint8_t* at, int pair) {
    return load_pairs(codes(at, Q::GROUPS + 2 * pair), codes(at, Q::GROUPS + 2 * pair + 1));
  }
  static F scale(const uint8_t* at, int group) {
    return Q::SUPER ? to_float(scale_code(at, group)) * half(at, 0) : half(at, group);
  }
  static F minimum(const uint8_t* at, int group) {
    return Q::SUPER ? to_float(iload_u8(codes(at, Q::GROUPS + group))) * half(at, 1) : half(at, Q::GROUPS + group);
  }
};

// The prepared activations of MB tokens; see PreparedRows.
template <int MB>
struct PreparedTokens {
  const int8_t* q[MB];
  ptrdiff_t scale_at, offset_at;

  template <class Number>
  [[gnu::always_inline]] Number read(int m, ptrdiff_t at) const {
    Number value;
    memcpy(&value, q[m] + at, sizeof value);
    return value;
  }
  float scale(int m, int index) const { return read<float>(m, scale_at + 4 * index); }
  int32_t start(int m, int group) const { return read<int32_t>(m, offset_at + 4 * group); }
  float group_sum(int m, int group) const { return read<float>(m, offset_at + 4 * group); }
  int32_t group_sum_pair(int m, int group) const { return read<int32_t>(m, offset_at + 2 * group); }
};

// One piece of the integers of a tile times the activations of MB tokens, added to MB sums.
template <class Q, int MB, PrefetchMode PREFETCH>
[[gnu::always_inline]] inline void dot_step(const uint8_t* q, const PreparedTokens<MB>& x, int column,
                                            Dot<Q::BITS>* dot) {
  if constexpr (PREFETCH == PREFETCH_STREAM)
    for (int line = 0; line < Q::STEP_BYTES; line += 64) __builtin_prefetch(q + TUNING.prefetch_distance + line);
  auto step = [&](auto m, const Bytes& w, int at) { dot[m].step(w, x.q[m] + column + at); };
  if constexpr (Q::BITS == 4) {
    const Bytes both = load_bytes(q), w0 = low_half(both), w1 = high_half(both);
    unroll<MB>([&](auto m) { step(m, w0, 0), step(m, w1, 4); });
  } else if constexpr (Q::BITS == 6) {
    const Bytes first = load_bytes(q), second = load_bytes(q + 64), top = load_bytes(q + 128);
    const Bytes w0 = with_top<0>(low_half(first), top), w1 = with_top<1>(high_half(first), top);
    unroll<MB>([&](auto m) { step(m, w0, 0), step(m, w1, 4), dot[m].flush(); });
    const Bytes w2 = with_top<2>(low_half(second), top), w3 = with_top<3>(high_half(second), top);
    unroll<MB>([&](auto m) { step(m, w2, 8), step(m, w3, 12), dot[m].flush(); });
  } else {
    const Bytes w = load_bytes(q);
    unroll<MB>([&](auto m) { step(m, w, 0), dot[m].flush(); });
  }
}

// The exact integer sums of group g of unit u, for MB tokens.
template <class Q, int MB, PrefetchMode PREFETCH>
[[gnu::always_inline]] inline void group_dot(const uint8_t* unit, int u, int g, const PreparedTokens<MB>& x,
                                             Dot<Q::BITS> (&dot)[MB]) {
  const int group = u * Q::GROUPS + g;
  unroll<MB>([&](auto m) {
    int32_t start = 0;
    if constexpr (!Q::MINIMUM) start = x.start(m, group);
    dot[m].start(start);
  });
  unroll<Q::GROUP / Q::STEP>([&](auto s) {
    const uint8_t* q = unit + Q::HEADER + g * Q::GROUP_BYTES + s * Q::STEP_BYTES;
    dot_step<Q, MB, PREFETCH>(q, x, u * Q::UNIT + g * Q::GROUP + s * Q::STEP, dot);
    if constexpr (Q::BITS == 4 && (s + 1) % (Dot<4>::STEPS_BEFORE_FLUSH / 2) == 0)
      unroll<MB>([&](auto m) { dot[m].flush(); });
  });
}

// total += top·scale·Σ code·sum over the groups of super-block u, then the same of minimums.
template <class Q, int MB, PrefetchMode PREFETCH>
[[gnu::always_inline]] inline void add_super_block(const uint8_t* unit, int u, const PreparedTokens<MB>& x,
                                                   F (&total)[MB]) {
  const F top = Header<Q>::half(unit, 0);
  I sum[MB];
  unroll<MB>([&](auto m) { sum[m] = iset1(0); });
  for (int g = 0; g < Q::GROUPS; g++) {
    Dot<Q::BITS> dot[MB];
    group_dot<Q, MB, PREFETCH>(unit, u, g, x, dot);
    const I code = Header<Q>::scale_code(unit, g);
    unroll<MB>([&](auto m) { sum[m] = sum[m] + dot[m].value() * code; });
  }
  unroll<MB>([&](auto m) { total[m] = fma(to_float(sum[m]), top * set1(x.scale(m, u)), total[m]); });
  if constexpr (Q::MINIMUM) {
    PairDot minimums[MB];
    unroll<MB>([&](auto m) { minimums[m].start(); });
    unroll<Q::GROUPS / 2>([&](auto pair) {
      const Int16s codes = Header<Q>::minimum_codes(unit, pair);
      unroll<MB>([&](auto m) { minimums[m].step(codes, x.group_sum_pair(m, u * Q::GROUPS + 2 * pair)); });
    });
    const F low = Header<Q>::half(unit, 1);
    unroll<MB>([&](auto m) { total[m] = fma(to_float(minimums[m].value()), low * set1(x.scale(m, u)), total[m]); });
  }
}

// total += scale·sum, then minimum·sum of activations, for each group of unit u.
template <class Q, int MB, PrefetchMode PREFETCH>
[[gnu::always_inline]] inline void add_flat_unit(const uint8_t* unit, int u, const PreparedTokens<MB>& x,
                                                 F (&total)[MB]) {
  for (int g = 0; g < Q::GROUPS; g++) {
    Dot<Q::BITS> dot[MB];
    const int group = u * Q::GROUPS + g;
    group_dot<Q, MB, PREFETCH>(unit, u, g, x, dot);
    const F scale = Header<Q>::scale(unit, g);
    unroll<MB>([&](auto m) { total[m] = fma(to_float(dot[m].value()), scale * set1(x.scale(m, group)), total[m]); });
    if constexpr (Q::MINIMUM) {
      const F low = Header<Q>::minimum(unit, g);
      unroll<MB>([&](auto m) { total[m] = fma(low, set1(x.group_sum(m, group)), total[m]); });
    }
  }
}

// A tile times MB tokens: out[m·stride + row]. Flattened, so that all indices are constants before the compiler decides
// where arrays live.
template <class Q, int MB, PrefetchMode PREFETCH>
[[gnu::flatten]] void tile_block(const uint8_t* tile, int num_units, const PreparedRows& rows, const int* tokens,
                                 float* out, int stride, PrefetchShare next) {
  PreparedTokens<MB> x;
  unroll<MB>([&](auto m) { x.q[m] = rows.row(tokens[m]); });
  x.scale_at = rows.scale_at, x.offset_at = rows.offset_at;
  F total[MB];
  unroll<MB>([&](auto m) { total[m] = zero(); });
  for (int u = 0; u < num_units; u++) {
    if (PREFETCH == PREFETCH_NEXT && u % Q::UNITS_PER_PREFETCH == 0) next.prefetch();
    const uint8_t* unit = tile + (size_t)u * Q::UNIT_BYTES;
    if constexpr (PREFETCH != PREFETCH_NEXT) {  // all of it now: parts are used last, and a stream with gaps is slower
      constexpr int DISTANCE = PREFETCH == PREFETCH_STREAM ? TUNING.prefetch_distance : 0;
      for (int line = 0; line < Q::HEADER; line += 64) __builtin_prefetch(unit + DISTANCE + line);
    }
    if constexpr (Q::SUPER) add_super_block<Q, MB, PREFETCH>(unit, u, x, total);
    else add_flat_unit<Q, MB, PREFETCH>(unit, u, x, total);
  }
  unroll<MB>([&](auto m) { store(out + (size_t)m * stride, finite_or_nan(total[m])); });
}

template <class W>  // float, or uint16_t for BF16
inline F load_weights(const W* p) {
  if constexpr (sizeof(W) == 4) return load(p);
  else return load_bf16(p);
}

// The same over float tiles [n][16].
template <class W, int TB, int MB>
void float_block(const W* tiles, size_t tile_len, int n, const PreparedRows& rows, const int* tokens, float* out,
                 int stride) {
  const float* x[MB];
  for (int m = 0; m < MB; m++) x[m] = rows.f + (size_t)tokens[m] * rows.f_stride;
  F total[TB][MB];
  for (int b = 0; b < TB; b++)
    for (int m = 0; m < MB; m++) total[b][m] = zero();
  for (int k = 0; k < n; k++) {
    F w[TB];
    for (int b = 0; b < TB; b++) w[b] = load_weights(tiles + b * tile_len + (size_t)k * TILE_ROWS);
    for (int m = 0; m < MB; m++) {
      F xk = set1(x[m][k]);
      for (int b = 0; b < TB; b++) total[b][m] = fma(w[b], xk, total[b][m]);
    }
  }
  for (int b = 0; b < TB; b++)
    for (int m = 0; m < MB; m++) store(out + (size_t)m * stride + b * TILE_ROWS, finite_or_nan(total[b][m]));
}

}  // namespace a3b::A3B_NS
