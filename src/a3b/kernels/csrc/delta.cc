// delta: convolution, gates, delta rule and gated norm of one sequence, token by token.
//
// Every number of the state depends on its own column of M alone, so columns are walked in blocks that stay in the L1
// cache for all tokens of the call, and heads are shared out. Sums over Dk add even and odd rows apart.
#include "products.h"

namespace a3b::A3B_NS {

namespace {

constexpr int TOKENS = TUNING.delta_tokens;                  // at a time
constexpr int BLOCK_COLUMNS = TUNING.delta_vectors * LANES;  // of M

static_assert(MAX_DRAFTED <= TOKENS);

// Up to TOKENS rows of a call, from `first` on, counted with those that are only taken in.
struct DeltaCall {
  const DeltaOp& op;
  const DeltaArgs& args;
  int first, T;
  int num_silent;   // of them are only taken in: the first ones
  int num_staying;  // of them advance the states: all but drafted ones

  DeltaCall(const DeltaOp& op, const DeltaArgs& args, int first, int T)
      : op(op),
        args(args),
        first(first),
        T(T),
        num_silent(at_most(args.num_taken - first, T)),
        num_staying(at_most(args.num_taken + args.T - args.num_drafted - first, T)) {
    if (num_silent < 0) num_silent = 0;
  }
  int keys() const { return op.Hk * op.Dk; }
  int values() const { return op.Hv * op.Dv; }
  bool is_silent(int t) const { return t < num_silent; }
  int place(int t) const { return first + t - args.num_taken; }  // in `projected`
  const float* qkv(int t) const {
    if (is_silent(t)) return args.taken + (size_t)(first + t) * (op.channels() + 2 * op.Hv);
    return args.projected + place(t) * args.stride;
  }
  const float* z(int t, int head) const { return qkv(t) + op.channels() + head * op.Dv; }
  const float* b(int t) const { return qkv(t) + op.channels() + (is_silent(t) ? 0 : values()); }
  const float* a(int t) const { return b(t) + op.Hv; }
  float* out(int t, int head) const { return args.out + (size_t)place(t) * values() + head * op.Dv; }
};

// One thread's scratch memory: a key head, and one after the other the value heads that use it.
struct DeltaScratch {
  float *q, *k;         // [TOKENS, Dk], normalised
  float *beta, *decay;  // [TOKENS]
  int mixed_stride;
  float* mixed;              // [TOKENS, Dk q | Dk k | Dv v] after the convolution
  float* v;                  // the last Dv columns of mixed
  float* block_M;            // [Dk, BLOCK_COLUMNS]: a copy of some columns of M
  float *block_v, *block_o;  // [TOKENS, BLOCK_COLUMNS]: the same columns of v and of the output

