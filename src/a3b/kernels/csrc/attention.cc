// attention: norms and rotary positions of queries and keys, keys and values into their pages, causal attention over
// the pages, the output gate. One sequence. Or keys and values into their pages, and nothing else.
//
// Pages lie in runs; a query meets page after page of a run with an online softmax, and the runs' results are joined in
// ascending order. So the bits depend neither on how a prompt was cut nor on how runs were shared out.
#include "kv_page.h"
#include "products.h"

namespace a3b::A3B_NS {

namespace {

constexpr int TOKENS = TUNING.attention_tokens;  // of an item

// One call: its arguments, sizes, and scratch memory.
struct AttentionCall {
  AttentionCall(const AttentionOp& op, Context& context, const AttentionArgs& args);

  const AttentionOp& op;
  Context& context;
  AttentionArgs args;
  HeadShape shape;
  int G, num_runs;  // query heads that share a KV head; runs that hold a visible position
  size_t key_bytes, value_bytes;

  Query* queries;    // [T, Hq]
  float* q;          // [T, Hq, padded]
  int8_t* q8;        // [T, Hq, padded]
  float* q_scale;    // [T, Hq, groups]
  int32_t* q_start;  // [T, Hq, groups]
  float* one_head;   // [threads, padded]: a key or value on its way to a page
  // One token: [runs, Hq]. More: [threads, 2, TOKENS, G], the sum of all runs so far and the run that is read.
  RunningSoftmax* results;
  float* outs;  // as many of [padded]

