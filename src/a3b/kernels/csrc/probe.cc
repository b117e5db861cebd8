// probe: the most this machine can do by the means of the kernels: bytes read in streams, integer products out of
// registers.
#include "products.h"

namespace a3b::A3B_NS {

namespace {

// The sum of all bytes from `begin` to `end`, as int32 in 16 lanes.
I sum_bytes(const uint8_t* begin, const uint8_t* end) {
  I a = iset1(0), b = a, c = a, d = a;
  for (; begin + 256 <= end; begin += 256) {
    const int32_t* p = (const int32_t*)begin;
    a = a + iload(p), b = b + iload(p + 16), c = c + iload(p + 32), d = d + iload(p + 48);
  }
  return (a + b) + (c + d);
}

// 8·1,024 steps.
int32_t sum_products(int seed) {
  constexpr int SUMS = TUNING.probe_sums;
  uint8_t weights[64];
  int8_t x[64];
  for (int i = 0; i < 64; i++) weights[i] = (uint8_t)((i + seed) % 16), x[i] = (int8_t)(i - 32);
  Bytes w = load_bytes(weights);
  Dot<4> dot[SUMS];
  for (Dot<4>& d : dot) d.start(seed);
  for (int i = 0; i < 1024 / SUMS; i++) {
    for (int step = 0; step < 8; step++) {
      w = opaque(w);  // or the compiler sees that every step is the same
      for (int s = 0; s < SUMS; s++) dot[s].step(w, x + 4 * s);
    }
    for (int s = 0; s < SUMS; s++) dot[s].flush();
  }
  I total = iset1(0);
  for (const Dot<4>& d : dot) total = total + d.value();
  return reduce_add(total);
}

int32_t sum_of(const int32_t* values, int num) {
  int32_t total = 0;
  for (int i = 0; i < num; i++) total += values[i];
  return total;
}

}  // namespace

// Reads every byte once; the sum is returned so that no read can be left out.
int32_t probe_read(Context& context, const uint8_t* data, size_t size) {
  constexpr size_t ITEM = HOST_TUNING.probe_item_bytes;
  const int num = context.pool.size() * LANES;
  int32_t* sums = ScratchSlots(context.scratch).take<int32_t>(num);  // [threads, 16]
  memset(sums, 0, num * sizeof(int32_t));
  context.pool.run((int)((size + ITEM - 1) / ITEM), [&](int item, int thread) {
    const size_t begin = item * ITEM, end = begin + ITEM < size ? begin + ITEM : size;
    int32_t* mine = sums + thread * LANES;
    istore(mine, iload(mine) + sum_bytes(data + begin, data + end));
  });
  return sum_of(sums, num);
}

// `count` items of 8·1,024 steps each: 128 integer operations a step (64 products, 64 additions).
int32_t probe_products(Context& context, int count) {
  const int num = context.pool.size();
  int32_t* sums = ScratchSlots(context.scratch).take<int32_t>(num);  // [threads]
  memset(sums, 0, num * sizeof(int32_t));
  context.pool.run(count, [&](int item, int thread) { sums[thread] += sum_products(item); });
  return sum_of(sums, num);
}

}  // namespace a3b::A3B_NS