  static size_t size(const DeltaOp& op) {
    return 2 * (size_t)TOKENS * op.Dk + TOKENS * (2 + 2 * op.Dk + op.Dv) + (size_t)(op.Dk + 2 * TOKENS) * BLOCK_COLUMNS;
  }
  DeltaScratch(const DeltaOp& op, float* memory) : mixed_stride(2 * op.Dk + op.Dv) {
    auto take = [&](size_t count) { return memory += count, memory - count; };
    q = take((size_t)TOKENS * op.Dk);
    k = take((size_t)TOKENS * op.Dk);
    beta = take(TOKENS);
    decay = take(TOKENS);
    mixed = take((size_t)TOKENS * mixed_stride);
    v = mixed + 2 * op.Dk;
    block_M = take((size_t)op.Dk * BLOCK_COLUMNS);
    block_v = take((size_t)TOKENS * BLOCK_COLUMNS);
    block_o = take((size_t)TOKENS * BLOCK_COLUMNS);
  }
};

// to[c] = silu(Σ_j weight[j, c]·rows[j][c]), j ascending; weights of a tap lie C apart.
void convolve_row(const float* weight, int C, int conv_len, const float* const* rows, int count, float* to) {
  int c = 0;
  for (; c + LANES <= count; c += LANES) {
    F total = zero();
    for (int j = 0; j < conv_len; j++) total = fma(load(weight + (size_t)j * C + c), load(rows[j] + c), total);
    store(to + c, silu(total));
  }
  if (c == count) return;
  F total = zero();
  for (int j = 0; j < conv_len; j++) {
    float w[LANES] = {}, in[LANES] = {};
    memcpy(w, weight + (size_t)j * C + c, (count - c) * sizeof(float));
    memcpy(in, rows[j] + c, (count - c) * sizeof(float));
    total = fma(load(w), load(in), total);
  }
  float y[LANES];
  store(y, silu(total));
  memcpy(to + c, y, (count - c) * sizeof(float));
}

// Channels [first, first + count) of all tokens: c_t = silu(Σ_j weight[j]·x_(t - conv_len + 1 + j)); the state keeps
// the latest inputs of those that stay.
void convolve(const DeltaCall& call, int first, int count, float* out, size_t out_stride) {
  constexpr int AHEAD = TUNING.delta_prefetch_rows;
  const int C = call.op.channels(), L = call.op.conv_len, T = call.T;
  auto input = [&](int t) { return (t < 0 ? call.args.conv_state + (size_t)(L - 1 + t) * C : call.qkv(t)) + first; };
  const float* rows[MAX_CONV];
  for (int t = 0; t < T; t++) {
    for (int j = 0; j < L; j++) rows[j] = input(t - L + 1 + j);
    if (t + AHEAD < T)
      for (int c = 0; c < count; c += LANES) __builtin_prefetch(input(t + AHEAD) + c);
    convolve_row(call.op.conv + first, C, L, rows, count, out + t * out_stride);
  }
  for (int j = 0; j + 1 < L; j++)
    memmove(call.args.conv_state + (size_t)j * C + first, input(call.num_staying - L + 1 + j), count * sizeof(float));
}

// out = x·scale/sqrt(Σx² + 1e-6)
void unit_vector(const float* x, int n, float scale, float* out) {
  F squares = zero();
  int i = 0;
  for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
  float total = reduce_add(squares);
  for (int j = i; j < n; j++) total += x[j] * x[j];
  const float factor = scale / std::sqrt(finite_or_nan(total) + 1e-6f);
  for (int j = 0; j < n; j++) out[j] = x[j] * factor;
}

// q and k of a key head.
void mix_key_head(const DeltaCall& call, const DeltaScratch& scratch, int key_head) {
  const int Dk = call.op.Dk;
  const float q_scale = 1.0f / std::sqrt((float)Dk);
  convolve(call, key_head * Dk, Dk, scratch.mixed, scratch.mixed_stride);
  convolve(call, call.keys() + key_head * Dk, Dk, scratch.mixed + Dk, scratch.mixed_stride);
  for (int t = 0; t < call.T; t++) {
    const float* row = scratch.mixed + t * scratch.mixed_stride;
    unit_vector(row, Dk, q_scale, scratch.q + (size_t)t * Dk);
    unit_vector(row + Dk, Dk, 1.0f, scratch.k + (size_t)t * Dk);
  }
}

float softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }

// v, beta and decay of a value head.
void mix_value_head(const DeltaCall& call, const DeltaScratch& scratch, int head) {
  const DeltaOp& op = call.op;
  convolve(call, 2 * call.keys() + head * op.Dv, op.Dv, scratch.v, scratch.mixed_stride);
  for (int t = 0; t < call.T; t++) {
    scratch.beta[t] = 1.0f / (1.0f + std::exp(-call.b(t)[head]));
    scratch.decay[t] = std::exp(op.rate[head] * softplus(call.a(t)[head] + op.dt_bias[head]));
  }
}

// Some columns of M, of v and of the output.
struct Columns {
  float* M;
  int M_stride;
  const float* v;
  size_t v_stride;
  float* out;
  size_t out_stride;
};

// One token, NB·16 columns: M ← decay·M; δ = β(v - Mᵀk); M ← M + kδᵀ; o = Mᵀq.
template <int NB>
[[gnu::always_inline]] inline void rule_step(float* M, int M_stride, int Dk, const float* q, const float* k,
                                             const float* v, float beta, float decay, float* out) {
  F even[NB], odd[NB], delta[NB];
  for (int b = 0; b < NB; b++) even[b] = odd[b] = zero();
  int i = 0;
  for (; i + 2 <= Dk; i += 2) {
    const F k0 = set1(k[i]), k1 = set1(k[i + 1]);
    for (int b = 0; b < NB; b++) {
      even[b] = fma(load(M + (size_t)i * M_stride + b * LANES), k0, even[b]);
      odd[b] = fma(load(M + (size_t)(i + 1) * M_stride + b * LANES), k1, odd[b]);
    }
  }
  if (i < Dk)
    for (int b = 0; b < NB; b++) even[b] = fma(load(M + (size_t)i * M_stride + b * LANES), set1(k[i]), even[b]);
  const F fade = set1(decay);
  for (int b = 0; b < NB; b++) {
    delta[b] = set1(beta) * (load(v + b * LANES) - fade * (even[b] + odd[b]));
    even[b] = odd[b] = zero();
  }
  auto update_row = [&](int r, F* total) {
    const F kr = set1(k[r]), qr = set1(q[r]);
    for (int b = 0; b < NB; b++) {
      float* at = M + (size_t)r * M_stride + b * LANES;
      const F m = fma(kr, delta[b], fade * load(at));
      store(at, m);
      total[b] = fma(m, qr, total[b]);
    }
  };
  for (i = 0; i + 2 <= Dk; i += 2) update_row(i, even), update_row(i + 1, odd);
  if (i < Dk) update_row(i, even);
  for (int b = 0; b < NB; b++) store(out + b * LANES, even[b] + odd[b]);
}

// BLOCK_COLUMNS columns of M for tokens [first, stop).
[[gnu::noinline]] void apply_rule(const DeltaScratch& scratch, int Dk, int first, int stop, const Columns& columns) {
  for (int t = first; t < stop; t++)
    rule_step<TUNING.delta_vectors>(columns.M, columns.M_stride, Dk, scratch.q + (size_t)t * Dk,
                                    scratch.k + (size_t)t * Dk, columns.v + t * columns.v_stride, scratch.beta[t],
                                    scratch.decay[t], columns.out + t * columns.out_stride);
}

// `count` rows of `width` numbers, then zeros up to `to_width`. By vectors: rows are short, and each memcpy would start
// anew.
void copy_rows(const float* from, size_t from_stride, int width, int count, float* to, size_t to_stride, int to_width) {
  for (int i = 0; i < count; i++, from += from_stride, to += to_stride) {
    int j = 0;
    for (; j + LANES <= width; j += LANES) store(to + j, load(from + j));
    for (; j < to_width; j++) to[j] = j < width ? from[j] : 0.0f;
  }
}

// The state of a value head through all tokens; out: of the first that has one, rows Hv·Dv apart. Columns are copied
// where there are too few for a block, where a copy pays, and for what must not stay.
void advance_state(const DeltaCall& call, const DeltaScratch& scratch, int head, float* out) {
  constexpr int W = BLOCK_COLUMNS;
  const int Dk = call.op.Dk, Dv = call.op.Dv, T = call.T, out_stride = call.values();
  const int silent = call.num_silent, staying = call.num_staying;
  const bool in_place = T < TUNING.delta_copy_tokens && silent == 0 && staying == T;
  float* M = call.args.state + (size_t)head * Dk * Dv;
  for (int c = 0; c < Dv; c += W) {
    const int width = at_most(Dv - c, W);
    if (in_place && width == W) {
      apply_rule(scratch, Dk, 0, T,
                 {M + c, Dv, scratch.v + c, (size_t)scratch.mixed_stride, out + c, (size_t)out_stride});
      continue;
    }
    const Columns block = {scratch.block_M, W, scratch.block_v, W, scratch.block_o, W};
    copy_rows(M + c, Dv, width, Dk, scratch.block_M, W, W);
    copy_rows(scratch.v + c, scratch.mixed_stride, width, T, scratch.block_v, W, W);
    apply_rule(scratch, Dk, 0, staying, block);
    copy_rows(scratch.block_M, W, width, Dk, M + c, Dv, width);
    apply_rule(scratch, Dk, staying, T, block);
    copy_rows(scratch.block_o + (size_t)silent * W, W, width, T - silent, out + c, out_stride, width);
  }
}

// row = weight·row·rsqrt(mean(row²) + eps)·silu(z)
void gated_norm(const DeltaOp& op, const float* z, float* row) {
  const int Dv = op.Dv;
  rms_norm_row(row, op.norm, Dv, op.eps, row);
  int i = 0;
  for (; i + LANES <= Dv; i += LANES) store(row + i, load(row + i) * silu(load(z + i)));
  if (i == Dv) return;
  float part_z[LANES] = {}, part_o[LANES] = {};
  memcpy(part_z, z + i, (Dv - i) * sizeof(float));
  memcpy(part_o, row + i, (Dv - i) * sizeof(float));
  store(part_o, load(part_o) * silu(load(part_z)));
  memcpy(row + i, part_o, (Dv - i) * sizeof(float));
}

void run_key_head(const DeltaCall& call, const DeltaScratch& scratch, int key_head) {
  const DeltaOp& op = call.op;
  const int sharing = op.Hv / op.Hk;
  mix_key_head(call, scratch, key_head);
  for (int i = 0; i < sharing; i++) {
    const int head = op.tiled_heads ? key_head + i * op.Hk : key_head * sharing + i;
    mix_value_head(call, scratch, head);
    advance_state(call, scratch, head, call.num_silent < call.T ? call.out(call.num_silent, head) : nullptr);
    for (int t = call.num_silent; t < call.T; t++) gated_norm(op, call.z(t, head), call.out(t, head));
  }
}

}  // namespace

void delta(const DeltaOp& op, Context& context, const DeltaArgs& args) {
  const size_t size = DeltaScratch::size(op);
  float* memory = ScratchSlots(context.scratch).take<float>(context.pool.size() * size);
  const int rows = args.num_taken + args.T;
  for (int first = 0, count; first < rows; first += count) {
    count = at_most(rows - first, TOKENS);
    // drafted rows are the end of one piece: what they make of the states is gone after it
    if (first + count < rows) count = at_most(count, rows - args.num_drafted - first);
    const DeltaCall call(op, args, first, count);
    // A thread uses what it convolves itself, so that only rows of the call come out of another core's cache.
    context.pool.run(op.Hk, [&](int key_head, int thread) {
      run_key_head(call, DeltaScratch(op, memory + thread * size), key_head);
    });
  }
}

}  // namespace a3b::A3B_NS
