// moe: h += Σ over chosen experts of weight·down(silu(gate x)·(up x)) + the shared expert, x = norm(h).
//
// Experts are added to a row in ascending id, the shared one last. Tokens of an expert are gathered, so every expert's
// weights are read once for all of them. Without experts (E = 0) the shared one is a plain MLP and has no gate.
#include <algorithm>

#include "products.h"
#include "route.h"

namespace a3b::A3B_NS {

namespace {

constexpr int BLOCK = TUNING.token_block;  // tokens at a time

// What reads norm(h). Inputs of equal layouts are prepared once.
enum Input { SHARED_GATE, SHARED_UP, ROUTER, GATE, UP, NUM_INPUTS };

// Pairs (token, chosen expert), sorted by expert, tokens ascending.
struct ExpertPairs {
  int* begin;      // [E + 1]: those of expert e are begin[e] .. begin[e + 1] - 1
  int* tokens;     // [T·K]
  float* weights;  // [T·K]
  int* active;     // [E]: the experts that have tokens, ascending
  int num_active = 0;
};

// One call: sizes of the work items, and scratch memory.
struct MoeCall {
  MoeCall(const MoeOp& op, Context& context, float* h, int T);

  const MoeOp& op;
  Context& context;
  float* h;  // [T, D]
  int T, num_inputs;

  // An item of the first half: hidden columns whose activations share a scale are one thread's.
  int hidden_columns, hidden_tiles;
  // An item of the second half: output columns.
  int output_columns, output_tiles;

  ActivationLayout input_layouts[NUM_INPUTS], hidden_layout, shared_hidden_layout;
  bool is_first[NUM_INPUTS];        // of its layout
  PreparedRows inputs[NUM_INPUTS];  // [T, D]: norm(h) as each matrix reads it
  PreparedRows hidden;              // [T·K, F]: silu(gate)·up of the pairs
  PreparedRows shared_hidden;       // [T, Fs]
  int logits_stride;                // E + 1, padded to whole tiles
  float* logits;                    // [T, logits_stride]
  int* chosen;                      // [T, K] expert ids, ascending
  float* chosen_weights;            // [T, K], and room for a vector
  int* ascending;                   // [max(T, T·K)]: 0, 1, ...
  ExpertPairs pairs;
  int* place;     // [E]: where the next pair of an expert goes
  float* normed;  // [threads, D]
  size_t products_len;
  float* products;  // [threads, products_len]: gate and up [2, BLOCK, hidden_columns], or down [BLOCK, output_columns]
  float* sums;      // [threads, T, output_columns] of h, gathered

