// Every number that is chosen for speed: the defaults with their reasons, then one row per instruction set with what
// differs there. No field changes a result: sums have one order whatever the blocks (see tiles.h).
#pragma once
#include <cstddef>

namespace a3b {

// How the bytes of tiles reach the cache before they are multiplied.
enum PrefetchMode {
  PREFETCH_HEADER,  // only the header of the current unit; the rest is left to the processor
  PREFETCH_STREAM,  // what is `prefetch_distance` bytes ahead: for tiles that are walked once
  PREFETCH_NEXT,    // a share of the next tiles: for tiles that several blocks of tokens walk, cached after the first
};

struct Tuning {
  // Products of tiles with activations: multiply.cc, tiles.h.
  int tokens_per_block = 4;        // more tokens reuse an unpacked weight, but need registers for their sums
  int float_tiles_per_block = 4;   // independent sums hide the latency of fma
  int float_tokens_per_block = 2;  // times float_tiles_per_block sums of 16 floats: as many as registers hold
  int token_block = 64;            // tokens that meet a run of tiles before the next do: their activations stay in L2
  int sharing_tokens = 8;  // from here several blocks share a tile; fewer wait for memory, which prefers one stream
  PrefetchMode stream_prefetch = PREFETCH_STREAM;  // below sharing_tokens
  PrefetchMode shared_prefetch = PREFETCH_NEXT;    // from sharing_tokens on
  int prefetch_distance = 2048;                    // bytes: the latency of memory is about 30 cache lines long
  int flat_units_per_prefetch = 4;  // flat units are a quarter of a super-block, too short for a share each

  // How ops cut their work into items: linear.cc, moe.cc.
  int items_per_thread = 16;     // items of few tokens grow while each thread keeps this many, to even out slow threads
  int linear_runs_per_item = 4;  // at most: neighbouring runs make one stream, and every jump waits for memory
  int moe_few_tokens = 8;        // fewer tokens wait for memory more than they compute, so they get longer streams
  int moe_columns = 64;          // hidden or output columns of an item: its products stay in L1
  int moe_few_hidden_columns = 256;  // at most, for few tokens
  int moe_few_output_columns = 512;  // at most, for few tokens
  int moe_output_per_thread = 4;     // output items grow while each thread keeps this many

  // delta.cc
  int delta_tokens = 128;       // at a time: bounds the scratch memory
  int delta_vectors = 2;        // of 16 state columns at a time: even sums, odd sums and differences fill the registers
  int delta_copy_tokens = 4;    // from here a copy of the columns pays: rows a power of two apart share few cache sets
  int delta_prefetch_rows = 4;  // rows ahead: they lie pages apart, which the processor does not foresee

  // attention.cc
  int attention_heads = 4;        // query heads that read a page together: their sums fill the registers
  int attention_tokens = 8;       // of an item: a page is read once for all of them
  int attention_prefetches = 16;  // steps over which the products of a page spread the prefetch of the next bytes

  // probe.cc
  int probe_sums = 8;  // independent integer sums: as many as registers hold
};

// One row per instruction set, under the name of its namespace (A3B_NS in simd.h).
namespace tuning {

// 32 registers of 16 lanes.
inline constexpr Tuning avx512 = {
    .tokens_per_block = 8,
    .float_tokens_per_block = 4,
    .sharing_tokens = 9,
    .moe_few_tokens = 9,
    .delta_vectors = 4,
    .attention_heads = 8,
};

// 16 registers of 8 lanes: 16 lanes take two.
inline constexpr Tuning avx2 = {
    .probe_sums = 4,
};

// Computes for longer than memory takes. Few blocks, since a compiler takes seconds for each.
inline constexpr Tuning scalar = {
    .tokens_per_block = 2,
    .stream_prefetch = PREFETCH_HEADER,
    .shared_prefetch = PREFETCH_HEADER,
};

}  // namespace tuning

// Of what is compiled once for all instruction sets: pool.cc, bound_matrices.cc.
struct HostTuning {
  int spins = 1500;              // waits of 20 to 60 microseconds: longer than the gap between two ops of a layer
  size_t run_bytes = 128 << 10;  // of tiles in one run: a fraction of an L2 cache, so that later tokens find it there
  int max_run_tiles = 16;        // bounds the memory for the products of a run
  size_t probe_item_bytes = 1 << 20;  // read by one thread at a time: starting an item costs nothing in comparison
};
inline constexpr HostTuning HOST_TUNING;

}  // namespace a3b
