// delta: convolution, gates, delta rule and gated norm of one sequence, token by token.
//
// Every number of the state depends on its own column of M alone, so columns are walked in blocks that stay in the L1 cache
// for all tokens of the call, and heads are shared out. Sums over Dk add even and odd rows apart.
#include "tiles.h"

namespace a3b::A3B_NS {

namespace {

constexpr int PART = 128;  // tokens at a time: bounds the scratch memory

// One channel block: c_t = silu(Σ_j weight[j]·x_(t - conv_len + 1 + j)), j ascending; the state keeps the latest inputs.
void convolve(const DeltaOp& op, const float* x, size_t stride, int T, float* state, float* out, int first, int count) {
  const int C = op.channels(), L = op.conv_len;
  for (int c = first; c < first + count; c += LANES) {
    const int lanes = C - c < LANES ? C - c : LANES;
    float window[16][LANES] = {}, weight[16][LANES] = {};
    for (int j = 0; j < L; j++) memcpy(weight[j], op.conv + (size_t)j * C + c, lanes * sizeof(float));
    for (int j = 0; j + 1 < L; j++) memcpy(window[j], state + (size_t)j * C + c, lanes * sizeof(float));
    for (int t = 0; t < T; t++) {
      memcpy(window[(t + L - 1) % L], x + t * stride + c, lanes * sizeof(float));
      F total = zero();
      for (int j = 0; j < L; j++) total = fma(load(weight[j]), load(window[(t + j) % L]), total);
      float y[LANES];
      store(y, silu(total));
      memcpy(out + (size_t)t * C + c, y, lanes * sizeof(float));
    }
    for (int j = 0; j + 1 < L; j++) memcpy(state + (size_t)j * C + c, window[(T + j) % L], lanes * sizeof(float));
  }
}

// x·scale/sqrt(Σx² + 1e-6)
void unit(const float* x, int n, float scale, float* out) {
  F squares = zero();
  int i = 0;
  for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (int j = i; j < n; j++) total += x[j] * x[j];
  const float factor = scale / std::sqrt(total + 1e-6f);
  for (int j = 0; j < n; j++) out[j] = x[j] * factor;
}

float softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }

// NB·16 columns of M for T tokens: M ← decay·M; δ = β(v - Mᵀk); M ← M + kδᵀ; o = Mᵀq.
template <int NB>
void rule(float* M, int Dk, int Dv, int T, const float* q, const float* k, const float* v, size_t v_stride, const float* beta,
          const float* decay, float* out, size_t out_stride) {
  for (int t = 0; t < T; t++, q += Dk, k += Dk, v += v_stride, out += out_stride) {
    F even[NB], odd[NB], delta[NB];
    for (int b = 0; b < NB; b++) even[b] = odd[b] = zero();
    int i = 0;
    for (; i + 2 <= Dk; i += 2) {
      const F k0 = set1(k[i]), k1 = set1(k[i + 1]);
      for (int b = 0; b < NB; b++) {
        even[b] = fma(load(M + (size_t)i * Dv + b * LANES), k0, even[b]);
        odd[b] = fma(load(M + (size_t)(i + 1) * Dv + b * LANES), k1, odd[b]);
      }
    }
    if (i < Dk)
      for (int b = 0; b < NB; b++) even[b] = fma(load(M + (size_t)i * Dv + b * LANES), set1(k[i]), even[b]);
    const F fade = set1(decay[t]);
    for (int b = 0; b < NB; b++) {
      delta[b] = set1(beta[t]) * (load(v + b * LANES) - fade * (even[b] + odd[b]));
      even[b] = odd[b] = zero();
    }
    auto row = [&](int r, F* total) {
      const F kr = set1(k[r]), qr = set1(q[r]);
      for (int b = 0; b < NB; b++) {
        float* at = M + (size_t)r * Dv + b * LANES;
        const F m = fma(kr, delta[b], fade * load(at));
        store(at, m);
        total[b] = fma(m, qr, total[b]);
      }
    };
    for (i = 0; i + 2 <= Dk; i += 2) row(i, even), row(i + 1, odd);
    if (i < Dk) row(i, even);
    for (int b = 0; b < NB; b++) store(out + b * LANES, even[b] + odd[b]);
  }
}

#if defined(A3B_AVX512)
constexpr int WIDE = 4;
#else
constexpr int WIDE = 2;
#endif

}  // namespace

