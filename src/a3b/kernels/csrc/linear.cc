// linear: products with a matrix, an RMS norm before them if there is one. Also decoded rows, for the embedding.
#include "tiles.h"

#include <array>

namespace a3b::A3B_NS {

namespace {

#if defined(A3B_AVX512)
constexpr int MAX_TILES = 2, MAX_TOKENS = 4, FLOAT_TOKENS = 4;
constexpr Asking ITSELF = FOR_ITSELF, SHARES = FOR_SHARES;
#elif defined(A3B_AVX2)
constexpr int MAX_TILES = 1, MAX_TOKENS = 4, FLOAT_TOKENS = 2;
constexpr Asking ITSELF = FOR_ITSELF, SHARES = FOR_SHARES;
#else  // computes for longer than memory takes, and has no registers to fill: few blocks, since a compiler takes seconds for each
constexpr int MAX_TILES = 1, MAX_TOKENS = 2, FLOAT_TOKENS = 2;
constexpr Asking ITSELF = ALONE, SHARES = ALONE;
#endif
constexpr int SHARING = 8;  // tokens from which two tiles at a time pay; fewer wait for memory, which likes one stream
constexpr int FLOAT_TILES = 4;
constexpr int TOKEN_RUN = 64;  // tokens that meet a run of tiles before the next tokens do: their activations stay in L2

using Block = void (*)(const uint8_t*, size_t, int, const Rows&, const int*, float*, int, Share);

template <class Q, int TB, Asking A>
constexpr auto BLOCKS = []<int... M>(std::integer_sequence<int, M...>) {
  return std::array<Block, MAX_TOKENS>{tiles_block<Q, TB, M + 1, A>...};
}(std::make_integer_sequence<int, MAX_TOKENS>{});

template <class W, int TB> void float_blocks(const W* tiles, size_t len, int n, const Rows& rows, const int* tokens, int num, float* out, int stride) {
  int m = 0;
  for (; m + FLOAT_TOKENS <= num; m += FLOAT_TOKENS) float_block<W, TB, FLOAT_TOKENS>(tiles, len, n, rows, tokens + m, out + (size_t)m * stride, stride);
  for (; m < num; m++) float_block<W, TB, 1>(tiles, len, n, rows, tokens + m, out + (size_t)m * stride, stride);
}

template <class W> void multiply_float(const Tiles& t, int first, int count, const Rows& rows, const int* tokens, int num, float* out, int stride) {
  const size_t len = t.tile_bytes / sizeof(W);
  const W* data = (const W*)t.data + first * len;
  int b = 0;
  for (; b + FLOAT_TILES <= count; b += FLOAT_TILES) float_blocks<W, FLOAT_TILES>(data + b * len, len, t.n, rows, tokens, num, out + b * ROWS, stride);
  for (; b < count; b++) float_blocks<W, 1>(data + b * len, len, t.n, rows, tokens, num, out + b * ROWS, stride);
}

// Cuts [at, at + size) into `parts` for blocks that ask `times` times each.
struct Cut {
  const uint8_t* at;
  int lines;
  size_t part;
  Cut(const uint8_t* at, size_t size, int parts, int times) : at(at), lines(at ? (int)(size / 64 / parts / times + 1) : 0), part(size / parts) {}
  Share take() {
    const Share share = {at, lines};
    at += part;
    return share;
  }
};

// Asks for the activations of `num` tokens at once: others than the ones before, or made by another thread. One after the other, as the
// products come to them, they would be waited for.
void fetch(const Rows& rows, const int* tokens, int num) {
  for (int m = 0; m < num; m++) {
    const int8_t* row = rows.q + (size_t)tokens[m] * rows.q_stride;
    for (int i = 0; i < rows.q_stride; i += 64) __builtin_prefetch(row + i, 0, 2);
  }
}

}  // namespace

void multiply(const Context& context, const Tiles& t, int first, int count, const Rows& rows, const int* tokens, int num, float* out, int stride, const uint8_t* next) {
  if (t.code == F32) return multiply_float<float>(t, first, count, rows, tokens, num, out, stride);
  if (t.code == BF16) return multiply_float<uint16_t>(t, first, count, rows, tokens, num, out, stride);
  const uint8_t* data = t.tile(first);
  with_format(t.code, [&](auto format) {
    using Q = decltype(format);
    const int times = (t.num_units + Q::ASKED_EVERY - 1) / Q::ASKED_EVERY;
    for (int run = 0; run < num; run += TOKEN_RUN) {
      const int stop = num < run + TOKEN_RUN ? num : run + TOKEN_RUN, passes = (stop - run + MAX_TOKENS - 1) / MAX_TOKENS;
      const bool is_shared = stop - run >= SHARING;
      if (stop - run > 1) fetch(rows, tokens + run, stop - run);
      for (int b = 0; b < count;) {
        const int tb = count - b >= MAX_TILES && is_shared ? MAX_TILES : 1;
        const auto& blocks = !is_shared ? BLOCKS<Q, 1, ITSELF> : tb == 1 ? BLOCKS<Q, 1, SHARES> : BLOCKS<Q, MAX_TILES, SHARES>;
        const Block one = !is_shared && !context.asks_ahead ? tiles_block<Q, 1, 1, ALONE> : blocks[0];
        const uint8_t* tiles = data + b * t.tile_bytes;
        const size_t size = tb * t.tile_bytes;
        Cut later(b + tb < count ? tiles + size : stop < num ? nullptr : next, size, passes, times);
        for (int m = run; m < stop;) {
          const int mb = stop - m >= MAX_TOKENS ? MAX_TOKENS : stop - m;
          (mb == 1 ? one : blocks[mb - 1])(tiles, t.tile_bytes, t.num_units, rows, tokens + m, out + (size_t)m * stride + b * ROWS, stride,
                         later.take());
          m += mb;
        }
        b += tb;
      }
    }
  });
}

namespace {

// q = round(x·127/max|x|) per group, halves to even; scale = max|x|/127, NaN or infinity if x has it. Columns [begin, end); x[0] is column `begin`, columns from
// `begin + n` on are zero.
void prepare_columns(const Form& form, const float* x, int n, int begin, int end, const Rows& rows, int row) {
  int8_t* q = rows.q + (size_t)row * rows.q_stride;
  float *scale = (float*)(q + rows.scale_at), *offset = (float*)(q + rows.offset_at);
  const int num = form.act_group, bias = form.bits == 8 ? Dot<8>::BIAS : 0;
  for (int at = begin; at < end; at += num) {
    float part[256];
    const float* from = x + (at - begin);
    const int left = n - (at - begin);
    if (left < num) {
      memset(part, 0, sizeof part);
      if (left > 0) memcpy(part, from, left * sizeof(float));
      from = part;
    }
    F top = zero();
    for (int i = 0; i < num; i += LANES) top = larger_size(top, load(from + i));
    const float size = largest_size(top), inverse = size > 0 ? 127.0f / size : 0.0f;
    scale[at / num] = size / 127.0f;
    if (!(size < INFINITY)) {  // integers without a meaning would overflow their sums; under this scale zeros become NaN as well
      memset(part, 0, sizeof part);
      from = part;
    }
    int32_t sums[256 / LANES];
    for (int i = 0; i < num; i += LANES) {
      const I rounded = rint(load(from + i) * set1(inverse));
      store_s8(q + at + i, rounded);
      sums[i / LANES] = sum(rounded);
    }
    for (int g = at; g < at + num; g += form.group) {
      int32_t total = 0;
      for (int i = 0; i < form.group; i += LANES) total += sums[(g - at + i) / LANES];
      if (form.has_minimum && form.is_super()) {
        const int16_t fits = (int16_t)total;  // at most 32·127
        memcpy((int16_t*)offset + g / form.group, &fits, 2);
      } else if (form.has_minimum) {
        offset[g / form.group] = scale[at / num] * (float)total;
      } else {
        const int32_t start = -(form.zero - bias) * total;
        memcpy(offset + g / form.group, &start, 4);
      }
    }
  }
}

}  // namespace

void prepare(const Form& form, const float* x, int n, const Rows& rows, int row) {
  if (form.act_group) prepare_columns(form, x, n, 0, form.columns, rows, row);
  else memcpy(rows.f + (size_t)row * rows.f_stride, x, n * sizeof(float));
}

void prepare_part(const Form& form, const float* x, int n, int begin, const Rows& rows, int row) {
  const bool is_last = begin + part_len(form) >= n;
  const int num = is_last ? n - begin : part_len(form);
  if (form.act_group) prepare_columns(form, x, num, begin, is_last ? form.columns : begin + num, rows, row);
  else memcpy(rows.f + (size_t)row * rows.f_stride + begin, x, num * sizeof(float));
}

void rms_norm_row(const float* x, const float* weight, int n, float eps, float* out) {
  F squares = zero();
  int i = 0;
  for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (; i < n; i++) total += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(finite_or_nan(total) / (float)n + eps);
  i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, load(x + i) * set1(factor) * load(weight + i));
  for (; i < n; i++) out[i] = x[i] * factor * weight[i];
}

