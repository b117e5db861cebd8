// Products of tiles with activations. A tile is 16 rows of a matrix; see a3b.formats.tiles for the layout of the integers.
// Float tiles hold [columns][16] numbers, f32 or bf16.
//
// One order of additions: an integer sum covers one group, or one super-block with its codes of scales; these are added in
// ascending order to one float per row and token, first scale·sum, then minimum·sum of activations. Float tiles add
// ascending columns. So the bits do not depend on how many rows or tokens a call has.
//
// A scale or an activation that is not finite makes NaN of every result it has a part in: integers under a scale of NaN do not count.
#pragma once
#include "ops.h"
#include "simd.h"

#include <utility>

namespace a3b::A3B_NS {

constexpr int ROWS = LANES;

template <int BITS_, int GROUP_, int UNIT_, bool MINIMUM_, int ZERO_, bool SIGNED_ = false> struct Format {
  static constexpr int BITS = BITS_, GROUP = GROUP_, UNIT = UNIT_, ZERO = ZERO_, GROUPS = UNIT / GROUP;
  static constexpr bool MINIMUM = MINIMUM_, SUPER = UNIT == 256, SIGNED = SIGNED_;
  static constexpr int HEADER = SUPER ? ROWS * (4 + GROUPS * (1 + MINIMUM)) : ROWS * 2 * GROUPS * (1 + MINIMUM);
  static constexpr int GROUP_BYTES = ROWS * GROUP * BITS / 8;
  static constexpr int UNIT_BYTES = HEADER + GROUPS * GROUP_BYTES;
  static constexpr int ASKED_EVERY = SUPER ? 1 : 4;  // units from one time of asking for bytes to the next
};
// fn(Format<...>{}) for the format of a code.
template <class Fn> [[gnu::always_inline]] inline auto with_format(Code code, const Fn& fn) {
  switch (code) {
    case W4S32: return fn(Format<4, 32, 64, false, 8>{});
    case W4M32: return fn(Format<4, 32, 64, true, 0>{});
    case W4M64: return fn(Format<4, 64, 64, true, 0>{});
    case W4K32: return fn(Format<4, 32, 256, true, 0>{});
    case W6S32: return fn(Format<6, 32, 64, false, 32>{});
    case W6K16: return fn(Format<6, 16, 256, false, 32, true>{});
    case W6K32: return fn(Format<6, 32, 256, true, 0>{});
    default: return fn(Format<8, 32, 64, false, 128>{});
  }
}

// How the bytes of tiles come in time. Tiles that are walked once ask for those AHEAD bytes behind them: the next tile's at the end of one, and
// harmless behind the last; or they leave it to the processor, which some do better, with a single token (Context::asks_ahead). Tiles that several
// blocks of tokens walk are in the cache from the second block on, so each block asks for its share of what comes next.
enum Asking { ALONE, FOR_ITSELF, FOR_SHARES };
constexpr int AHEAD = 2048;

// Bytes to ask for, `lines` of 64 each time. Their number is the same each time, or the branches would cost more than the wait.
struct Share {
  const uint8_t* at;
  int lines;
  [[gnu::always_inline]] void ask() {
    for (int i = 0; i < lines; i++, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

// fn(0), fn(1), .., each a constant: arrays that are only indexed so are registers from the start, whatever the compiler makes of loops.
template <int N, class Fn> [[gnu::always_inline]] inline void each(const Fn& fn) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (fn(std::integral_constant<int, I>{}), ...); }
  (std::make_integer_sequence<int, N>{});
}

// One 64 to 192-byte piece of q and the activations under it, into MB sums. The integer sums have room for what lies between two `settle`s.
template <class Q, int MB, Asking ASKING> [[gnu::always_inline]] inline void piece(const uint8_t* q, const int8_t* const* x, int column, Dot<Q::BITS>* dot) {
  if constexpr (ASKING == FOR_ITSELF)
    for (int line = 0; line < (Q::BITS == 6 ? 192 : 64); line += 64) __builtin_prefetch(q + AHEAD + line);
  if constexpr (Q::BITS == 4) {
    Bytes both = load_bytes(q), low = low_half(both), high = high_half(both);
    each<MB>([&](auto m) { dot[m].step(low, x[m] + column), dot[m].step(high, x[m] + column + 4); });
  } else if constexpr (Q::BITS == 6) {
    Bytes first = load_bytes(q), second = load_bytes(q + 64), top = load_bytes(q + 128);
    Bytes w0 = with_top<0>(low_half(first), top), w1 = with_top<1>(high_half(first), top);
    each<MB>([&](auto m) { dot[m].step(w0, x[m] + column), dot[m].step(w1, x[m] + column + 4), dot[m].settle(); });
    Bytes w2 = with_top<2>(low_half(second), top), w3 = with_top<3>(high_half(second), top);
    each<MB>([&](auto m) { dot[m].step(w2, x[m] + column + 8), dot[m].step(w3, x[m] + column + 12), dot[m].settle(); });
  } else {
    Bytes w = load_bytes(q);
    each<MB>([&](auto m) { dot[m].step(w, x[m] + column), dot[m].settle(); });
  }
}

// The numbers before the integers of the unit at `at`.
template <class Q> struct Header {
  static F half(const uint8_t* at, int index) { return load_half((const uint16_t*)at + ROWS * index); }
  static const uint8_t* codes(const uint8_t* at, int index) { return at + 4 * ROWS + ROWS * index; }
  static I scale_code(const uint8_t* at, int group) { return Q::SIGNED ? iload_s8(codes(at, group)) : iload_u8(codes(at, group)); }
  static Wide minimum_codes(const uint8_t* at, int pair) { return load_pairs(codes(at, Q::GROUPS + 2 * pair), codes(at, Q::GROUPS + 2 * pair + 1)); }
  static F scale(const uint8_t* at, int group) { return Q::SUPER ? to_float(scale_code(at, group)) * half(at, 0) : half(at, group); }
  static F minimum(const uint8_t* at, int group) {
    return Q::SUPER ? to_float(iload_u8(codes(at, Q::GROUPS + group))) * half(at, 1) : half(at, Q::GROUPS + group);
  }
};

template <class Number> [[gnu::always_inline]] inline Number number(const int8_t* row, ptrdiff_t at) {
  Number value;
  memcpy(&value, row + at, sizeof value);
  return value;
}

// The exact sums of one group, of TB tiles and MB tokens.
template <class Q, int TB, int MB, Asking ASKING>
[[gnu::always_inline]] inline void group_sums(const uint8_t* const* unit, int g, const int8_t* const* x, int column, ptrdiff_t offset_at,
                                              Dot<Q::BITS> (&dot)[TB][MB]) {
  constexpr int STEP = Q::BITS == 4 ? 8 : Q::BITS == 6 ? 16 : 4, PIECE = ROWS * STEP * Q::BITS / 8;
  each<MB>([&](auto m) {
    int32_t init = 0;
    if constexpr (!Q::MINIMUM) init = number<int32_t>(x[m], offset_at);
    each<TB>([&](auto b) { dot[b][m].start(init); });
  });
  each<Q::GROUP / STEP>([&](auto p) {
    each<TB>([&](auto b) {
      piece<Q, MB, ASKING>(unit[b] + Q::HEADER + g * Q::GROUP_BYTES + p * PIECE, x, column + p * STEP, dot[b]);
      if constexpr (Q::BITS == 4 && (p + 1) % (Dot<4>::ROOM / 2) == 0) each<MB>([&](auto m) { dot[b][m].settle(); });
    });
  });
}

// TB tiles, `tile_bytes` apart, times MB tokens: out[m·stride + 16·tile + row]. Flat, so that all indices are constants before arrays are
// looked at.
template <class Q, int TB, int MB, Asking ASKING>
[[gnu::flatten]] void tiles_block(const uint8_t* tiles, size_t tile_bytes, int num_units, const Rows& rows, const int* tokens, float* out, int stride, Share later) {
  const int8_t* x[MB];
  each<MB>([&](auto m) { x[m] = rows.q + (size_t)tokens[m] * rows.q_stride; });
  const ptrdiff_t scale_at = rows.scale_at, offset_at = rows.offset_at;
  F total[TB][MB];
  each<TB>([&](auto b) { each<MB>([&](auto m) { total[b][m] = zero(); }); });
  for (int u = 0; u < num_units; u++) {
    if (ASKING == FOR_SHARES && u % Q::ASKED_EVERY == 0) later.ask();
    const uint8_t* unit[TB];
    each<TB>([&](auto b) {
      unit[b] = tiles + b * tile_bytes + (size_t)u * Q::UNIT_BYTES;
      if constexpr (ASKING != FOR_SHARES)  // all of it now: some is used last, and a stream of bytes with gaps comes slower
        for (int line = 0; line < Q::HEADER; line += 64) __builtin_prefetch(unit[b] + (ASKING == FOR_ITSELF ? AHEAD : 0) + line);
    });
    if constexpr (Q::SUPER) {
      F top[TB];
      I sum[TB][MB];
      each<TB>([&](auto b) {
        top[b] = Header<Q>::half(unit[b], 0);
        each<MB>([&](auto m) { sum[b][m] = iset1(0); });
      });
      for (int g = 0; g < Q::GROUPS; g++) {
        Dot<Q::BITS> dot[TB][MB];
        group_sums<Q, TB, MB, ASKING>(unit, g, x, u * Q::UNIT + g * Q::GROUP, offset_at + 4 * (u * Q::GROUPS + g), dot);
        each<TB>([&](auto b) {
          const I code = Header<Q>::scale_code(unit[b], g);
          each<MB>([&](auto m) { sum[b][m] = sum[b][m] + dot[b][m].value() * code; });
        });
      }
      each<TB>([&](auto b) {
        each<MB>([&](auto m) { total[b][m] = fma(to_float(sum[b][m]), top[b] * set1(number<float>(x[m], scale_at + 4 * u)), total[b][m]); });
        if constexpr (Q::MINIMUM) {
          Pairs lows[MB];
          each<MB>([&](auto m) { lows[m].start(); });
          each<Q::GROUPS / 2>([&](auto pair) {
            const Wide codes = Header<Q>::minimum_codes(unit[b], pair);
            each<MB>([&](auto m) { lows[m].step(codes, number<int32_t>(x[m], offset_at + 2 * (u * Q::GROUPS + 2 * pair))); });
          });
          const F low = Header<Q>::half(unit[b], 1);
          each<MB>([&](auto m) { total[b][m] = fma(to_float(lows[m].value()), low * set1(number<float>(x[m], scale_at + 4 * u)), total[b][m]); });
        }
      });
    } else {
      for (int g = 0; g < Q::GROUPS; g++) {
        Dot<Q::BITS> dot[TB][MB];
        const int group = u * Q::GROUPS + g;
        group_sums<Q, TB, MB, ASKING>(unit, g, x, group * Q::GROUP, offset_at + 4 * group, dot);
        each<TB>([&](auto b) {
          const F s = Header<Q>::scale(unit[b], g);
          each<MB>([&](auto m) {
            total[b][m] = fma(to_float(dot[b][m].value()), s * set1(number<float>(x[m], scale_at + 4 * group)), total[b][m]);
          });
          if constexpr (Q::MINIMUM) {
            const F low = Header<Q>::minimum(unit[b], g);
            each<MB>([&](auto m) { total[b][m] = fma(low, set1(number<float>(x[m], offset_at + 4 * group)), total[b][m]); });
          }
        });
      }
    }
  }
  each<TB>([&](auto b) { each<MB>([&](auto m) { store(out + (size_t)m * stride + b * ROWS, finite_or_nan(total[b][m])); }); });
}

// The same over float tiles [n][16]; W is float or uint16_t (bf16).
template <class W> inline F load_weights(const W* p) {
  if constexpr (sizeof(W) == 4) return load(p);
  else return load_bf16(p);
}
template <class W, int TB, int MB>
void float_block(const W* tiles, size_t tile_len, int n, const Rows& rows, const int* tokens, float* out, int stride) {
  const float* x[MB];
  for (int m = 0; m < MB; m++) x[m] = rows.f + (size_t)tokens[m] * rows.f_stride;
  F total[TB][MB];
  for (int b = 0; b < TB; b++)
    for (int m = 0; m < MB; m++) total[b][m] = zero();
  for (int k = 0; k < n; k++) {
    F w[TB];
    for (int b = 0; b < TB; b++) w[b] = load_weights(tiles + b * tile_len + (size_t)k * ROWS);
    for (int m = 0; m < MB; m++) {
      F xk = set1(x[m][k]);
      for (int b = 0; b < TB; b++) total[b][m] = fma(w[b], xk, total[b][m]);
    }
  }
  for (int b = 0; b < TB; b++)
    for (int m = 0; m < MB; m++) store(out + (size_t)m * stride + b * ROWS, finite_or_nan(total[b][m]));
}

// Any number of tiles and tokens: out[m·stride + 16·tile + row], tokens[m] the row of the activations. next: the tiles that this thread wants
// afterwards, or null.
void multiply(const Context& context, const Tiles& tiles, int first_tile, int num_tiles, const Rows& rows, const int* tokens, int num_tokens, float* out, int stride,
              const uint8_t* next = nullptr);

// float [n] -> what `form` asks for, of one row. The columns behind n are zero.
void prepare(const Form& form, const float* x, int n, const Rows& rows, int row);

// The same for columns [begin, begin + part_len(form)) of a row of n, given as x[0] ..; begin a multiple of that. The last part also
// clears the padding.
void prepare_part(const Form& form, const float* x, int n, int begin, const Rows& rows, int row);

void rms_norm_row(const float* x, const float* weight, int n, float eps, float* out);

}  // namespace a3b::A3B_NS