// projected [T, q k v | z | b a] -> out [T, Hv·Dv].
void delta(const DeltaOp& op, Context& context, const float* projected, size_t stride, int T, float* conv_state, float* state, float* out) {
  const int C = op.channels(), Hv = op.Hv, Hk = op.Hk, Dk = op.Dk, Dv = op.Dv, values = Hv * Dv, keys = Hk * Dk;
  Pool& pool = context.pool;
  float* mixed = context.scratch.get<float>(0, (size_t)PART * C + LANES);
  // Per thread: q, k [PART, Dk], beta, decay [PART], and columns that do not fill a vector: M, v and o of their own.
  const size_t edge = (size_t)(Dk + 2 * PART) * LANES, own = 2 * (size_t)PART * Dk + 2 * PART + edge;
  float* threads = context.scratch.get<float>(1, pool.size() * own);
  for (int part = 0; part < T; part += PART) {
    const int num = T - part < PART ? T - part : PART;
    const float* x = projected + part * stride;
    constexpr int STEP = 16 * LANES;
    pool.run((C + STEP - 1) / STEP, [&](int item, int) {
      const int first = item * STEP, count = C - first < STEP ? C - first : STEP;
      convolve(op, x, stride, num, conv_state, mixed, first, count);
    });
    pool.run(Hv, [&](int head, int thread) {
      float* q = threads + thread * own;
      float *k = q + (size_t)PART * Dk, *beta = k + (size_t)PART * Dk, *decay = beta + PART, *spare = decay + PART;
      const int key_head = op.tiled_heads ? head % Hk : head / (Hv / Hk);
      const float rate = op.rate[head], bias = op.dt_bias[head], q_scale = 1.0f / std::sqrt((float)Dk);
      for (int t = 0; t < num; t++) {
        const float* row = mixed + (size_t)t * C + key_head * Dk;
        unit(row, Dk, q_scale, q + (size_t)t * Dk);
        unit(row + keys, Dk, 1.0f, k + (size_t)t * Dk);
        const float* ba = x + t * stride + C + values;
        beta[t] = 1.0f / (1.0f + std::exp(-ba[head]));
        decay[t] = std::exp(rate * softplus(ba[Hv + head] + bias));
      }
      float* M = state + (size_t)head * Dk * Dv;
      const float* v = mixed + 2 * keys + head * Dv;
      float* o = out + (size_t)part * values + head * Dv;
      int c = 0;
      for (; c + WIDE * LANES <= Dv; c += WIDE * LANES) rule<WIDE>(M + c, Dk, Dv, num, q, k, v + c, C, beta, decay, o + c, values);
      for (; c + LANES <= Dv; c += LANES) rule<1>(M + c, Dk, Dv, num, q, k, v + c, C, beta, decay, o + c, values);
      if (c < Dv) {
        const size_t bytes = (Dv - c) * sizeof(float);
        float *edge_v = spare + (size_t)Dk * LANES, *edge_o = edge_v + (size_t)PART * LANES;
        memset(spare, 0, edge * sizeof(float));
        for (int i = 0; i < Dk; i++) memcpy(spare + i * LANES, M + (size_t)i * Dv + c, bytes);
        for (int t = 0; t < num; t++) memcpy(edge_v + t * LANES, v + (size_t)t * C + c, bytes);
        rule<1>(spare, Dk, LANES, num, q, k, edge_v, LANES, beta, decay, edge_o, LANES);
        for (int i = 0; i < Dk; i++) memcpy(M + (size_t)i * Dv + c, spare + i * LANES, bytes);
        for (int t = 0; t < num; t++) memcpy(o + (size_t)t * values + c, edge_o + t * LANES, bytes);
      }
      for (int t = 0; t < num; t++) {  // weight·o·rsqrt(mean(o²) + eps)·silu(z)
        float* row = o + (size_t)t * values;
        const float* z = x + t * stride + C + head * Dv;
        rms_norm_row(row, op.norm, Dv, op.eps, row);
        int i = 0;
        for (; i + LANES <= Dv; i += LANES) store(row + i, load(row + i) * silu(load(z + i)));
        if (i < Dv) {
          float part_z[LANES] = {}, part_o[LANES] = {};
          memcpy(part_z, z + i, (Dv - i) * sizeof(float));
          memcpy(part_o, row + i, (Dv - i) * sizeof(float));
          store(part_o, load(part_o) * silu(load(part_z)));
          memcpy(row + i, part_o, (Dv - i) * sizeof(float));
        }
      }
    });
  }
}

}  // namespace a3b::A3B_NS
