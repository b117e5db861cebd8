// attention: norms and rotary positions of queries and keys, keys and values into their pages, causal attention over the pages,
// the output gate. One sequence.
//
// A page holds 64 positions of one KV head. Pages lie in runs; a query meets page after page of a run with an online softmax, and the
// runs' results are joined in ascending order. So the bits depend neither on how a prompt was cut nor on how runs were shared out.
//
// KV_F32, KV_BF16: keys [Dh][64], values [64][Dh].
// KV_Q8:  keys u8 (k/scale + 128) [4 blocks of 16 positions][Dh/4][16][4], then f32 scales [4 blocks][groups of 64 dims][16];
//         values s8 [32 pairs of positions][Dh][2], then f32 scales [64]. Dh is padded to 16.
#include "tiles.h"

namespace a3b::A3B_NS {

namespace {

constexpr int PAGE = 64, BLOCKS = PAGE / LANES;
constexpr float HIDDEN = -1e30f;
constexpr int TOKENS = 8;  // of an item: a page is read once for all of them
#if defined(A3B_AVX512)
constexpr int HEADS = 8;  // query heads at a time
#else
constexpr int HEADS = 4;
#endif

struct Shape {
  int Dh, padded, groups;  // groups of 64 dims share a key scale
  explicit Shape(int Dh) : Dh(Dh), padded((Dh + 15) / 16 * 16), groups((padded + 63) / 64) {}
};

size_t number_bytes(KvType kv) { return kv == KV_F32 ? 4 : kv == KV_BF16 ? 2 : 1; }
size_t key_bytes(KvType kv, const Shape& s) { return (size_t)PAGE * (s.padded * number_bytes(kv) + (kv == KV_Q8 ? s.groups * 4 : 0)); }
size_t value_bytes(KvType kv, const Shape& s) { return (size_t)PAGE * (s.padded * number_bytes(kv) + (kv == KV_Q8 ? 4 : 0)); }

// What a query head needs while it walks the pages.
struct Query {
  const float* f;  // [padded], times Dh^-0.5
  int8_t* q;       // [padded]
  float* scale;    // [groups]
  int32_t* start;  // [groups]: takes the 128 off the keys
};

// Running result of a query head.
struct Result {
  float* out;  // [padded]
  float top, total;
};

void quantise_query(const Shape& s, const Query& query) {
  for (int g = 0; g < s.groups; g++) {
    const int begin = 64 * g, end = begin + 64 < s.padded ? begin + 64 : s.padded;
    F top = zero();
    for (int i = begin; i < end; i += LANES) top = larger_size(top, load(query.f + i));
    const float size = largest_size(top), inverse = size > 0 ? 127.0f / size : 0.0f;
    int32_t total = 0;
    for (int i = begin; i < end; i += LANES) store_s8(query.q + i, rint(load(query.f + i) * set1(inverse)));
    for (int i = begin; i < end; i++) total += query.q[i];
    query.scale[g] = size / 127.0f;
    query.start[g] = -(128 - Dot<8>::BIAS) * total;
  }
}

uint16_t to_bf16(float x) {  // halves to even
  if (x != x) return 0x7fc0;  // the sum below could carry a NaN over to zero
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void store_key(KvType kv, const Shape& s, uint8_t* page, int at, const float* k) {  // k [padded]
  if (kv == KV_F32) {
    for (int d = 0; d < s.padded; d++) ((float*)page)[d * PAGE + at] = k[d];
    return;
  }
  if (kv == KV_BF16) {
    for (int d = 0; d < s.padded; d++) ((uint16_t*)page)[d * PAGE + at] = to_bf16(k[d]);
    return;
  }
  uint8_t* block = page + (size_t)(at / LANES) * s.padded * LANES;
  float* scales = (float*)(page + (size_t)s.padded * PAGE) + (size_t)(at / LANES) * s.groups * LANES;
  for (int g = 0; g < s.groups; g++) {
    const int begin = 64 * g, end = begin + 64 < s.padded ? begin + 64 : s.padded;
    F top = zero();
    for (int i = begin; i < end; i += LANES) top = larger_size(top, load(k + i));
    const float size = largest_size(top), inverse = size > 0 ? 127.0f / size : 0.0f;
    scales[g * LANES + at % LANES] = size / 127.0f;
    for (int i = begin; i < end; i += LANES) {
      int8_t q[LANES];
      store_s8(q, rint(load(k + i) * set1(inverse)));
      for (int j = 0; j < LANES; j += 4)
        for (int c = 0; c < 4; c++) block[(size_t)(i + j) * LANES + at % LANES * 4 + c] = (uint8_t)(q[j + c] + 128);
    }
  }
}

void store_value(KvType kv, const Shape& s, uint8_t* page, int at, const float* v) {
  if (kv == KV_F32) {
    memcpy((float*)page + (size_t)at * s.padded, v, s.padded * sizeof(float));
    return;
  }
  if (kv == KV_BF16) {
    for (int d = 0; d < s.padded; d++) ((uint16_t*)page)[(size_t)at * s.padded + d] = to_bf16(v[d]);
    return;
  }
  F top = zero();
  for (int i = 0; i < s.padded; i += LANES) top = larger_size(top, load(v + i));
  const float size = largest_size(top), inverse = size > 0 ? 127.0f / size : 0.0f;
  ((float*)(page + (size_t)PAGE * s.padded))[at] = size / 127.0f;
  int8_t* pair = (int8_t*)page + (size_t)(at / 2) * s.padded * 2 + at % 2;
  for (int i = 0; i < s.padded; i += LANES) {
    int8_t q[LANES];
    store_s8(q, rint(load(v + i) * set1(inverse)));
    for (int j = 0; j < LANES; j++) pair[2 * (i + j)] = q[j];
  }
}

// Bytes to ask for, a sixteenth of them each time; none if null.
struct Later {
  const uint8_t* at;
  int lines;
  Later(const uint8_t* at, size_t size) : at(at), lines(at ? (int)(size / 64 / 16 + 1) : 0) {}
  void ask() {
    for (int i = 0; i < lines; i++, at += 64) __builtin_prefetch(at);
  }
};

// Scores of N heads against one page: [N][64].
template <int N> void scores_q8(const Shape& s, const uint8_t* page, const Query* queries, float (*scores)[PAGE], Later later) {
  const float* scales = (const float*)(page + (size_t)s.padded * PAGE);
  for (int b = 0; b < BLOCKS; b++) {
    F total[N];
    for (int n = 0; n < N; n++) total[n] = zero();
    for (int g = 0; g < s.groups; g++) {
      const int begin = 64 * g, end = begin + 64 < s.padded ? begin + 64 : s.padded;
      Dot<8> dot[N];
      for (int n = 0; n < N; n++) dot[n].start(queries[n].start[g]);
      for (int d = begin; d < end; d += 4) {
        const Bytes keys = load_bytes(page + ((size_t)b * s.padded + d) * LANES);
        for (int n = 0; n < N; n++) dot[n].step(keys, queries[n].q + d), dot[n].settle();
      }
      later.ask();
      const F scale = load(scales + (b * s.groups + g) * LANES);
      for (int n = 0; n < N; n++) total[n] = fma(to_float(dot[n].value()), scale * set1(queries[n].scale[g]), total[n]);
    }
    for (int n = 0; n < N; n++) store(scores[n] + b * LANES, total[n]);
  }
}

template <int N, class W> void scores_float(const Shape& s, const W* keys, const Query* queries, float (*scores)[PAGE]) {
  for (int b = 0; b < BLOCKS; b++) {
    F total[N];
    for (int n = 0; n < N; n++) total[n] = zero();
    for (int d = 0; d < s.padded; d++) {
      const F k = load_weights(keys + (size_t)d * PAGE + b * LANES);
      for (int n = 0; n < N; n++) total[n] = fma(k, set1(queries[n].f[d]), total[n]);
    }
    for (int n = 0; n < N; n++) store(scores[n] + b * LANES, total[n]);
  }
}

// out ← out·fade + weights·values, `num` positions.
template <int N> void mix_q8(const Shape& s, const uint8_t* page, int num, float (*weights)[PAGE], const float* fade, Result* results, Later later) {
  const float* scales = (const float*)(page + (size_t)PAGE * s.padded);
  float seen[PAGE];
  if (num < PAGE) {  // what later positions hold must not matter, be it NaN
    for (int i = 0; i < PAGE; i++) seen[i] = i < num ? scales[i] : 0.0f;
    scales = seen;
  }
  int16_t integers[N][PAGE];
  float unit[N];
  for (int n = 0; n < N; n++) {
    F scaled[BLOCKS], top = zero();
    for (int b = 0; b < BLOCKS; b++) {
      scaled[b] = load(weights[n] + b * LANES) * load(scales + b * LANES);
      top = larger_size(top, scaled[b]);
    }
    const float size = largest_size(top), inverse = size > 0 ? 32767.0f / size : 0.0f;
    unit[n] = size / 32767.0f;
    for (int b = 0; b < BLOCKS; b++) store_s16(integers[n] + b * LANES, rint(scaled[b] * set1(inverse)));
  }
  const int pairs = (num + 1) / 2;
  for (int d = 0; d < s.padded; d += LANES) {
    Pairs sums[N];
    later.ask();
    for (int n = 0; n < N; n++) sums[n].start();
    for (int p = 0; p < pairs; p++) {
      const Wide values = load_wide((const int8_t*)page + ((size_t)p * s.padded + d) * 2);
      for (int n = 0; n < N; n++) {
        int32_t pair;
        memcpy(&pair, integers[n] + 2 * p, 4);
        sums[n].step(values, pair);
      }
    }
    for (int n = 0; n < N; n++) {
      float* out = results[n].out + d;
      store(out, fma(to_float(sums[n].value()), set1(unit[n]), load(out) * set1(fade[n])));
    }
  }
}

template <int N, class W> void mix_float(const Shape& s, const W* values, int num, float (*weights)[PAGE], const float* fade, Result* results) {
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

// N heads of one token against one page of which it sees `num` positions. first: nobody met this page before; next_keys: those of the next one or null.
template <int N>
void page_step(KvType kv, const Shape& s, const uint8_t* keys, const uint8_t* values, int num, const Query* queries, Result* results, bool first,
               const uint8_t* next_keys) {
  float scores[N][PAGE], fade[N];
  if (kv == KV_F32) scores_float<N>(s, (const float*)keys, queries, scores);
  else if (kv == KV_BF16) scores_float<N>(s, (const uint16_t*)keys, queries, scores);
  else scores_q8<N>(s, keys, queries, scores, {first ? values : nullptr, value_bytes(kv, s)});
  for (int n = 0; n < N; n++) {
    for (int i = num; i < PAGE; i++) scores[n][i] = HIDDEN;
    F top = load(scores[n]);
    for (int b = 1; b < BLOCKS; b++) top = max(top, load(scores[n] + b * LANES));
    const float page_top = largest(top), new_top = page_top > results[n].top ? page_top : results[n].top;
    float change[LANES];
    store(change, exp(set1(results[n].top - new_top)));
    fade[n] = change[0];
    F total = zero();
    for (int b = 0; b < BLOCKS; b++) {
      const F weight = exp(load(scores[n] + b * LANES) - set1(new_top));
      store(scores[n] + b * LANES, weight);
    }
    for (int i = num; i < PAGE; i++) scores[n][i] = 0;
    for (int b = 0; b < BLOCKS; b++) total = total + load(scores[n] + b * LANES);
    results[n].total = results[n].total * fade[n] + sum(total);
    results[n].top = new_top;
  }
  if (kv == KV_F32) mix_float<N>(s, (const float*)values, num, scores, fade, results);
  else if (kv == KV_BF16) mix_float<N>(s, (const uint16_t*)values, num, scores, fade, results);
  else mix_q8<N>(s, values, num, scores, fade, results, {first ? next_keys : nullptr, key_bytes(kv, s)});
}

void heads_step(KvType kv, const Shape& s, const uint8_t* keys, const uint8_t* values, int num, int heads, const Query* queries, Result* results,
                bool first, const uint8_t* next_keys) {
  auto step = [&](auto page_step, int n) { page_step(kv, s, keys, values, num, queries + n, results + n, first && n == 0, next_keys); };
  for (int n = 0; n < heads;) {
    const int left = heads - n;
    if (HEADS == 8 && left >= 8) step(page_step<HEADS>, n), n += HEADS;
    else if (left >= 4) step(page_step<4>, n), n += 4;
    else if (left >= 2) step(page_step<2>, n), n += 2;
    else step(page_step<1>, n), n += 1;
  }
}

// What a run found is added to what the runs before it found.
void join(const Shape& s, Result& all, const Result& run) {
  const float top = run.top > all.top ? run.top : all.top;
  float a[LANES], b[LANES];
  store(a, exp(set1(all.top - top)));
  store(b, exp(set1(run.top - top)));
  all.total = all.total * a[0] + run.total * b[0];
  all.top = top;
  for (int d = 0; d < s.padded; d += LANES)
    store(all.out + d, fma(load(run.out + d), set1(b[0]), load(all.out + d) * set1(a[0])));
}

void clear(const Shape& s, Result& result, float* out) {
  result = {out, 2 * HIDDEN, 0};
  memset(out, 0, s.padded * sizeof(float));
}

void rotate(float* x, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

}  // namespace

// projected [T, per query head: query, gate | k | v] at positions start .. start + T - 1; cos, sin [T, half] -> out [T, Hq·Dh].
void attention(const AttentionOp& op, Context& context, const float* projected, size_t stride, int T, int start, const float* cos,
               const float* sin, const KvRun* runs, int pages_per_run, float* out) {
  const Shape s(op.Dh);
  const int Hq = op.Hq, Hkv = op.Hkv, Dh = op.Dh, G = Hq / Hkv, half = op.rotary_half;
  const size_t key_size = key_bytes(op.kv, s), value_size = value_bytes(op.kv, s);
  Scratch& scratch = context.scratch;
  float* q = scratch.get<float>(0, (size_t)T * Hq * s.padded);
  int8_t* q8 = scratch.get<int8_t>(1, (size_t)T * Hq * s.padded);
  float* q_scale = scratch.get<float>(2, (size_t)T * Hq * s.groups);
  int32_t* q_start = scratch.get<int32_t>(3, (size_t)T * Hq * s.groups);
  Query* queries = scratch.get<Query>(4, (size_t)T * Hq);
  float* spare = scratch.get<float>(5, (size_t)context.pool.size() * s.padded);
  const float root = 1.0f / std::sqrt((float)Dh);
  auto page_of = [&](uint8_t* base, size_t size, int page, int head) { return base + ((size_t)page * Hkv + head) * size; };

  context.pool.run(T, [&](int t, int thread) {
    const float* row = projected + t * stride;
    for (int h = 0; h < Hq; h++) {
      const size_t at = (size_t)t * Hq + h;
      float* to = q + at * s.padded;
      rms_norm_row(row + (size_t)h * 2 * Dh, op.q_norm, Dh, op.eps, to);
      rotate(to, cos + (size_t)t * half, sin + (size_t)t * half, half);
      for (int i = 0; i < Dh; i++) to[i] *= root;
      for (int i = Dh; i < s.padded; i++) to[i] = 0;
      queries[at] = {to, q8 + at * s.padded, q_scale + at * s.groups, q_start + at * s.groups};
      if (op.kv == KV_Q8) quantise_query(s, queries[at]);
    }
    const int position = start + t, page = position / PAGE, at = position % PAGE;
    const KvRun& run = runs[page / pages_per_run];
    float* one = spare + (size_t)thread * s.padded;
    for (int j = 0; j < Hkv; j++) {
      const float* k = row + (size_t)Hq * 2 * Dh + (size_t)j * Dh;
      rms_norm_row(k, op.k_norm, Dh, op.eps, one);
      rotate(one, cos + (size_t)t * half, sin + (size_t)t * half, half);
      for (int i = Dh; i < s.padded; i++) one[i] = 0;
      store_key(op.kv, s, page_of(run.keys, key_size, page % pages_per_run, j), at, one);
      memcpy(one, k + (size_t)Hkv * Dh, Dh * sizeof(float));
      store_value(op.kv, s, page_of(run.values, value_size, page % pages_per_run, j), at, one);
    }
  });

  const int num_runs = (start + T - 1) / PAGE / pages_per_run + 1;
  // Pages of one run for tokens [first, stop) of KV head j. results: [tokens][G].
  auto walk = [&](int run, int j, int first, int stop, Result* results) {
    const int first_page = run * pages_per_run;
    const int end = first_page + pages_per_run, needed = (start + stop + PAGE - 1) / PAGE, last_page = (end < needed ? end : needed) - 1;
    for (int page = first_page; page <= last_page; page++) {
      auto place = [&](uint8_t* base, size_t size, int page) { return page_of(base, size, page - first_page, j); };
      const uint8_t* next_keys = page < last_page ? place(runs[run].keys, key_size, page + 1) : nullptr;
      bool is_first = true;
      for (int t = first; t < stop; t++) {
        const int visible = start + t + 1 - page * PAGE;
        if (visible <= 0) continue;
        heads_step(op.kv, s, place(runs[run].keys, key_size, page), place(runs[run].values, value_size, page), visible < PAGE ? visible : PAGE, G,
                   queries + (size_t)t * Hq + (size_t)j * G, results + (size_t)(t - first) * G, is_first, next_keys);
        is_first = false;
      }
    }
  };
  auto finish = [&](int t, int head, const Result& result) {
    const float* gate = projected + t * stride + (size_t)head * 2 * Dh + Dh;
    float* to = out + ((size_t)t * Hq + head) * Dh;
    const F inverse = set1(1.0f / result.total);
    for (int i = 0; i < Dh; i += LANES) {
      float g[LANES] = {};
      const int num = Dh - i < LANES ? Dh - i : LANES;
      memcpy(g, gate + i, num * sizeof(float));
      store(g, load(result.out + i) * inverse * sigmoid(load(g)));
      memcpy(to + i, g, num * sizeof(float));
    }
  };

  if (T == 1) {  // one token: runs side by side, joined afterwards
    Result* results = scratch.get<Result>(6, (size_t)num_runs * Hq);
    float* outs = scratch.get<float>(7, (size_t)num_runs * Hq * s.padded);
    context.pool.run(num_runs * Hkv, [&](int item, int) {
      const int run = item / Hkv, j = item % Hkv;
      for (int g = 0; g < G; g++) {
        const size_t at = (size_t)run * Hq + j * G + g;
        clear(s, results[at], outs + at * s.padded);
      }
      walk(run, j, 0, 1, results + (size_t)run * Hq + j * G);
    });
    for (int head = 0; head < Hq; head++) {
      for (int run = 1; run < num_runs; run++) join(s, results[head], results[(size_t)run * Hq + head]);
      finish(0, head, results[head]);
    }
    return;
  }
  Result* results = scratch.get<Result>(6, (size_t)context.pool.size() * 2 * TOKENS * G);
  float* outs = scratch.get<float>(7, (size_t)context.pool.size() * 2 * TOKENS * G * s.padded);
  const int blocks = (T + TOKENS - 1) / TOKENS;
  context.pool.run(blocks * Hkv, [&](int item, int thread) {
    const int j = item % Hkv, first = (blocks - 1 - item / Hkv) * TOKENS, stop = first + TOKENS < T ? first + TOKENS : T;  // the longest first
    Result *all = results + (size_t)thread * 2 * TOKENS * G, *part = all + TOKENS * G;
    float* memory = outs + (size_t)thread * 2 * TOKENS * G * s.padded;
    const int num = (stop - first) * G;
    for (int run = 0; run < num_runs; run++) {
      Result* into = run ? part : all;
      for (int i = 0; i < num; i++) clear(s, into[i], memory + (size_t)(into - all + i) * s.padded);
      walk(run, j, first, stop, into);
      for (int i = 0; run && i < num; i++)
        if (part[i].total != 0) join(s, all[i], part[i]);
    }
    for (int i = 0; i < num; i++) finish(first + i / G, j * G + i % G, all[i]);
  });
}

}  // namespace a3b::A3B_NS
