// delta: convolution, gates, delta rule and gated norm of one sequence, token by token.
//
// Every number of the state depends on its own column of M alone, so columns are walked in blocks that stay in the L1 cache
// for all tokens of the call, and heads are shared out. Sums over Dk add even and odd rows apart.
#include "tiles.h"

namespace a3b::A3B_NS {

namespace {

constexpr int PART = 128;  // tokens at a time: bounds the scratch memory
constexpr int NEAR = 4;    // rows ahead to ask for: they lie pages apart, which the processor does not foresee

// Channels [first, first + count): c_t = silu(Σ_j weight[j]·x_(t - conv_len + 1 + j)), j ascending; the state keeps the latest inputs.
void convolve(const DeltaOp& op, const float* x, size_t stride, int T, float* state, int first, int count, float* out, size_t out_stride) {
  const int C = op.channels(), L = op.conv_len;
  auto input = [&](int t) { return (t < 0 ? state + (size_t)(L - 1 + t) * C : x + t * stride) + first; };
  const float *rows[MAX_CONV], *weight = op.conv + first;
  for (int t = 0; t < T; t++) {
    for (int j = 0; j < L; j++) rows[j] = input(t - L + 1 + j);
    if (t + NEAR < T)
      for (int c = 0; c < count; c += LANES) __builtin_prefetch(input(t + NEAR) + c);
    float* to = out + t * out_stride;
    int c = 0;
    for (; c + LANES <= count; c += LANES) {
      F total = zero();
      for (int j = 0; j < L; j++) total = fma(load(weight + (size_t)j * C + c), load(rows[j] + c), total);
      store(to + c, silu(total));
    }
    if (c < count) {
      F total = zero();
      for (int j = 0; j < L; j++) {
        float w[LANES] = {}, in[LANES] = {};
        memcpy(w, weight + (size_t)j * C + c, (count - c) * sizeof(float));
        memcpy(in, rows[j] + c, (count - c) * sizeof(float));
        total = fma(load(w), load(in), total);
      }
      float y[LANES];
      store(y, silu(total));
      memcpy(to + c, y, (count - c) * sizeof(float));
    }
  }
  for (int j = 0; j + 1 < L; j++) memmove(state + (size_t)j * C + first, input(T - L + 1 + j), count * sizeof(float));
}

// x·scale/sqrt(Σx² + 1e-6)
void unit(const float* x, int n, float scale, float* out) {
  F squares = zero();
  int i = 0;
  for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (int j = i; j < n; j++) total += x[j] * x[j];
  const float factor = scale / std::sqrt(finite_or_nan(total) + 1e-6f);
  for (int j = 0; j < n; j++) out[j] = x[j] * factor;
}

float softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }

// NB·16 columns of M for T tokens: M ← decay·M; δ = β(v - Mᵀk); M ← M + kδᵀ; o = Mᵀq.
template <int NB>
void rule(float* M, int M_stride, int Dk, int T, const float* q, const float* k, const float* v, size_t v_stride, const float* beta,
          const float* decay, float* out, size_t out_stride) {
  for (int t = 0; t < T; t++, q += Dk, k += Dk, v += v_stride, out += out_stride) {
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
    const F fade = set1(decay[t]);
    for (int b = 0; b < NB; b++) {
      delta[b] = set1(beta[t]) * (load(v + b * LANES) - fade * (even[b] + odd[b]));
      even[b] = odd[b] = zero();
    }
    auto row = [&](int r, F* total) {
      const F kr = set1(k[r]), qr = set1(q[r]);
      for (int b = 0; b < NB; b++) {
        float* at = M + (size_t)r * M_stride + b * LANES;
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

constexpr int COPYING = 4;  // tokens from which a block of columns of its own pays: rows of M lie a power of two apart, so they share few cache sets

// `count` rows of `width` numbers, with zeros behind them up to `to_width`. By vectors: rows are short, and memcpy would start anew for each.
void copy(const float* from, size_t from_stride, int width, int count, float* to, size_t to_stride, int to_width) {
  for (int i = 0; i < count; i++, from += from_stride, to += to_stride) {
    int j = 0;
    for (; j + LANES <= width; j += LANES) store(to + j, load(from + j));
    for (; j < to_width; j++) to[j] = j < width ? from[j] : 0.0f;
  }
}

}  // namespace

// projected [T, q k v | z | b a] -> out [T, Hv·Dv].
void delta(const DeltaOp& op, Context& context, const float* projected, size_t stride, int T, float* conv_state, float* state, float* out) {
  const int C = op.channels(), Hv = op.Hv, Hk = op.Hk, Dk = op.Dk, Dv = op.Dv, values = Hv * Dv, keys = Hk * Dk, shared = Hv / Hk;
  const float q_scale = 1.0f / std::sqrt((float)Dk);
  Pool& pool = context.pool;
  // Per thread: q, k [PART, Dk], beta, decay [PART], what was convolved [PART, Dk q | Dk k | Dv v], and a block of columns of its own: M, v and o.
  const size_t block = (size_t)(Dk + 2 * PART) * WIDE * LANES, mixed_stride = 2 * Dk + Dv, own = 2 * (size_t)PART * Dk + PART * (2 + mixed_stride) + block;
  float* threads = context.scratch.get<float>(1, pool.size() * own);
  for (int part = 0; part < T; part += PART) {
    const int num = T - part < PART ? T - part : PART;
    const float* x = projected + part * stride;
    // An item is a key head with its value heads: what it convolves it uses itself, so only `projected` comes out of another core's cache.
    pool.run(Hk, [&](int key_head, int thread) {
      float* q = threads + thread * own;
      float *k = q + (size_t)PART * Dk, *beta = k + (size_t)PART * Dk, *decay = beta + PART, *mixed = decay + PART, *v = mixed + 2 * Dk;
      float* spare = mixed + PART * mixed_stride;
      convolve(op, x, stride, num, conv_state, key_head * Dk, Dk, mixed, mixed_stride);
      convolve(op, x, stride, num, conv_state, keys + key_head * Dk, Dk, mixed + Dk, mixed_stride);
      for (int t = 0; t < num; t++) {
        const float* row = mixed + t * mixed_stride;
        unit(row, Dk, q_scale, q + (size_t)t * Dk);
        unit(row + Dk, Dk, 1.0f, k + (size_t)t * Dk);
      }
      for (int i = 0; i < shared; i++) {
        const int head = op.tiled_heads ? key_head + i * Hk : key_head * shared + i;
        convolve(op, x, stride, num, conv_state, 2 * keys + head * Dv, Dv, v, mixed_stride);
        for (int t = 0; t < num; t++) {
          const float* ba = x + t * stride + C + values;
          beta[t] = 1.0f / (1.0f + std::exp(-ba[head]));
          decay[t] = std::exp(op.rate[head] * softplus(ba[Hv + head] + op.dt_bias[head]));
        }
        float* M = state + (size_t)head * Dk * Dv;
        float* o = out + (size_t)part * values + head * Dv;
        for (int c = 0; c < Dv; c += WIDE * LANES) {
          const int width = Dv - c < WIDE * LANES ? Dv - c : WIDE * LANES;
          if (num < COPYING && width == WIDE * LANES) {
            rule<WIDE>(M + c, Dv, Dk, num, q, k, v + c, mixed_stride, beta, decay, o + c, values);
            continue;
          }
          constexpr int W = WIDE * LANES;
          float *own_v = spare + (size_t)Dk * W, *own_o = own_v + (size_t)PART * W;
          copy(M + c, Dv, width, Dk, spare, W, W);
          copy(v + c, mixed_stride, width, num, own_v, W, W);
          rule<WIDE>(spare, W, Dk, num, q, k, own_v, W, beta, decay, own_o, W);
          copy(spare, W, width, Dk, M + c, Dv, width);
          copy(own_o, W, width, num, o + c, values, width);
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
      }
    });
  }
}

}  // namespace a3b::A3B_NS
