// probe: what this machine can do at most, as the kernels would do it: bytes read in streams, integer products out of registers.
#include "tiles.h"

namespace a3b::A3B_NS {

// Reads every byte once; the sum is returned so that nothing can be left out.
int32_t probe_read(Context& context, const uint8_t* data, size_t size) {
  constexpr size_t ITEM = 1 << 20;
  int32_t* sums = context.scratch.get<int32_t>(0, (size_t)context.pool.size() * LANES);
  memset(sums, 0, context.pool.size() * LANES * sizeof(int32_t));
  context.pool.run((int)((size + ITEM - 1) / ITEM), [&](int item, int thread) {
    const size_t begin = item * ITEM, end = begin + ITEM < size ? begin + ITEM : size;
    I a = iset1(0), b = a, c = a, d = a;
    for (size_t at = begin; at + 256 <= end; at += 256) {
      const int32_t* p = (const int32_t*)(data + at);
      a = a + iload(p), b = b + iload(p + 16), c = c + iload(p + 32), d = d + iload(p + 48);
    }
    int32_t part[LANES];
    istore(part, (a + b) + (c + d));
    for (int i = 0; i < LANES; i++) sums[thread * LANES + i] += part[i];
  });
  int32_t total = 0;
  for (int i = 0; i < context.pool.size() * LANES; i++) total += sums[i];
  return total;
}

// `count` items of 8·1,024 steps each: 128 integer operations a step (64 products, 64 additions).
int32_t probe_products(Context& context, int count) {
  int32_t* sums = context.scratch.get<int32_t>(0, (size_t)context.pool.size());
  memset(sums, 0, context.pool.size() * sizeof(int32_t));
  context.pool.run(count, [&](int item, int thread) {
    uint8_t weights[64];
    int8_t x[64];
    for (int i = 0; i < 64; i++) weights[i] = (uint8_t)((i + item) % 16), x[i] = (int8_t)(i - 32);
    Bytes w = load_bytes(weights);
    constexpr int SUMS = sizeof(Bytes) == 64 && sizeof(Dot<4>) > 64 ? 4 : 8;  // as many as registers hold
    Dot<4> dot[SUMS];
    for (Dot<4>& d : dot) d.start(item);
    for (int i = 0; i < 1024 / SUMS; i++) {
      for (int step = 0; step < 8; step++) {
        w = opaque(w);  // or the compiler sees that every step is the same
        for (int s = 0; s < SUMS; s++) dot[s].step(w, x + 4 * s);
      }
      for (int s = 0; s < SUMS; s++) dot[s].settle();
    }
    I total = iset1(0);
    for (const Dot<4>& d : dot) total = total + d.value();
    sums[thread] += sum(total);
  });
  int32_t total = 0;
  for (int i = 0; i < context.pool.size(); i++) total += sums[i];
  return total;
}

}  // namespace a3b::A3B_NS
