// A page: 64 positions of keys and values of one KV head, and what attention does with one page.
//
// Dh is padded to a multiple of 16 with zeros. KV_F32, KV_BF16: keys [padded][64], values [64][padded]. KV_Q8:  keys u8
// (k/scale + 128) [4 blocks of 16 positions][padded/4][16][4], then f32 scales [4 blocks][groups of 64 dims][16];
//         values s8 [32 pairs of positions][padded][2], then f32 scales [64].
#pragma once
#include "ops.h"
#include "tiles.h"

namespace a3b::A3B_NS {

constexpr int PAGE_BLOCKS = KV_PAGE / LANES, KEY_GROUP = 64;
constexpr float HIDDEN = -1e30f;  // the score of a position that a query does not see

struct HeadShape {
  int Dh, padded, groups;  // KEY_GROUP dims share a key scale
  explicit HeadShape(int Dh) : Dh(Dh), padded((Dh + 15) / 16 * 16), groups((padded + KEY_GROUP - 1) / KEY_GROUP) {}
  int group_end(int g) const { return (g + 1) * KEY_GROUP < padded ? (g + 1) * KEY_GROUP : padded; }
};

// The parts of a page of KV_Q8.
struct KeysQ8 {
  uint8_t* integers;  // [PAGE_BLOCKS][padded / 4][16][4]
  float* scales;      // [PAGE_BLOCKS][groups][16]
  KeysQ8(const HeadShape& s, const uint8_t* page)
      : integers((uint8_t*)page),
        scales((float*)(page + (size_t)s.padded * KV_PAGE)) {}
};
struct ValuesQ8 {
  int8_t* integers;  // [KV_PAGE / 2][padded][2]
  float* scales;     // [KV_PAGE]
  ValuesQ8(const HeadShape& s, const uint8_t* page)
      : integers((int8_t*)page),
        scales((float*)(page + (size_t)s.padded * KV_PAGE)) {}
};

// What a query head brings to a page.
struct Query {
  const float* f;  // [padded], times Dh^-0.5
  int8_t* q;       // [padded]
  float* scale;    // [groups]
  int32_t* start;  // [groups]: takes the 128 off the keys
};

// The online softmax of a query head: out [padded] = Σ e^(score - top)·value, total = Σ e^(score - top).
struct RunningSoftmax {
  float* out;
  float top, total;
};

// Bytes to prefetch, a share of them each time; none if null.
struct PagePrefetch {
  const uint8_t* at;
  int lines;
  PagePrefetch(const uint8_t* at, size_t size)
      : at(at),
        lines(at ? (int)(size / 64 / TUNING.attention_prefetches + 1) : 0) {}
  void prefetch() {
    for (int i = 0; i < lines; i++, at += 64) __builtin_prefetch(at);
  }
};

// max|x| of n floats, a multiple of 16.
inline float largest_magnitude(const float* x, int n) {
  F top = zero();
  for (int i = 0; i < n; i += LANES) top = max_abs(top, load(x + i));
  return reduce_max_abs(top);
}
inline float inverse_scale(float size) { return size > 0 ? 127.0f / size : 0.0f; }

inline void quantise_query(const HeadShape& s, const Query& query) {
  for (int g = 0; g < s.groups; g++) {
    const int begin = KEY_GROUP * g, end = s.group_end(g);
    const float size = largest_magnitude(query.f + begin, end - begin);
    const F inverse = set1(inverse_scale(size));
    int32_t total = 0;
    for (int i = begin; i < end; i += LANES) store_s8(query.q + i, rint(load(query.f + i) * inverse));
    for (int i = begin; i < end; i++) total += query.q[i];
    query.scale[g] = size / 127.0f;
    query.start[g] = -(128 - Dot<8>::BIAS) * total;
  }
}

inline uint16_t to_bf16(float x) {  // halves to even
  if (x != x) return 0x7fc0;        // the sum below could carry a NaN over to zero
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// k, v [padded]: one position of the page.
inline void store_key_q8(const HeadShape& s, uint8_t* page, int position, const float* k) {
  const KeysQ8 keys(s, page);
  const int b = position / LANES, lane = position % LANES;
  uint8_t* block = keys.integers + (size_t)b * s.padded * LANES;
  for (int g = 0; g < s.groups; g++) {
    const int begin = KEY_GROUP * g, end = s.group_end(g);
    const float size = largest_magnitude(k + begin, end - begin);
    const F inverse = set1(inverse_scale(size));
    keys.scales[((size_t)b * s.groups + g) * LANES + lane] = size / 127.0f;
    for (int i = begin; i < end; i += LANES) {
      int8_t q[LANES];
      store_s8(q, rint(load(k + i) * inverse));
      for (int j = 0; j < LANES; j += 4)
        for (int c = 0; c < 4; c++) block[(size_t)(i + j) * LANES + lane * 4 + c] = (uint8_t)(q[j + c] + 128);
    }
  }
}

inline void store_value_q8(const HeadShape& s, uint8_t* page, int position, const float* v) {
  const ValuesQ8 values(s, page);
  const float size = largest_magnitude(v, s.padded);
  const F inverse = set1(inverse_scale(size));
  values.scales[position] = size / 127.0f;
  int8_t* pair = values.integers + (size_t)(position / 2) * s.padded * 2 + position % 2;
  for (int i = 0; i < s.padded; i += LANES) {
    int8_t q[LANES];
    store_s8(q, rint(load(v + i) * inverse));
    for (int j = 0; j < LANES; j++) pair[2 * (i + j)] = q[j];
  }
}

inline void store_key(KvType kv, const HeadShape& s, uint8_t* page, int position, const float* k) {
  if (kv == KV_Q8) return store_key_q8(s, page, position, k);
  if (kv == KV_F32)
    for (int d = 0; d < s.padded; d++) ((float*)page)[d * KV_PAGE + position] = k[d];
  else
    for (int d = 0; d < s.padded; d++) ((uint16_t*)page)[d * KV_PAGE + position] = to_bf16(k[d]);
}

inline void store_value(KvType kv, const HeadShape& s, uint8_t* page, int position, const float* v) {
  if (kv == KV_Q8) return store_value_q8(s, page, position, v);
  if (kv == KV_F32) memcpy((float*)page + (size_t)position * s.padded, v, s.padded * sizeof(float));
  else
    for (int d = 0; d < s.padded; d++) ((uint16_t*)page)[(size_t)position * s.padded + d] = to_bf16(v[d]);
}

// Scores of N heads against one page: [N][64].
template <int N>
void scores_q8(const HeadShape& s, const uint8_t* page, const Query* queries, float (*scores)[KV_PAGE],
               PagePrefetch next) {
  const KeysQ8 keys(s, page);
  for (int b = 0; b < PAGE_BLOCKS; b++) {
    F total[N];
    for (int n = 0; n < N; n++) total[n] = zero();
    for (int g = 0; g < s.groups; g++) {
      const int begin = KEY_GROUP * g, end = s.group_end(g);
      Dot<8> dot[N];
      for (int n = 0; n < N; n++) dot[n].start(queries[n].start[g]);
      for (int d = begin; d < end; d += 4) {
        const Bytes k = load_bytes(keys.integers + ((size_t)b * s.padded + d) * LANES);
        for (int n = 0; n < N; n++) dot[n].step(k, queries[n].q + d), dot[n].flush();
      }
      next.prefetch();
      const F scale = load(keys.scales + (b * s.groups + g) * LANES);
      for (int n = 0; n < N; n++) total[n] = fma(to_float(dot[n].value()), scale * set1(queries[n].scale[g]), total[n]);
    }
    for (int n = 0; n < N; n++) store(scores[n] + b * LANES, total[n]);
  }
}

template <int N, class W>
void scores_float(const HeadShape& s, const W* keys, const Query* queries, float (*scores)[KV_PAGE]) {
  for (int b = 0; b < PAGE_BLOCKS; b++) {
    F total[N];
    for (int n = 0; n < N; n++) total[n] = zero();
    for (int d = 0; d < s.padded; d++) {
      const F k = load_weights(keys + (size_t)d * KV_PAGE + b * LANES);
      for (int n = 0; n < N; n++) total[n] = fma(k, set1(queries[n].f[d]), total[n]);
    }
    for (int n = 0; n < N; n++) store(scores[n] + b * LANES, total[n]);
  }
}

// Scores of a head, of which it sees `num`, become weights e^(score - top). Returns what fades its earlier results.
inline float softmax_step(float* scores, int num, RunningSoftmax& result) {
  for (int i = num; i < KV_PAGE; i++) scores[i] = HIDDEN;
  F top = load(scores);
  for (int b = 1; b < PAGE_BLOCKS; b++) top = max(top, load(scores + b * LANES));
  const float page_top = reduce_max(top), new_top = page_top > result.top ? page_top : result.top;
  float change[LANES];
  store(change, exp(set1(result.top - new_top)));
  const float fade = change[0];
  for (int b = 0; b < PAGE_BLOCKS; b++) {
    const F weight = exp(load(scores + b * LANES) - set1(new_top));
    store(scores + b * LANES, weight);
  }
  for (int i = num; i < KV_PAGE; i++) scores[i] = 0;
  F total = zero();
  for (int b = 0; b < PAGE_BLOCKS; b++) total = total + load(scores + b * LANES);
  result.total = result.total * fade + reduce_add(total);
  result.top = new_top;
  return fade;
}

// integers[i] ≈ weights[i]·scales[i] / unit; returns the unit.
inline float quantise_weights(const float* weights, const float* scales, int16_t* integers) {
  F scaled[PAGE_BLOCKS], top = zero();
  for (int b = 0; b < PAGE_BLOCKS; b++) {
    scaled[b] = load(weights + b * LANES) * load(scales + b * LANES);
    top = max_abs(top, scaled[b]);
  }
  const float size = reduce_max_abs(top), inverse = size > 0 ? 32767.0f / size : 0.0f;
  for (int b = 0; b < PAGE_BLOCKS; b++) store_s16(integers + b * LANES, rint(scaled[b] * set1(inverse)));
  return size / 32767.0f;
}

// out ← out·fade + weights·values, `num` positions.
template <int N>
void mix_q8(const HeadShape& s, const uint8_t* page, int num, float (*weights)[KV_PAGE], const float* fade,
            RunningSoftmax* results, PagePrefetch next) {
  const ValuesQ8 values(s, page);
  const float* scales = values.scales;
  float seen[KV_PAGE];
  if (num < KV_PAGE) {  // later positions may hold anything, even NaN
    for (int i = 0; i < KV_PAGE; i++) seen[i] = i < num ? scales[i] : 0.0f;
    scales = seen;
  }
  int16_t integers[N][KV_PAGE];
  float unit[N];
  for (int n = 0; n < N; n++) unit[n] = quantise_weights(weights[n], scales, integers[n]);
  const int pairs = (num + 1) / 2;
  for (int d = 0; d < s.padded; d += LANES) {
    PairDot sums[N];
    next.prefetch();
    for (int n = 0; n < N; n++) sums[n].start();
    for (int p = 0; p < pairs; p++) {
      const Int16s v = load_int16s(values.integers + ((size_t)p * s.padded + d) * 2);
      for (int n = 0; n < N; n++) {
        int32_t pair;
        memcpy(&pair, integers[n] + 2 * p, 4);
        sums[n].step(v, pair);
      }
    }
    for (int n = 0; n < N; n++) {
      float* out = results[n].out + d;
      store(out, fma(to_float(sums[n].value()), set1(unit[n]), load(out) * set1(fade[n])));
    }
  }
}

template <int N, class W>
void mix_float(const HeadShape& s, const W* values, int num, float (*weights)[KV_PAGE], const float* fade,
               RunningSoftmax* results) {
  for (int d = 0; d < s.padded; d += LANES) {
    F sums[N];
    for (int n = 0; n < N; n++) sums[n] = load(results[n].out + d) * set1(fade[n]);
    for (int p = 0; p < num; p++) {
      const F v = load_weights(values + (size_t)p * s.padded + d);
      for (int n = 0; n < N; n++) sums[n] = fma(v, set1(weights[n][p]), sums[n]);
    }
    for (int n = 0; n < N; n++) store(results[n].out + d, sums[n]);
  }
}

}  // namespace a3b::A3B_NS