void linear(const LinearOp& op, Context& context, const float* x, size_t x_stride, int T, float* out, size_t out_stride, bool add) {
  Rows rows[MAX_FORMS];
  for (int f = 0; f < op.num_forms; f++) rows[f] = rows_for(op.forms[f], T, context.scratch, 3 * f);
  int* identity = context.scratch.get<int>(31, T);
  for (int t = 0; t < T; t++) identity[t] = t;
  float* normed = context.scratch.get<float>(30, (size_t)context.pool.size() * op.n);
  context.pool.run(T, [&](int t, int thread) {
    const float* row = x + t * x_stride;
    if (op.norm) {
      float* to = normed + (size_t)thread * op.n;
      rms_norm_row(row, op.norm, op.n, op.eps, to);
      row = to;
    }
    for (int f = 0; f < op.num_forms; f++) prepare(op.forms[f], row, op.n, rows[f], t);
  });
  constexpr int BUFFER = TOKEN_RUN * MAX_PIECE * ROWS;
  float* buffers = context.scratch.get<float>(29, (size_t)context.pool.size() * BUFFER);
  // Few tokens take several pieces that lie behind each other, because every jump waits for memory; each thread still has some to take.
  const int most = op.num_pieces / (16 * context.pool.size()), together = T >= SHARING || most < 1 ? 1 : most < 4 ? most : 4;
  context.pool.run((op.num_pieces + together - 1) / together, [&](int item, int thread) {
    const int last = (item + 1) * together < op.num_pieces ? (item + 1) * together : op.num_pieces;
    for (int index = item * together; index < last;) {
      Piece piece = op.pieces[index];
      for (index++; index < last && op.pieces[index].part == piece.part; index++) piece.count += op.pieces[index].count;
      const Tiles& part = op.parts[piece.part];
      float* buffer = buffers + (size_t)thread * BUFFER;
      const int likely = item + context.pool.size();  // this thread's next piece, if the others take as long
      const uint8_t* next = likely < op.num_pieces ? op.parts[op.pieces[likely].part].tile(op.pieces[likely].first) : nullptr;
      const int stride = piece.count * ROWS, left = part.rows - piece.first * ROWS, width = left < stride ? left : stride;
      for (int run = 0; run < T; run += TOKEN_RUN) {
        const int num = T - run < TOKEN_RUN ? T - run : TOKEN_RUN;
        multiply(context, part, piece.first, piece.count, rows[piece.form], identity + run, num, buffer, stride, run + TOKEN_RUN < T ? nullptr : next);
        for (int m = 0; m < num; m++) {
          const float* from = buffer + (size_t)m * stride;
          float* to = out + (run + m) * out_stride + piece.column;
          if (add)
            for (int i = 0; i < width; i++) to[i] += from[i];
          else
            memcpy(to, from, width * sizeof(float));
        }
      }
    }
  });
}