 private:
  void choose_item_sizes();
  void take_scratch();
};

// Few tokens take long streams of tiles, because every jump waits for memory. Each thread still keeps some items.
void MoeCall::choose_item_sizes() {
  const int threads = context.pool.size();
  hidden_columns = shared_hidden_layout.part_len();
  if (op.E) hidden_columns = std::max(hidden_columns, hidden_layout.part_len());
  const int all_hidden = op.E ? op.K * op.F : op.Fs;
  while (T < TUNING.moe_few_tokens && hidden_columns < TUNING.moe_few_hidden_columns &&
         all_hidden >= TUNING.items_per_thread * hidden_columns * threads)
    hidden_columns *= 2;
  hidden_tiles = hidden_columns / TILE_ROWS;
  // With many tokens wider items read the hidden activations half as often.
  const int per_thread = TUNING.moe_output_per_thread;
  output_columns = TUNING.moe_columns;
  if (T >= BLOCK && op.D >= 2 * per_thread * output_columns * threads) output_columns *= 2;
  while (T < TUNING.moe_few_tokens && output_columns < TUNING.moe_few_output_columns &&
         op.D >= per_thread * output_columns * threads)
    output_columns *= 2;
  output_tiles = output_columns / TILE_ROWS;
}

void MoeCall::take_scratch() {
  ScratchSlots slots(context.scratch);
  const size_t threads = context.pool.size(), num_pairs = (size_t)T * op.K;
  for (int i = 0; i < num_inputs; i++) {
    const int same = std::find(input_layouts, input_layouts + i, input_layouts[i]) - input_layouts;
    is_first[i] = same == i;
    inputs[i] = is_first[i] ? take_rows(input_layouts[i], T, slots) : inputs[same];
  }
  if (op.E) hidden = take_rows(hidden_layout, num_pairs, slots);
  shared_hidden = take_rows(shared_hidden_layout, T, slots);
  logits = slots.take<float>((size_t)T * logits_stride);
  chosen = slots.take<int>(num_pairs);
  chosen_weights = slots.take<float>(num_pairs + LANES);
  ascending = slots.take<int>(std::max<size_t>(T, num_pairs));
  pairs.begin = slots.take<int>(op.E + 1);
  pairs.tokens = slots.take<int>(num_pairs);
  pairs.weights = slots.take<float>(num_pairs);
  pairs.active = slots.take<int>(op.E);
  place = slots.take<int>(op.E);
  normed = slots.take<float>(threads * op.D);
  products_len = (size_t)std::max(2 * BLOCK * hidden_columns, std::min(T, BLOCK) * output_columns);
  products = slots.take<float>(threads * products_len);
  sums = slots.take<float>(threads * T * output_columns);
}

MoeCall::MoeCall(const MoeOp& op, Context& context, float* h, int T)
    : op(op),
      context(context),
      h(h),
      T(T),
      num_inputs(op.E ? NUM_INPUTS : ROUTER) {
  const Tiles* const readers[NUM_INPUTS] = {&op.shared_gate, &op.shared_up, &op.router, &op.gate, &op.up};
  for (int i = 0; i < num_inputs; i++) input_layouts[i] = layout_of(*readers[i]);
  hidden_layout = op.E ? layout_of(op.down) : ActivationLayout{};
  shared_hidden_layout = layout_of(op.shared_down);
  logits_stride = op.E ? op.router.num_tiles() * TILE_ROWS : 0;
  choose_item_sizes();
  take_scratch();
  for (int i = 0; i < std::max(T, T * op.K); i++) ascending[i] = i;
}

void prepare_inputs(const MoeCall& call) {
  const int D = call.op.D;
  call.context.pool.run(call.T, [&](int t, int thread) {
    float* x = call.normed + (size_t)thread * D;
    rms_norm_row(call.h + (size_t)t * D, call.op.norm, D, call.op.eps, x);
    for (int i = 0; i < call.num_inputs; i++)
      if (call.is_first[i]) prepare(call.input_layouts[i], x, D, call.inputs[i], t);
  });
}

// The first half of an expert: where it reads and what it writes.
struct HiddenHalf {
  Tiles gate, up;
  TokenSpan gate_x, up_x;          // the tokens of the expert
  const ActivationLayout& layout;  // as `down` reads it
  const PreparedRows& out;
  const int* out_rows;  // one per token
};

// One item's hidden columns: silu(gate x)·(up x), prepared for `down`. next: the tiles to read afterwards, or null.
void hidden_item(const MoeCall& call, const HiddenHalf& half, int item, int thread, const uint8_t* next) {
  const int columns = call.hidden_columns, part_len = half.layout.part_len();
  const int first = item * call.hidden_tiles, count = at_most(half.gate.num_tiles() - first, call.hidden_tiles);
  float* gates = call.products + thread * call.products_len;
  float* ups = gates + BLOCK * columns;
  const TokenSpan &g = half.gate_x, &u = half.up_x;
  for (int begin = 0; begin < g.count; begin += BLOCK) {
    const int num = at_most(g.count - begin, BLOCK);
    const uint8_t* after = begin + BLOCK < g.count ? nullptr : next;
    multiply(call.context, {half.gate, first, count}, {g.rows, g.tokens + begin, num}, gates, columns,
             half.up.tile(first));
    multiply(call.context, {half.up, first, count}, {u.rows, u.tokens + begin, num}, ups, columns, after);
    for (int m = 0; m < num; m++) {
      float *row = gates + m * columns, *up = ups + m * columns;
      for (int i = 0; i < count * TILE_ROWS; i += LANES) store(row + i, silu(load(row + i)) * load(up + i));
      for (int i = 0; i < count * TILE_ROWS; i += part_len)
        prepare_part(half.layout, row + i, half.gate.rows, item * columns + i, half.out, half.out_rows[begin + m]);
    }
  }
}

// The router's logits, together with the first half of the shared expert.
void route_and_shared_hidden(const MoeCall& call) {
  const MoeOp& op = call.op;
  constexpr int TILES = TUNING.moe_columns / TILE_ROWS;
  const int router_items = op.E ? ceil_div(op.router.num_tiles(), TILES) : 0;
  const int shared_items = ceil_div(op.Fs, call.hidden_columns);
  const HiddenHalf shared = {op.shared_gate,
                             op.shared_up,
                             {call.inputs[SHARED_GATE], call.ascending, call.T},
                             {call.inputs[SHARED_UP], call.ascending, call.T},
                             call.shared_hidden_layout,
                             call.shared_hidden,
                             call.ascending};
  call.context.pool.run(router_items + shared_items, [&](int item, int thread) {
    if (item >= router_items) return hidden_item(call, shared, item - router_items, thread, nullptr);
    const int first = item * TILES, count = at_most(op.router.num_tiles() - first, TILES);
    multiply(call.context, {op.router, first, count}, {call.inputs[ROUTER], call.ascending, call.T},
             call.logits + first * TILE_ROWS, call.logits_stride);
  });
}

void choose_experts(const MoeCall& call) {
  const int K = call.op.K;
  auto choose_for = [&](int t, int) {
    choose(call.logits + (size_t)t * call.logits_stride, call.op.E, K, call.chosen + t * K,
           call.chosen_weights + t * K);
  };
  if (call.T >= TUNING.moe_few_tokens) call.context.pool.run(call.T, choose_for);
  else
    for (int t = 0; t < call.T; t++) choose_for(t, 0);
}

// A counting sort of the chosen experts.
void sort_pairs(MoeCall& call) {
  const int E = call.op.E, K = call.op.K;
  ExpertPairs& pairs = call.pairs;
  memset(pairs.begin, 0, (E + 1) * sizeof(int));
  for (int i = 0; i < call.T * K; i++) pairs.begin[call.chosen[i] + 1]++;
  pairs.num_active = 0;
  for (int e = 0; e < E; e++) {
    if (pairs.begin[e + 1]) pairs.active[pairs.num_active++] = e;
    pairs.begin[e + 1] += pairs.begin[e];
  }
  std::copy(pairs.begin, pairs.begin + E, call.place);
  for (int t = 0; t < call.T; t++)
    for (int k = 0; k < K; k++) {
      const int at = call.place[call.chosen[t * K + k]]++;
      pairs.tokens[at] = t;
      pairs.weights[at] = call.chosen_weights[t * K + k];
    }
}

// Items are whole experts where there are many, because an expert is one stream of memory; otherwise parts of experts.
void expert_hidden(const MoeCall& call) {
  const MoeOp& op = call.op;
  const ExpertPairs& pairs = call.pairs;
  const int threads = call.context.pool.size(), parts = ceil_div(op.F, call.hidden_columns);
  const int per_item = pairs.num_active >= TUNING.items_per_thread * threads ? parts : 1;
  const int num_parts = pairs.num_active * parts;
  call.context.pool.run(num_parts / per_item, [&](int item, int thread) {
    const int e = pairs.active[item * per_item / parts], first = item * per_item % parts;
    const int begin = pairs.begin[e], num = pairs.begin[e + 1] - begin;
    const HiddenHalf half = {op.gate.matrix(e),
                             op.up.matrix(e),
                             {call.inputs[GATE], pairs.tokens + begin, num},
                             {call.inputs[UP], pairs.tokens + begin, num},
                             call.hidden_layout,
                             call.hidden,
                             call.ascending + begin};
    const int likely = (item + threads) * per_item;  // this thread's next part, if the others take as long
    const uint8_t* after = nullptr;
    if (likely < num_parts)
      after = op.gate.matrix(pairs.active[likely / parts]).tile(likely % parts * call.hidden_tiles);
    for (int part = first; part < first + per_item; part++)
      hidden_item(call, half, part, thread,
                  part + 1 < first + per_item ? half.gate.tile((part + 1) * call.hidden_tiles) : after);
  });
}

// One item's output columns of one thread.
struct OutputItem {
  int first_tile, num_tiles, width;
  float* sums;      // [T, output_columns]: these columns of h
  float* products;  // [BLOCK, output_columns]
};

// The second half of an expert for some tokens: sums of tokens[m] += factors[m]·down(x[m]).
void add_outputs(const MoeCall& call, const OutputItem& item, const Tiles& down, const TokenSpan& x, const int* tokens,
                 const float* factors, const uint8_t* next) {
  const int stride = call.output_columns;
  for (int begin = 0; begin < x.count; begin += BLOCK) {
    const int num = at_most(x.count - begin, BLOCK);
    multiply(call.context, {down, item.first_tile, item.num_tiles}, {x.rows, x.tokens + begin, num}, item.products,
             stride, begin + BLOCK < x.count ? nullptr : next);
    for (int m = 0; m < num; m++) {
      float* row = item.sums + (size_t)tokens[begin + m] * stride;
      const float* product = item.products + m * stride;
      const F factor = set1(factors[begin + m]);
      for (int i = 0; i < item.width; i += LANES) store(row + i, load(row + i) + factor * load(product + i));
    }
  }
}

void add_experts(const MoeCall& call, const OutputItem& item) {
  const MoeOp& op = call.op;
  const ExpertPairs& pairs = call.pairs;
  for (int i = 0; i < pairs.num_active; i++) {
    const int e = pairs.active[i], begin = pairs.begin[e], num = pairs.begin[e + 1] - begin;
    const Tiles next = i + 1 < pairs.num_active ? op.down.matrix(pairs.active[i + 1]) : op.shared_down;
    add_outputs(call, item, op.down.matrix(e), {call.hidden, call.ascending + begin, num}, pairs.tokens + begin,
                pairs.weights + begin, next.tile(item.first_tile));
  }
}

void add_shared(const MoeCall& call, const OutputItem& item) {
  float factors[BLOCK];
  for (int begin = 0; begin < call.T; begin += BLOCK) {
    const int num = at_most(call.T - begin, BLOCK);
    for (int m = 0; m < num; m++) {
      float gate[LANES] = {1};
      if (call.op.E) store(gate, sigmoid(set1(call.logits[(size_t)(begin + m) * call.logits_stride + call.op.E])));
      factors[m] = gate[0];
    }
    const int* tokens = call.ascending + begin;
    add_outputs(call, item, call.op.shared_down, {call.shared_hidden, tokens, num}, tokens, factors, nullptr);
  }
}

// The second half. An item gathers its columns of h first: rows a power of two apart share few cache sets.
void add_to_h(const MoeCall& call) {
  const int T = call.T, D = call.op.D, stride = call.output_columns;
  call.context.pool.run(ceil_div(D, stride), [&](int index, int thread) {
    const int first = index * call.output_tiles;
    const OutputItem item = {first, at_most(call.op.shared_down.num_tiles() - first, call.output_tiles),
                             at_most(D - index * stride, stride), call.sums + (size_t)thread * T * stride,
                             call.products + thread * call.products_len};
    float* columns = call.h + index * stride;
    for (int t = 0; t < T; t++)
      memcpy(item.sums + (size_t)t * stride, columns + (size_t)t * D, item.width * sizeof(float));
    add_experts(call, item);
    add_shared(call, item);
    for (int t = 0; t < T; t++)
      memcpy(columns + (size_t)t * D, item.sums + (size_t)t * stride, item.width * sizeof(float));
  });
}

}  // namespace

void moe(const MoeOp& op, Context& context, float* h, int T) {
  MoeCall call(op, context, h, T);
  prepare_inputs(call);
  route_and_shared_hidden(call);
  if (op.E) {
    choose_experts(call);
    sort_pairs(call);
    expert_hidden(call);
  }
  add_to_h(call);
}

}  // namespace a3b::A3B_NS