  const float* row(int t) const { return args.projected + t * args.stride; }
  const float* query(int t, int head) const { return row(t) + (size_t)head * 2 * op.Dh; }
  const float* gate(int t, int head) const { return query(t, head) + op.Dh; }
  const float* key(int t, int j) const { return args.keys + t * args.stride + (size_t)j * op.Dh; }
  const float* value(int t, int j) const { return key(t, j) + (size_t)op.Hkv * op.Dh; }
  uint8_t* key_page(int run, int page, int j) const {
    return args.runs[run].keys + ((size_t)page * op.Hkv + j) * key_bytes;
  }
  uint8_t* value_page(int run, int page, int j) const {
    return args.runs[run].values + ((size_t)page * op.Hkv + j) * value_bytes;
  }
};

AttentionCall::AttentionCall(const AttentionOp& op, Context& context, const AttentionArgs& args)
    : op(op),
      context(context),
      args(args),
      shape(op.Dh),
      G(op.Hq / op.Hkv) {
  num_runs = (args.start + args.T - 1) / KV_PAGE / args.pages_per_run + 1;
  key_bytes = key_page_bytes(op.kv, op.Dh);
  value_bytes = value_page_bytes(op.kv, op.Dh);
  const size_t num_queries = (size_t)args.T * op.Hq, threads = context.pool.size();
  const size_t num_results = args.T == 1 ? (size_t)num_runs * op.Hq : threads * 2 * TOKENS * G;
  ScratchSlots slots(context.scratch);
  q = slots.take<float>(num_queries * shape.padded);
  q8 = slots.take<int8_t>(num_queries * shape.padded);
  q_scale = slots.take<float>(num_queries * shape.groups);
  q_start = slots.take<int32_t>(num_queries * shape.groups);
  queries = slots.take<Query>(num_queries);
  one_head = slots.take<float>(threads * shape.padded);
  results = slots.take<RunningSoftmax>(num_results);
  outs = slots.take<float>(num_results * shape.padded);
}

void rotate(float* x, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

// x [Dh] of token t -> out [padded]: normalised, rotated.
void norm_and_rotate(const AttentionCall& call, const float* x, const float* weight, int t, float* out) {
  const int Dh = call.op.Dh, half = call.op.rotary_half;
  rms_norm_row(x, weight, Dh, call.op.eps, out);
  rotate(out, call.args.cos + (size_t)t * half, call.args.sin + (size_t)t * half, half);
  for (int i = Dh; i < call.shape.padded; i++) out[i] = 0;
}

void prepare_queries(const AttentionCall& call, int t) {
  const HeadShape& s = call.shape;
  const float root = 1.0f / std::sqrt((float)s.Dh);
  for (int head = 0; head < call.op.Hq; head++) {
    const size_t at = (size_t)t * call.op.Hq + head;
    float* q = call.q + at * s.padded;
    norm_and_rotate(call, call.query(t, head), call.op.q_norm, t, q);
    for (int i = 0; i < s.Dh; i++) q[i] *= root;
    call.queries[at] = {q, call.q8 + at * s.padded, call.q_scale + at * s.groups, call.q_start + at * s.groups};
    if (call.op.kv == KV_Q8) quantise_query(s, call.queries[at]);
  }
}

void store_keys_and_values(const AttentionCall& call, int t, int thread) {
  const HeadShape& s = call.shape;
  const int position = call.args.start + t, at = position % KV_PAGE;
  const int run = position / KV_PAGE / call.args.pages_per_run, page = position / KV_PAGE % call.args.pages_per_run;
  float* x = call.one_head + (size_t)thread * s.padded;
  for (int j = 0; j < call.op.Hkv; j++) {
    norm_and_rotate(call, call.key(t, j), call.op.k_norm, t, x);
    store_key(call.op.kv, s, call.key_page(run, page, j), at, x);
    memcpy(x, call.value(t, j), s.Dh * sizeof(float));  // the padding is still zero
    store_value(call.op.kv, s, call.value_page(run, page, j), at, x);
  }
}

// One page of a KV head as a token meets it.
struct PageView {
  const uint8_t *keys, *values;
  int num_visible;
  bool is_first;             // no token has read it in this item, so its bytes are prefetched
  const uint8_t* next_keys;  // of the next page, or null
};

// N query heads of one token against one page.
template <int N>
void page_step(const AttentionCall& call, const PageView& page, const Query* queries, RunningSoftmax* results,
               bool is_first) {
  const HeadShape& s = call.shape;
  const KvType kv = call.op.kv;
  const int num = page.num_visible;
  float scores[N][KV_PAGE], fade[N];
  if (kv == KV_F32) scores_float<N>(s, (const float*)page.keys, queries, scores);
  else if (kv == KV_BF16) scores_float<N>(s, (const uint16_t*)page.keys, queries, scores);
  else scores_q8<N>(s, page.keys, queries, scores, {is_first ? page.values : nullptr, call.value_bytes});
  for (int n = 0; n < N; n++) fade[n] = softmax_step(scores[n], num, results[n]);
  if (kv == KV_F32) mix_float<N>(s, (const float*)page.values, num, scores, fade, results);
  else if (kv == KV_BF16) mix_float<N>(s, (const uint16_t*)page.values, num, scores, fade, results);
  else mix_q8<N>(s, page.values, num, scores, fade, results, {is_first ? page.next_keys : nullptr, call.key_bytes});
}

// All query heads that share the KV head.
void heads_step(const AttentionCall& call, const PageView& page, const Query* queries, RunningSoftmax* results) {
  constexpr int HEADS = TUNING.attention_heads;
  auto step = [&](auto page_step, int n) { page_step(call, page, queries + n, results + n, page.is_first && n == 0); };
  for (int n = 0; n < call.G;) {
    const int left = call.G - n;
    if (HEADS > 4 && left >= HEADS) step(page_step<HEADS>, n), n += HEADS;
    else if (left >= 4) step(page_step<4>, n), n += 4;
    else if (left >= 2) step(page_step<2>, n), n += 2;
    else step(page_step<1>, n), n += 1;
  }
}

// Pages of one run for tokens [first, stop) of KV head j. results: [tokens][G].
void walk_run(const AttentionCall& call, int run, int j, int first, int stop, RunningSoftmax* results) {
  const int start = call.args.start, first_page = run * call.args.pages_per_run;
  const int end = at_most(first_page + call.args.pages_per_run, ceil_div(start + stop, KV_PAGE));
  for (int page = first_page; page < end; page++) {
    const int index = page - first_page;
    PageView view = {call.key_page(run, index, j), call.value_page(run, index, j), 0, true,
                     page + 1 < end ? call.key_page(run, index + 1, j) : nullptr};
    for (int t = first; t < stop; t++) {
      view.num_visible = at_most(start + t + 1 - page * KV_PAGE, KV_PAGE);
      if (view.num_visible <= 0) continue;
      heads_step(call, view, call.queries + (size_t)t * call.op.Hq + (size_t)j * call.G,
                 results + (t - first) * call.G);
      view.is_first = false;
    }
  }
}

void clear(const HeadShape& s, RunningSoftmax& result, float* out) {
  result = {out, 2 * HIDDEN, 0};
  memset(out, 0, s.padded * sizeof(float));
}

// Adds what a run found to what the runs before it found.
void join(const HeadShape& s, RunningSoftmax& all, const RunningSoftmax& run) {
  const float top = run.top > all.top ? run.top : all.top;
  float a[LANES], b[LANES];
  store(a, exp(set1(all.top - top)));
  store(b, exp(set1(run.top - top)));
  all.total = all.total * a[0] + run.total * b[0];
  all.top = top;
  for (int d = 0; d < s.padded; d += LANES)
    store(all.out + d, fma(load(run.out + d), set1(b[0]), load(all.out + d) * set1(a[0])));
}

// out = sigmoid(gate)·result
void write_output(const AttentionCall& call, int t, int head, const RunningSoftmax& result) {
  const int Dh = call.op.Dh;
  const float* gate = call.gate(t, head);
  float* to = call.args.out + ((size_t)t * call.op.Hq + head) * Dh;
  const F inverse = set1(1.0f / result.total);
  for (int i = 0; i < Dh; i += LANES) {
    float g[LANES] = {};
    const int num = at_most(Dh - i, LANES);
    memcpy(g, gate + i, num * sizeof(float));
    store(g, load(result.out + i) * inverse * sigmoid(load(g)));
    memcpy(to + i, g, num * sizeof(float));
  }
}

// One token: runs are items, joined afterwards.
void attend_one(const AttentionCall& call) {
  const int Hq = call.op.Hq, Hkv = call.op.Hkv;
  call.context.pool.run(call.num_runs * Hkv, [&](int item, int) {
    const int run = item / Hkv, j = item % Hkv;
    const size_t first = (size_t)run * Hq + j * call.G;
    for (size_t i = first; i < first + call.G; i++)
      clear(call.shape, call.results[i], call.outs + i * call.shape.padded);
    walk_run(call, run, j, 0, 1, call.results + first);
  });
  for (int head = 0; head < Hq; head++) {
    for (int run = 1; run < call.num_runs; run++)
      join(call.shape, call.results[head], call.results[(size_t)run * Hq + head]);
    write_output(call, 0, head, call.results[head]);
  }
}

// Tokens [first, stop) of KV head j, at most TOKENS: run after run.
void attend_block(const AttentionCall& call, int j, int first, int stop, int thread) {
  const HeadShape& s = call.shape;
  const int G = call.G, num = (stop - first) * G, room = TOKENS * G;
  RunningSoftmax *all = call.results + (size_t)thread * 2 * room, *one = all + room;
  float *all_outs = call.outs + (size_t)thread * 2 * room * s.padded, *one_outs = all_outs + (size_t)room * s.padded;
  for (int run = 0; run < call.num_runs; run++) {
    RunningSoftmax* into = run ? one : all;
    for (int i = 0; i < num; i++) clear(s, into[i], (run ? one_outs : all_outs) + (size_t)i * s.padded);
    walk_run(call, run, j, first, stop, into);
    for (int i = 0; run && i < num; i++)
      if (one[i].total != 0) join(s, all[i], one[i]);
  }
  for (int i = 0; i < num; i++) write_output(call, first + i / G, j * G + i % G, all[i]);
}

// Blocks of tokens are items, those with most pages first.
void attend_many(const AttentionCall& call) {
  const int Hkv = call.op.Hkv, T = call.args.T, blocks = ceil_div(T, TOKENS);
  call.context.pool.run(blocks * Hkv, [&](int item, int thread) {
    const int first = (blocks - 1 - item / Hkv) * TOKENS;
    attend_block(call, item % Hkv, first, at_most(first + TOKENS, T), thread);
  });
}

}  // namespace

void attention(const AttentionOp& op, Context& context, const AttentionArgs& args) {
  const AttentionCall call(op, context, args);
  context.pool.run(args.T, [&](int t, int thread) {
    if (args.projected) prepare_queries(call, t);
    store_keys_and_values(call, t, thread);
  });
  if (!args.projected) return;
  if (args.T == 1) attend_one(call);
  else attend_many(call);
}

}  // namespace a3b::A3B_NS
