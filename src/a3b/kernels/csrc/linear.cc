// linear: products with matrices whose outputs lie side by side, after an RMS norm if there is one.
#include "products.h"

namespace a3b::A3B_NS {

namespace {

constexpr int BLOCK = TUNING.token_block;
static_assert(TUNING.sharing_tokens * TUNING.linear_runs_per_item <= BLOCK);  // products of few tokens have room

// Scratch memory of one call.
struct LinearScratch {
  PreparedRows inputs[MAX_LAYOUTS];  // [T, n] in each layout that a part reads
  int* tokens;                       // [T]: 0, 1, ...
  float* normed;                     // [threads, n]
  float* products;                   // [threads, PRODUCTS]
  static constexpr int PRODUCTS = BLOCK * HOST_TUNING.max_run_tiles * TILE_ROWS;

  LinearScratch(const LinearOp& op, Context& context, int T) {
    ScratchSlots slots(context.scratch);
    for (int i = 0; i < op.num_layouts; i++) inputs[i] = take_rows(op.layouts[i], T, slots);
    tokens = slots.take<int>(T);
    for (int t = 0; t < T; t++) tokens[t] = t;
    normed = slots.take<float>((size_t)context.pool.size() * op.n);
    products = slots.take<float>((size_t)context.pool.size() * PRODUCTS);
  }
};

void prepare_inputs(const LinearOp& op, Context& context, const LinearScratch& scratch, const float* x, size_t x_stride,
                    int T) {
  context.pool.run(T, [&](int t, int thread) {
    const float* row = x + t * x_stride;
    if (op.norm) {
      float* normed = scratch.normed + (size_t)thread * op.n;
      rms_norm_row(row, op.norm, op.n, op.eps, normed);
      row = normed;
    }
    for (int i = 0; i < op.num_layouts; i++) prepare(op.layouts[i], row, op.n, scratch.inputs[i], t);
  });
}

void write_products(const float* products, int stride, int width, int num_tokens, float* out, size_t out_stride,
                    bool add) {
  for (int m = 0; m < num_tokens; m++) {
    const float* from = products + (size_t)m * stride;
    float* to = out + m * out_stride;
    if (add)
      for (int i = 0; i < width; i++) to[i] += from[i];
    else memcpy(to, from, width * sizeof(float));
  }
}

// All tokens times one run of tiles. next: the tiles that this thread reads afterwards, or null.
void multiply_run(const LinearOp& op, Context& context, const LinearScratch& scratch, const TileRun& run, int T,
                  int thread, float* out, bool add, const uint8_t* next) {
  const Tiles& part = op.parts[run.part];
  float* products = scratch.products + (size_t)thread * LinearScratch::PRODUCTS;
  const int stride = run.count * TILE_ROWS, width = at_most(part.rows - run.first * TILE_ROWS, stride);
  for (int first = 0; first < T; first += BLOCK) {
    const int num = at_most(T - first, BLOCK);
    multiply(context, {part, run.first, run.count}, {scratch.inputs[run.layout], scratch.tokens + first, num}, products,
             stride, first + BLOCK < T ? nullptr : next);
    write_products(products, stride, width, num, out + (size_t)first * op.num_out + run.column, op.num_out, add);
  }
}

// Runs of tiles that make an item: several neighbours for few tokens, but each thread keeps some items to take.
int runs_per_item(const LinearOp& op, const Context& context, int T) {
  const int most = op.num_runs / (TUNING.items_per_thread * context.pool.size());
  return T >= TUNING.sharing_tokens || most < 1 ? 1 : at_most(most, TUNING.linear_runs_per_item);
}

}  // namespace

void linear(const LinearOp& op, Context& context, const float* x, size_t x_stride, int T, float* out, bool add) {
  const LinearScratch scratch(op, context, T);
  prepare_inputs(op, context, scratch, x, x_stride, T);
  const int together = runs_per_item(op, context, T);
  context.pool.run(ceil_div(op.num_runs, together), [&](int item, int thread) {
    const int last = at_most((item + 1) * together, op.num_runs);
    const int likely = item + context.pool.size();  // this thread's next run, if the others take as long
    const TileRun* next = likely < op.num_runs ? &op.runs[likely] : nullptr;
    for (int index = item * together; index < last;) {
      TileRun run = op.runs[index];  // and those of the same part that follow
      for (index++; index < last && op.runs[index].part == run.part; index++) run.count += op.runs[index].count;
      multiply_run(op, context, scratch, run, T, thread, out, add,
                   next ? op.parts[next->part].tile(next->first) : nullptr);
    }
  });
}

}  // namespace a3b::A3B_NS
