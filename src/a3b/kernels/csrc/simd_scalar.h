// No instruction set: plain loops, multiplication and addition rounded separately.
#pragma once

namespace a3b::A3B_NS {

struct F {
  float v[LANES];
};
struct I {
  int32_t v[LANES];
};
struct Bytes {
  uint8_t v[4 * LANES];
};
#define A3B_EACH for (int i = 0; i < LANES; i++)

inline F load(const float* p) {
  F r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void store(float* p, F x) { memcpy(p, x.v, sizeof x.v); }
inline F set1(float x) {
  F r;
  A3B_EACH r.v[i] = x;
  return r;
}
inline F zero() { return set1(0); }
inline F operator+(F x, F y) {
  A3B_EACH x.v[i] += y.v[i];
  return x;
}
inline F operator-(F x, F y) {
  A3B_EACH x.v[i] -= y.v[i];
  return x;
}
inline F operator*(F x, F y) {
  A3B_EACH x.v[i] *= y.v[i];
  return x;
}
inline F operator/(F x, F y) {
  A3B_EACH x.v[i] /= y.v[i];
  return x;
}
inline F fma(F x, F y, F z) {
  A3B_EACH x.v[i] = x.v[i] * y.v[i] + z.v[i];
  return x;
}
inline F max(F x, F y) {
  A3B_EACH x.v[i] = x.v[i] > y.v[i] ? x.v[i] : y.v[i];
  return x;
}
inline F min(F x, F y) {
  A3B_EACH x.v[i] = x.v[i] < y.v[i] ? x.v[i] : y.v[i];
  return x;
}
inline F max_abs(F top, F x) {  // max(top, |x|), top a size
  A3B_EACH {
    int32_t a, b;
    memcpy(&a, &top.v[i], 4), memcpy(&b, &x.v[i], 4);
    b &= 0x7fffffff;
    if (b > a) memcpy(&top.v[i], &b, 4);
  }
  return top;
}
inline I iset1(int32_t x) {
  I r;
  A3B_EACH r.v[i] = x;
  return r;
}
inline I iload(const int32_t* p) {
  I r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void istore(int32_t* p, I x) { memcpy(p, x.v, sizeof x.v); }
inline I operator+(I x, I y) {
  A3B_EACH x.v[i] += y.v[i];
  return x;
}
inline I operator*(I x, I y) {
  A3B_EACH x.v[i] *= y.v[i];
  return x;
}
inline I rint(F x) {
  I r;
  A3B_EACH r.v[i] = (int32_t)std::lrintf(x.v[i]);
  return r;
}
inline F to_float(I x) {
  F r;
  A3B_EACH r.v[i] = (float)x.v[i];
  return r;
}
inline F scale_by_power(F x, I n) {
  A3B_EACH {
    uint32_t bits = (uint32_t)(n.v[i] + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    x.v[i] *= power;
  }
  return x;
}
inline float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
  if (exponent == 31) bits = sign | 0x7f800000 | fraction << 13;
  else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
  else {
    float value = (float)fraction * 0x1p-24f;
    memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float r;
  memcpy(&r, &bits, 4);
  return r;
}
inline F load_half(const uint16_t* p) {
  F r;
  A3B_EACH r.v[i] = half_to_float(p[i]);
  return r;
}
inline F load_bf16(const uint16_t* p) {
  F r;
  A3B_EACH {
    uint32_t bits = (uint32_t)p[i] << 16;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
inline I iload_u8(const uint8_t* p) {
  I r;
  A3B_EACH r.v[i] = p[i];
  return r;
}
inline I iload_s8(const uint8_t* p) {
  I r;
  A3B_EACH r.v[i] = (int8_t)p[i];
  return r;
}
inline void store_s8(int8_t* p, I x) { A3B_EACH p[i] = (int8_t)x.v[i]; }
inline void store_s16(int16_t* p, I x) { A3B_EACH p[i] = (int16_t)x.v[i]; }
inline Bytes load_bytes(const uint8_t* p) {
  Bytes r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
inline Bytes low_half(Bytes x) {
  for (uint8_t& b : x.v) b &= 15;
  return x;
}
inline Bytes high_half(Bytes x) {
  for (uint8_t& b : x.v) b >>= 4;
  return x;
}
template <int S>
inline Bytes with_top(Bytes low, Bytes top) {
  for (int i = 0; i < 4 * LANES; i++) low.v[i] |= (top.v[i] >> 2 * S & 3) << 4;
  return low;
}
template <int BITS>
struct Dot {
  static constexpr int BIAS = 0, STEPS_BEFORE_FLUSH = 1 << 20;
  int32_t sum[LANES];
  void start(int32_t init) { A3B_EACH sum[i] = init; }
  void step(Bytes w, const int8_t* x) {
    A3B_EACH sum[i] += w.v[4 * i] * x[0] + w.v[4 * i + 1] * x[1] + w.v[4 * i + 2] * x[2] + w.v[4 * i + 3] * x[3];
  }
  void flush() {}
  I value() const { return iload(sum); }
};
inline Bytes opaque(const Bytes& x) {
  asm volatile("" : : "r"(&x) : "memory");
  return x;
}

struct Int16s {
  int16_t v[2 * LANES];
};
inline Int16s load_int16s(const int8_t* p) {
  Int16s r;
  for (int i = 0; i < 2 * LANES; i++) r.v[i] = p[i];
  return r;
}
inline Int16s load_pairs(const uint8_t* first, const uint8_t* second) {
  Int16s r;
  A3B_EACH r.v[2 * i] = first[i], r.v[2 * i + 1] = second[i];
  return r;
}
struct PairDot {
  int32_t sum[LANES];
  void start() { A3B_EACH sum[i] = 0; }
  void step(const Int16s& values, int32_t pair) {
    int16_t p[2];
    memcpy(p, &pair, 4);
    A3B_EACH sum[i] += values.v[2 * i] * p[0] + values.v[2 * i + 1] * p[1];
  }
  I value() const { return iload(sum); }
};

inline float reduce_add(F x) {
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) x.v[i] += x.v[i + half];
  return x.v[0];
}
inline int32_t reduce_add(I x) {
  int32_t total = 0;
  for (int32_t value : x.v) total += value;
  return total;
}
inline float reduce_max(F x) {
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) x.v[i] = x.v[i] > x.v[i + half] ? x.v[i] : x.v[i + half];
  return x.v[0];
}
inline float reduce_max_abs(F x) {  // of sizes: NaN before infinity before numbers, as integers are compared
  F top = zero();
  for (int i = 0; i < LANES; i++) top = max_abs(top, set1(x.v[i]));
  return top.v[0];
}

#undef A3B_EACH

}  // namespace a3b::A3B_NS
