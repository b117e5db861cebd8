// What the instruction sets have in common: matrices, activations, and the table of entry points of each set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "pool.h"

namespace a3b {

enum Code { W4S32, W4M32, W4M64, W4K32, W6S32, W6K16, W6K32, W8S32, F32, BF16, NUM_CODES };

// A matrix [rows, n] in tiles of 16 rows; a tile is `tile_bytes` long, a matrix ceil(rows / 16) of them.
struct Tiles {
  Code code;
  const uint8_t* data;
  int rows, n, num_units;
  size_t tile_bytes;
  int num_tiles() const { return (rows + 15) / 16; }
  size_t bytes() const { return num_tiles() * tile_bytes; }
  const uint8_t* tile(int index) const { return data + index * tile_bytes; }
  Tiles at(size_t index) const {  // the index-th of matrices that lie one behind the other
    Tiles other = *this;
    other.data = data + index * bytes();
    return other;
  }
};

// How activations are prepared for a format: integers with a scale per `act_group`, and per `group` the start value of
// the integer sum, or for formats with minimums the sum of the activations: int16 for super-blocks, else float and times their
// scale. Float tiles take floats.
struct Form {
  int act_group, group, zero;  // act_group 0: floats
  bool has_minimum;
  int bits;
  int columns;  // padded
  bool is_super() const { return act_group == 256; }
};
Form form_of(const Tiles& tiles);
inline int part_len(const Form& form) { return form.act_group > 64 ? form.act_group : 64; }  // columns that can be prepared apart from the others
bool same(const Form& a, const Form& b);

// Prepared activations; one row per token: integers, `scale_at` bytes from the row's start its scales, `offset_at` bytes from there its offsets,
// which are floats, or int32 or int16 in their place. So products need one pointer a token.
struct Rows {
  int8_t* q = nullptr;
  float* f = nullptr;
  int q_stride = 0, scale_at = 0, offset_at = 0, f_stride = 0;
};

Rows rows_for(const Form& form, int num_rows, Scratch& scratch, int slot);

constexpr int MAX_FORMS = 4;   // different ways to prepare activations in one op
constexpr int MAX_PIECE = 16;  // tiles
constexpr int MAX_CHOSEN = 64;  // experts of a token
constexpr int MAX_CONV = 16;    // taps of a convolution

// A run of tiles that one thread multiplies.
struct Piece {
  int part, first, count, form, column;
};

// Ops as bound. They point to memory of whoever bound them.
struct LinearOp {
  const Tiles* parts;  // outputs side by side
  const Form* forms;   // the different ones among the parts
  const Piece* pieces;
  int num_parts, num_forms, num_pieces, n, num_out;
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
  bool tiled_heads;  // value head h uses key head h % Hk instead of h / (Hv / Hk)
  const float* conv;     // [conv_len][C]
  const float *rate, *dt_bias;  // -e^A_log; [Hv]
  const float* norm;     // [Dv]
  float eps;
  int channels() const { return 2 * Hk * Dk + Hv * Dv; }
};

enum KvType { KV_F32, KV_Q8, KV_BF16 };

// Keys and values of one layer in pages of 64 positions, `pages` of them in a run.
struct KvRun {
  uint8_t* keys;
  uint8_t* values;
};

struct AttentionOp {
  int Hq, Hkv, Dh, rotary_half;
  KvType kv;
  const float *q_norm, *k_norm;  // [Dh], 1 included
  float eps;
};

// The entry points of one instruction set. Row strides are in numbers.
struct Ops {
  const char* name;
  void (*linear)(const LinearOp&, Context&, const float* x, size_t x_stride, int T, float* out, size_t out_stride, bool add);
  void (*moe)(const MoeOp&, Context&, float* h, int T);  // h += moe(norm(h))
  void (*delta)(const DeltaOp&, Context&, const float* projected, size_t stride, int T, float* conv_state, float* state, float* out);
  void (*attention)(const AttentionOp&, Context&, const float* projected, size_t stride, int T, int start, const float* cos,
                    const float* sin, const KvRun* runs, int pages_per_run, float* out);
  void (*rows_f32)(const Tiles&, const int64_t* ids, int num_ids, float* out);  // decoded rows
  int32_t (*probe_read)(Context&, const uint8_t* data, size_t size);
  int32_t (*probe_products)(Context&, int count);
};

const Ops* find_ops(const char* name);  // nullptr if this machine or this build lacks it; the best if name is empty

}  // namespace a3b
