// The ops: what each is bound to, and the table of entry points of each instruction set.
//
// Axes: T tokens, D hidden size, E experts, K chosen of them, F hidden columns of an expert, Fs of the shared expert;
// Hq, Hkv, Dh heads of attention and their size; Hk, Hv, Dk, Dv key and value heads of the delta rule and their sizes.
#pragma once
#include <cstddef>
#include <cstdint>

#include "matrix.h"
#include "pool.h"

namespace a3b {

constexpr int MAX_LAYOUTS = 4;   // different ways to prepare activations in one op
constexpr int MAX_CHOSEN = 64;   // experts of a token
constexpr int MAX_CONV = 16;     // taps of a convolution
constexpr int MAX_DRAFTED = 64;  // drafted tokens of one sequence in a step
constexpr int KV_PAGE = 64;      // positions of a page of keys and values

// A run of tiles that one thread multiplies.
struct TileRun {
  int part, first, count;  // the matrix, its tiles
  int layout;              // of the activations
  int column;              // of the output
};

// Ops as bound. They point to memory of the code that bound them.
struct LinearOp {
  const Tiles* parts;               // outputs side by side
  const ActivationLayout* layouts;  // the different ones among the parts
  const TileRun* runs;
  int num_parts, num_layouts, num_runs, n, num_out;
  const float* norm;  // weight [n] of an RMS norm before the product, or null
  float eps;
};

struct MoeOp {
  int E, K, D, F, Fs;                         // E 0: only the shared expert, without a gate
  Tiles gate, up, down;                       // of expert 0; the others follow
  Tiles shared_gate, shared_up, shared_down;  // the shared expert
  Tiles router;                               // [E + 1, D]: the experts, the gate of the shared expert
  const float* norm;                          // [D], 1 included
  float eps;
};

struct DeltaOp {
  int Hk, Hv, Dk, Dv, conv_len;
  bool tiled_heads;             // value head h uses key head h % Hk instead of h / (Hv / Hk)
  const float* conv;            // [conv_len, channels]
  const float *rate, *dt_bias;  // [Hv]; rate is -e^A_log
  const float* norm;            // [Dv]
  float eps;
  int channels() const { return 2 * Hk * Dk + Hv * Dv; }
};

// What one call of delta reads and writes. First the rows that are only taken in, then those that get an output; the
// last `num_drafted` of these leave no trace in the states.
struct DeltaArgs {
  const float* taken;  // [num_taken, q k v | b a]
  int num_taken;
  const float* projected;  // [T, q k v | z | b a], rows `stride` apart
  size_t stride;
  int T, num_drafted;
  float* conv_state;  // [conv_len - 1, channels]
  float* state;       // [Hv, Dk, Dv]
  float* out;         // [T, Hv·Dv]
};

enum KvType { KV_F32, KV_Q8, KV_BF16 };

// Consecutive pages of the keys and values of one layer.
struct KvRun {
  uint8_t* keys;    // [pages, Hkv] of key_page_bytes
  uint8_t* values;  // [pages, Hkv] of value_page_bytes
};

size_t key_page_bytes(KvType kv, int Dh);
size_t value_page_bytes(KvType kv, int Dh);

struct AttentionOp {
  int Hq, Hkv, Dh, rotary_half;
  KvType kv;
  const float *q_norm, *k_norm;  // [Dh], 1 included
  float eps;
};

// What one call of attention reads and writes.
struct AttentionArgs {
  const float* projected;  // [T, per query head: query, gate | k | v], rows `stride` apart; null: only store
  const float* keys;       // where k of the first row begins, v behind it
  size_t stride;
  int T, start;            // positions start .. start + T - 1
  const float *cos, *sin;  // [T, rotary_half]
  const KvRun* runs;
  int pages_per_run;
  float* out;  // [T, Hq·Dh]
};

// The entry points of one instruction set. Strides are in numbers.
struct Ops {
  const char* name;
  // out [T, num_out] = or += norm(x [T, n])·Wᵀ
  void (*linear)(const LinearOp&, Context&, const float* x, size_t x_stride, int T, float* out, bool add);
  // h [T, D] += moe(norm(h))
  void (*moe)(const MoeOp&, Context&, float* h, int T);
  void (*delta)(const DeltaOp&, Context&, const DeltaArgs&);
  void (*attention)(const AttentionOp&, Context&, const AttentionArgs&);
  // out [num_ids, n]: rows of the matrix, decoded
  void (*embed)(const Tiles&, const int64_t* ids, int num_ids, float* out);
  int32_t (*probe_read)(Context&, const uint8_t* data, size_t size);
  int32_t (*probe_products)(Context&, int count);
};

// The ops of an instruction set, or the best ones if `name` is empty; nullptr if this machine or this build lacks it.
const Ops* find_ops(const char* name);

}  // namespace a3b
