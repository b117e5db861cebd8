// The choice of experts for one token.
#pragma once
#include "ops.h"
#include "simd.h"

namespace a3b::A3B_NS {

// ids: the K largest of E logits, falling, the lower id first among equals.
inline void top_k(const float* logits, int E, int K, int* ids) {
  int num = 0;
  for (int e = 0; e < E; e++) {
    if (num == K && !(logits[e] > logits[ids[K - 1]])) continue;
    int k = num < K ? num++ : K - 1;
    for (; k > 0 && logits[e] > logits[ids[k - 1]]; k--) ids[k] = ids[k - 1];
    ids[k] = e;
  }
}

inline void sort_by_id(int K, int* ids, float* weights) {
  for (int k = 1; k < K; k++) {
    const int id = ids[k];
    const float weight = weights[k];
    int j = k;
    for (; j > 0 && ids[j - 1] > id; j--) ids[j] = ids[j - 1], weights[j] = weights[j - 1];
    ids[j] = id;
    weights[j] = weight;
  }
}

// The K best experts of a token and the softmax over them, ids ascending. A NaN in any logit makes all weights NaN.
inline void choose(const float* logits, int E, int K, int* ids, float* weights) {
  top_k(logits, E, K, ids);
  F poison = zero();  // zero, or NaN; the last vector may reach the gate of the shared expert, whose NaN is as bad
  for (int e = 0; e < E; e += LANES) poison = fma(load(logits + e), zero(), poison);
  float total = reduce_add(poison), raised[MAX_CHOSEN];
  const float top = logits[ids[0]];
  for (int k = 0; k < K; k += LANES) {
    float part[LANES];
    for (int i = 0; i < LANES; i++) part[i] = k + i < K ? logits[ids[k + i]] - top : 0.0f;
    store(raised + k, exp(load(part)));
  }
  for (int k = 0; k < K; k++) total += raised[k];
  for (int k = 0; k < K; k++) weights[k] = raised[k] / total;
  sort_by_id(K, ids, weights);
}

}  // namespace a3b::A3B_NS