// Rows of a matrix as floats: scale·q + minimum, rounded as the sum of the two.
template <class Q> void decode_row(const Tiles& t, int64_t row, float* out) {
  const int lane = row % ROWS;
  const uint8_t* tile = t.data + row / ROWS * t.tile_bytes;
  for (int u = 0; u < t.num_units; u++) {
    const uint8_t* unit = tile + (size_t)u * Q::UNIT_BYTES;
    for (int g = 0; g < Q::GROUPS; g++) {
      float scale[LANES], low[LANES];
      store(scale, Header<Q>::scale(unit, g));
      if constexpr (Q::MINIMUM) store(low, Header<Q>::minimum(unit, g));
      else store(low, Header<Q>::scale(unit, g) * set1(-(float)Q::ZERO));
      for (int i = 0; i < Q::GROUP; i++) {
        const int column = u * Q::UNIT + g * Q::GROUP + i, in_group = g * Q::GROUP + i;
        if (column >= t.n) return;
        const uint8_t* q = unit + Q::HEADER + 4 * lane + in_group % 4;
        const int step = in_group / 4;
        int value;
        if constexpr (Q::BITS == 4) value = q[step / 2 * 64] >> 4 * (step % 2) & 15;
        else if constexpr (Q::BITS == 8) value = q[step * 64];
        else {
          const uint8_t* block = q + step / 4 * 192;
          value = (block[step % 4 / 2 * 64] >> 4 * (step % 2) & 15) | (block[128] >> 2 * (step % 4) & 3) << 4;
        }
        out[column] = scale[lane] * (float)value + low[lane];
      }
    }
  }
}

void rows_f32(const Tiles& t, const int64_t* ids, int num_ids, float* out) {
  for (int i = 0; i < num_ids; i++) {
    float* to = out + (size_t)i * t.n;
    if (t.code < F32) {
      with_format(t.code, [&](auto format) { decode_row<decltype(format)>(t, ids[i], to); });
      continue;
    }
    const size_t lane = ids[i] % ROWS, base = ids[i] / ROWS * (size_t)t.n * ROWS;
    for (int k = 0; k < t.n; k++) {
      if (t.code == F32) {
        to[k] = ((const float*)t.data)[base + (size_t)k * ROWS + lane];
      } else {
        const uint32_t bits = (uint32_t)((const uint16_t*)t.data)[base + (size_t)k * ROWS + lane] << 16;
        memcpy(to + k, &bits, 4);
      }
    }
  }
}

}  // namespace a3b::A3B_NS
