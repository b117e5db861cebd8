// Products of any number of tiles and tokens, cut into blocks that fill the registers.
#include <array>

#include "products.h"
#include "tiles.h"

namespace a3b::A3B_NS {

namespace {

constexpr int TOKENS = TUNING.tokens_per_block;

using Block = void (*)(const uint8_t*, int, const PreparedRows&, const int*, float*, int, PrefetchShare);

// tile_block for 1, 2, .. TOKENS tokens.
template <class Q, PrefetchMode PREFETCH>
constexpr auto BLOCKS = []<int... M>(std::integer_sequence<int, M...>) {
  return std::array<Block, TOKENS>{tile_block<Q, M + 1, PREFETCH>...};
}(std::make_integer_sequence<int, TOKENS>{});

template <class W, int TB>
void float_tokens(const W* tiles, size_t tile_len, int n, const TokenSpan& x, float* out, int stride) {
  constexpr int MB = TUNING.float_tokens_per_block;
  int m = 0;
  for (; m + MB <= x.count; m += MB)
    float_block<W, TB, MB>(tiles, tile_len, n, x.rows, x.tokens + m, out + (size_t)m * stride, stride);
  for (; m < x.count; m++)
    float_block<W, TB, 1>(tiles, tile_len, n, x.rows, x.tokens + m, out + (size_t)m * stride, stride);
}

template <class W>
void multiply_float(const TileSpan& matrix, const TokenSpan& x, float* out, int stride) {
  constexpr int TB = TUNING.float_tiles_per_block;
  const Tiles& t = matrix.tiles;
  const size_t len = t.tile_bytes / sizeof(W);
  const W* data = (const W*)t.data + matrix.first * len;
  int b = 0;
  for (; b + TB <= matrix.count; b += TB) float_tokens<W, TB>(data + b * len, len, t.n, x, out + b * TILE_ROWS, stride);
  for (; b < matrix.count; b++) float_tokens<W, 1>(data + b * len, len, t.n, x, out + b * TILE_ROWS, stride);
}

// Cuts the next `size` bytes into shares for `num_blocks` blocks, each of which prefetches `times` times.
class PrefetchPlan {
 public:
  PrefetchPlan(const uint8_t* next, size_t size, int num_blocks, int times)
      : at(next),
        lines(next ? (int)(size / 64 / num_blocks / times + 1) : 0),
        share_bytes(size / num_blocks) {}
  PrefetchShare take() {
    const PrefetchShare share = {at, lines};
    at += share_bytes;
    return share;
  }

 private:
  const uint8_t* at;
  int lines;
  size_t share_bytes;
};

// Prefetches the activations of all tokens at once: they are new to this core. One by one, as products reach them, each
// would be waited for.
void prefetch_rows(const TokenSpan& x) {
  for (int m = 0; m < x.count; m++) {
    const int8_t* row = x.rows.row(x.tokens[m]);
    for (int i = 0; i < x.rows.q_stride; i += 64) __builtin_prefetch(row + i, 0, 2);
  }
}

// At most TUNING.token_block tokens. next: what to prefetch after the last tile, or null.
template <class Q>
void multiply_tokens(bool prefetches_stream, const TileSpan& matrix, const TokenSpan& x, float* out, int stride,
                     const uint8_t* next) {
  constexpr PrefetchMode STREAM = TUNING.stream_prefetch, SHARED = TUNING.shared_prefetch;
  const Tiles& t = matrix.tiles;
  const int times = (t.num_units + Q::UNITS_PER_PREFETCH - 1) / Q::UNITS_PER_PREFETCH;
  const bool is_shared = x.count >= TUNING.sharing_tokens;
  if (x.count > 1) prefetch_rows(x);
  const auto& blocks = is_shared ? BLOCKS<Q, SHARED> : BLOCKS<Q, STREAM>;
  const Block one = !is_shared && !prefetches_stream ? tile_block<Q, 1, PREFETCH_HEADER> : blocks[0];
  for (int b = 0; b < matrix.count; b++) {
    const uint8_t* tile = t.tile(matrix.first + b);
    PrefetchPlan plan(b + 1 < matrix.count ? tile + t.tile_bytes : next, t.tile_bytes, ceil_div(x.count, TOKENS),
                      times);
    for (int m = 0; m < x.count;) {
      const int mb = at_most(x.count - m, TOKENS);
      const Block block = mb == 1 ? one : blocks[mb - 1];
      float* to = out + (size_t)m * stride + b * TILE_ROWS;
      block(tile, t.num_units, x.rows, x.tokens + m, to, stride, plan.take());
      m += mb;
    }
  }
}

}  // namespace

void multiply(const Context& context, const TileSpan& matrix, const TokenSpan& x, float* out, int stride,
              const uint8_t* next) {
  const Code code = matrix.tiles.code;
  if (code == F32) return multiply_float<float>(matrix, x, out, stride);
  if (code == BF16) return multiply_float<uint16_t>(matrix, x, out, stride);
  with_format(code, [&](auto format) {
    for (int first = 0; first < x.count; first += TUNING.token_block) {
      const TokenSpan part = {x.rows, x.tokens + first, at_most(x.count - first, TUNING.token_block)};
      const bool is_last = first + part.count == x.count;
      float* to = out + (size_t)first * stride;
      multiply_tokens<decltype(format)>(context.prefetches_stream, matrix, part, to, stride, is_last ? next : nullptr);
    }
  });
}

}  // namespace a3b::A3B_NS
