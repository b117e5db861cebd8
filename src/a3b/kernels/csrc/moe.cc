// moe: h += Σ over chosen experts of weight·down(silu(gate x)·(up x)) + the shared expert, x = norm(h).
//
// Experts are added to a row in ascending id, the shared one last. Tokens of an expert are gathered, so every expert's
// weights are read once for all of them. Without experts (E = 0) the shared one is a plain MLP and has no gate.
#include "tiles.h"

#include <algorithm>

namespace a3b::A3B_NS {

namespace {

constexpr int RUN = 64;    // tokens at a time
constexpr int CHUNK = 64;  // hidden columns, or output columns, of an item
constexpr int CHUNK_TILES = CHUNK / ROWS;
constexpr int FEW = 8;  // fewer tokens wait for memory more than they compute

// The K largest of E logits, the lower id among equals; then softmax over them; then ascending ids. A NaN anywhere makes NaN of all weights.
void choose(const float* logits, int E, int K, int* ids, float* weights) {
  int num = 0;
  for (int e = 0; e < E; e++) {  // ids stays sorted by falling logit
    if (num == K && !(logits[e] > logits[ids[K - 1]])) continue;
    int k = num < K ? num++ : K - 1;
    for (; k > 0 && logits[e] > logits[ids[k - 1]]; k--) ids[k] = ids[k - 1];
    ids[k] = e;
  }
  F poison = zero();
  for (int e = 0; e < E; e += LANES) poison = fma(load(logits + e), zero(), poison);  // the last may meet the shared gate, whose NaN is as bad
  float total = sum(poison), raised[MAX_CHOSEN];
  const float top = logits[ids[0]];
  for (int k = 0; k < K; k += LANES) {
    float part[LANES];
    for (int i = 0; i < LANES; i++) part[i] = k + i < K ? logits[ids[k + i]] - top : 0.0f;
    store(raised + k, exp(load(part)));
  }
  for (int k = 0; k < K; k++) total += raised[k];
  for (int k = 0; k < K; k++) weights[k] = raised[k] / total;
  for (int k = 1; k < K; k++) {  // insertion sort by id
    const int id = ids[k];
    const float weight = weights[k];
    int j = k;
    for (; j > 0 && ids[j - 1] > id; j--) ids[j] = ids[j - 1], weights[j] = weights[j - 1];
    ids[j] = id;
    weights[j] = weight;
  }
}

}  // namespace

void moe(const MoeOp& op, Context& context, float* h, int T) {
  Scratch& scratch = context.scratch;
  Pool& pool = context.pool;
  const int E = op.E, K = op.K, D = op.D, F = op.F, num_pairs = T * K;

  // Scratch slots 0-14: the same activations as each matrix wants them; 15-20: hidden activations.
  enum Input { SHARED_GATE, SHARED_UP, ROUTER, GATE, UP, INPUTS };
  const Tiles* const inputs[INPUTS] = {&op.shared_gate, &op.shared_up, &op.router, &op.gate, &op.up};
  const int num_inputs = E ? INPUTS : ROUTER;
  Form forms[INPUTS];
  Rows rows[INPUTS];
  bool is_new[INPUTS];
  for (int i = 0; i < num_inputs; i++) {
    forms[i] = form_of(*inputs[i]);
    int j = 0;
    while (j < i && !same(forms[j], forms[i])) j++;
    is_new[i] = j == i;
    rows[i] = is_new[i] ? rows_for(forms[i], T, scratch, 3 * i) : rows[j];
  }
  const Form hidden_form = E ? form_of(op.down) : Form{}, shared_form = form_of(op.shared_down);
  const Rows hidden = E ? rows_for(hidden_form, num_pairs, scratch, 15) : Rows{}, shared_hidden = rows_for(shared_form, T, scratch, 18);
  float* normed = scratch.get<float>(21, (size_t)pool.size() * D);
  pool.run(T, [&](int t, int thread) {
    float* x = normed + (size_t)thread * D;
    rms_norm_row(h + (size_t)t * D, op.norm, D, op.eps, x);
    for (int i = 0; i < num_inputs; i++)
      if (is_new[i]) prepare(forms[i], x, D, rows[i], t);
  });

  int* identity = scratch.get<int>(22, T);
  for (int t = 0; t < T; t++) identity[t] = t;
  const int logits_stride = E ? op.router.num_tiles() * ROWS : 0;
  float* logits = scratch.get<float>(23, (size_t)T * logits_stride);

  // Hidden columns whose activations share a scale are one thread's. Few tokens take longer runs of tiles, because every jump waits for
  // memory; each thread still has some to take.
  int chunk_len = part_len(shared_form);
  if (E && chunk_len < part_len(hidden_form)) chunk_len = part_len(hidden_form);
  while (T < FEW && chunk_len < 4 * CHUNK && (E ? K * F : op.Fs) >= 16 * chunk_len * pool.size()) chunk_len *= 2;
  const int chunk_tiles = chunk_len / ROWS;
  const size_t buffer_len = (size_t)2 * RUN * chunk_len;
  float* buffers = scratch.get<float>(24, pool.size() * buffer_len);

  // One chunk of the hidden columns of an expert for some tokens: gate and up, their product, prepared for down.
  auto hidden_chunk = [&](const Tiles& gate, const Tiles& up, int chunk, const Rows& gate_in, const Rows& up_in, const int* tokens, int num,
                          const Form& form, const Rows& out, const int* out_rows, int thread, const uint8_t* next) {
    const int first = chunk * chunk_tiles, left = gate.num_tiles() - first, count = left < chunk_tiles ? left : chunk_tiles;
    float* g = buffers + thread * buffer_len;
    float* u = g + RUN * chunk_len;
    for (int run = 0; run < num; run += RUN) {
      const int part = num - run < RUN ? num - run : RUN;
      multiply(context, gate, first, count, gate_in, tokens + run, part, g, chunk_len, up.tile(first));
      multiply(context, up, first, count, up_in, tokens + run, part, u, chunk_len, run + RUN < num ? nullptr : next);
      for (int m = 0; m < part; m++) {
        float *row = g + m * chunk_len, *up_row = u + m * chunk_len;
        for (int i = 0; i < count * ROWS; i += LANES) store(row + i, silu(load(row + i)) * load(up_row + i));
        for (int i = 0; i < count * ROWS; i += part_len(form)) prepare_part(form, row + i, gate.rows, chunk * chunk_len + i, out, out_rows[run + m]);
      }
    }
  };

  // The router beside the shared expert's first half.
  const int router_items = E ? (op.router.num_tiles() + CHUNK_TILES - 1) / CHUNK_TILES : 0;
  const int shared_chunks = (op.Fs + chunk_len - 1) / chunk_len;
  pool.run(router_items + shared_chunks, [&](int item, int thread) {
    if (item >= router_items)
      return hidden_chunk(op.shared_gate, op.shared_up, item - router_items, rows[SHARED_GATE], rows[SHARED_UP], identity, T, shared_form,
                          shared_hidden, identity, thread, nullptr);
    const int first = item * CHUNK_TILES, left = op.router.num_tiles() - first;
    multiply(context, op.router, first, left < CHUNK_TILES ? left : CHUNK_TILES, rows[ROUTER], identity, T, logits + first * ROWS, logits_stride);
  });

  int* ids = scratch.get<int>(25, num_pairs);
  float* weights = scratch.get<float>(26, num_pairs + LANES);
  auto choose_for = [&](int t, int) { choose(logits + (size_t)t * logits_stride, E, K, ids + t * K, weights + t * K); };
  if (E && T >= 8) pool.run(T, choose_for);
  else if (E)
    for (int t = 0; t < T; t++) choose_for(t, 0);

  // Pairs (token, expert) sorted by expert, tokens ascending.
  int* ends = scratch.get<int>(27, E + 1);
  int* tokens = scratch.get<int>(28, num_pairs);
  int* pair_rows = scratch.get<int>(29, num_pairs);  // row of the hidden activations: the place in the sorted order
  float* pair_weights = scratch.get<float>(30, num_pairs);
  int* active = scratch.get<int>(31, E);  // experts that have tokens
  memset(ends, 0, (E + 1) * sizeof(int));
  for (int i = 0; i < num_pairs; i++) ends[ids[i] + 1]++;
  int num_active = 0;
  for (int e = 0; e < E; e++) {
    if (ends[e + 1]) active[num_active++] = e;
    ends[e + 1] += ends[e];
  }
  int* place = scratch.get<int>(32, E);
  std::copy(ends, ends + E, place);  // none of a dense model
  for (int t = 0; t < T; t++)
    for (int k = 0; k < K; k++) {
      const int at = place[ids[t * K + k]]++;
      tokens[at] = t;
      pair_rows[at] = at;
      pair_weights[at] = weights[t * K + k];
    }

  // Whole experts where there are many, because one's chunks lie behind each other; else chunks.
  const int chunks = (F + chunk_len - 1) / chunk_len, per_item = num_active >= 16 * pool.size() ? chunks : 1;
  pool.run(num_active * chunks / per_item, [&](int item, int thread) {
    const int e = active[item * per_item / chunks], first = item * per_item % chunks, begin = ends[e], num = ends[e + 1] - begin;
    const Tiles gate = op.gate.at(e), up = op.up.at(e);
    const int likely = item + pool.size();  // this thread's next item, if the others take as long
    const uint8_t* after = nullptr;
    if (likely * per_item < num_active * chunks)
      after = op.gate.at(active[likely * per_item / chunks]).tile(likely * per_item % chunks * chunk_tiles);
    for (int chunk = first; chunk < first + per_item; chunk++)
      hidden_chunk(gate, up, chunk, rows[GATE], rows[UP], tokens + begin, num, hidden_form, hidden, pair_rows + begin, thread,
                   chunk + 1 < first + per_item ? gate.tile((chunk + 1) * chunk_tiles) : after);
  });

  // An item's columns of h are gathered first: rows of h lie a power of two apart, so they share few cache sets. Where all threads
  // still have some to take, items are twice as wide, so that hidden activations are read half as often.
  int wide = T >= RUN && D >= 8 * CHUNK * pool.size() ? 2 * CHUNK : CHUNK;
  while (T < FEW && wide < 8 * CHUNK && D >= 4 * wide * pool.size()) wide *= 2;
  const int wide_tiles = wide / ROWS;
  float* columns = scratch.get<float>(33, (size_t)pool.size() * T * wide);
  pool.run((D + wide - 1) / wide, [&](int item, int thread) {
    const int first = item * wide_tiles, left = op.shared_down.num_tiles() - first, count = left < wide_tiles ? left : wide_tiles;
    const int width = D - item * wide < wide ? D - item * wide : wide;
    float *buffer = buffers + thread * buffer_len, *sums = columns + (size_t)thread * T * wide, *part_of_h = h + item * wide;
    for (int t = 0; t < T; t++) memcpy(sums + (size_t)t * wide, part_of_h + (size_t)t * D, width * sizeof(float));
    auto add = [&](const Tiles& down, const Rows& in, const int* in_rows, const int* to, const float* factor, size_t step, int num,
                   const uint8_t* next) {
      for (int run = 0; run < num; run += RUN) {
        const int part = num - run < RUN ? num - run : RUN;
        multiply(context, down, first, count, in, in_rows + run, part, buffer, wide, run + RUN < num ? nullptr : next);
        for (int m = 0; m < part; m++) {
          float* row = sums + (size_t)to[run + m] * wide;
          const auto scale = set1(factor[(run + m) * step]);
          for (int i = 0; i < width; i += LANES) store(row + i, load(row + i) + scale * load(buffer + m * wide + i));
        }
      }
    };
    for (int a = 0; a < num_active; a++) {
      const int e = active[a], begin = ends[e];
      const uint8_t* next = (a + 1 < num_active ? op.down.at(active[a + 1]) : op.shared_down).tile(first);
      add(op.down.at(e), hidden, pair_rows + begin, tokens + begin, pair_weights + begin, 1, ends[e + 1] - begin, next);
    }
    float gates[RUN];
    for (int run = 0; run < T; run += RUN) {
      const int part = T - run < RUN ? T - run : RUN;
      for (int m = 0; m < part; m++) {
        float gate[LANES] = {1};
        if (E) store(gate, sigmoid(set1(logits[(size_t)(run + m) * logits_stride + E])));
        gates[m] = gate[0];
      }
      add(op.shared_down, shared_hidden, identity + run, identity + run, gates, 1, part, nullptr);
    }
    for (int t = 0; t < T; t++) memcpy(part_of_h + (size_t)t * D, sums + (size_t)t * wide, width * sizeof(float));
  });
}

}  // namespace a3b::A3B_NS
