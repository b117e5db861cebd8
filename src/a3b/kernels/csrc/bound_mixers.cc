// delta and attention as Python classes: checks and ownership, no arithmetic.
#include "bindings.h"

namespace a3b {

namespace {

class BoundDelta {
 public:
  BoundDelta(std::shared_ptr<Runtime> runtime, int Hk, int Hv, int Dk, int Dv, bool tiled_heads, Floats2 conv_weight,
             Floats1 rates, Floats1 biases, Floats1 norm_weight, float eps)
      : runtime(runtime),
        conv(conv_weight.data(), conv_weight.data() + conv_weight.size()),
        rate(copied(rates)),
        bias(copied(biases)),
        norm(copied(norm_weight)) {
    const int conv_len = conv_weight.shape(0);
    op = {Hk, Hv, Dk, Dv, conv_len, tiled_heads, conv.data(), rate.data(), bias.data(), norm.data(), eps};
    require(Hk > 0 && Hv % Hk == 0 && Dk > 0 && Dv > 0 && conv_len > 0 && conv_len <= MAX_CONV, "delta: wrong sizes");
    require(has_shape(conv_weight, {conv_len, op.channels()}) && has_shape(rates, {Hv}) && has_shape(biases, {Hv}) &&
                has_shape(norm_weight, {Dv}),
            "delta: wrong weights");
  }
  void call(const FloatRows& projected, const OutFloats2& conv_state, const OutFloats3& state, const OutFloats2& out,
            const std::optional<Floats2>& taken, int num_drafted) {
    const int T = projected.shape(0), values = op.Hv * op.Dv, num_taken = taken ? taken->shape(0) : 0;
    require(has_shape(projected, {T, op.channels() + values + 2 * op.Hv}) && (T == 0 || projected.stride(1) == 1) &&
                has_shape(out, {T, values}) && has_shape(conv_state, {op.conv_len - 1, op.channels()}) &&
                has_shape(state, {op.Hv, op.Dk, op.Dv}),
            "delta: wrong shapes");
    require(!taken || has_shape(*taken, {num_taken, op.channels() + 2 * op.Hv}), "delta: wrong rows to take in");
    require(num_drafted >= 0 && num_drafted <= T && num_drafted <= MAX_DRAFTED, "delta: too many drafted rows");
    runtime->run([&] {
      runtime->ops->delta(op, runtime->context,
                          {taken ? taken->data() : nullptr, num_taken, projected.data(), (size_t)projected.stride(0), T,
                           num_drafted, conv_state.data(), state.data(), out.data()});
    });
  }

 private:
  std::shared_ptr<Runtime> runtime;
  std::vector<float> conv, rate, bias, norm;
  DeltaOp op;
};

class BoundAttention {
 public:
  BoundAttention(std::shared_ptr<Runtime> runtime, int Hq, int Hkv, int Dh, int rotary_half, int kv, Floats1 q_weight,
                 Floats1 k_weight, float eps)
      : runtime(runtime),
        q_norm(copied(q_weight)),
        k_norm(copied(k_weight)) {
    require(Hkv > 0 && Hq % Hkv == 0 && Dh > 0 && 2 * rotary_half <= Dh && kv >= KV_F32 && kv <= KV_BF16,
            "attention: wrong sizes");
    require(has_shape(q_weight, {Dh}) && has_shape(k_weight, {Dh}), "attention: wrong norms");
    op = {Hq, Hkv, Dh, rotary_half, (KvType)kv, q_norm.data(), k_norm.data(), eps};
  }
  void call(const FloatRows& projected, int start, const Floats2& cos, const Floats2& sin,
            const std::vector<std::tuple<PageBytes, PageBytes>>& segments, int pages_per_segment,
            const OutFloats2& out) {
    const int T = projected.shape(0);
    require(has_shape(projected, {T, (2 * op.Hq + 2 * op.Hkv) * op.Dh}) && projected.stride(1) == 1 &&
                has_shape(out, {T, op.Hq * op.Dh}) && has_shape(cos, {T, op.rotary_half}) &&
                has_shape(sin, {T, op.rotary_half}),
            "attention: wrong shapes");
    const std::vector<KvRun> runs = runs_of(segments, pages_per_segment, start, T);
    runtime->run([&] {
      runtime->ops->attention(
          op, runtime->context,
          {projected.data(), projected.data() + (size_t)2 * op.Hq * op.Dh, (size_t)projected.stride(0), T, start,
           cos.data(), sin.data(), runs.data(), pages_per_segment, out.data()});
    });
  }
  void store(const FloatRows& kv, int start, const Floats2& cos, const Floats2& sin,
             const std::vector<std::tuple<PageBytes, PageBytes>>& segments, int pages_per_segment) {
    const int T = kv.shape(0);
    require(has_shape(kv, {T, 2 * op.Hkv * op.Dh}) && kv.stride(1) == 1 && has_shape(cos, {T, op.rotary_half}) &&
                has_shape(sin, {T, op.rotary_half}),
            "attention: wrong shapes");
    const std::vector<KvRun> runs = runs_of(segments, pages_per_segment, start, T);
    runtime->run([&] {
      runtime->ops->attention(op, runtime->context,
                              {nullptr, kv.data(), (size_t)kv.stride(0), T, start, cos.data(), sin.data(), runs.data(),
                               pages_per_segment, nullptr});
    });
  }

 private:
  std::vector<KvRun> runs_of(const std::vector<std::tuple<PageBytes, PageBytes>>& segments, int num_pages, int start,
                             int T) const {
    require(start >= 0 && num_pages > 0 && (size_t)(start + T) <= segments.size() * num_pages * KV_PAGE,
            "attention: too few pages");
    const size_t heads = (size_t)op.Hkv * num_pages;
    std::vector<KvRun> runs;
    for (const auto& [keys, values] : segments) {
      require(keys.size() == key_page_bytes(op.kv, op.Dh) * heads &&
                  values.size() == value_page_bytes(op.kv, op.Dh) * heads,
              "attention: wrong pages");
      runs.push_back({keys.data(), values.data()});
    }
    return runs;
  }

  std::shared_ptr<Runtime> runtime;
  std::vector<float> q_norm, k_norm;
  AttentionOp op;
};

}  // namespace

void bind_delta(nb::module_& m) {
  nb::class_<BoundDelta>(m, "BoundDelta", "Convolution, gated delta rule and gated norm.")
      .def(nb::init<std::shared_ptr<Runtime>, int, int, int, int, bool, Floats2, Floats1, Floats1, Floats1, float>(),
           "runtime"_a, "Hk"_a, "Hv"_a, "Dk"_a, "Dv"_a, "tiled_heads"_a, "conv"_a, "rate"_a, "dt_bias"_a, "norm"_a,
           "eps"_a, "conv [conv_len, channels], rate = -e^A_log and dt_bias [Hv], norm [Dv].")
      .def("__call__", &BoundDelta::call, "projected"_a, "conv_state"_a.noconvert(), "state"_a.noconvert(),
           "out"_a.noconvert(), "taken"_a = nb::none(), "num_drafted"_a = 0,
           "projected [T, q k v | z | b a] -> out [T, Hv*Dv]; conv_state [conv_len - 1, channels] and\n"
           "state [Hv, Dk, Dv] advance in place, first by taken [n, q k v | b a], and not by the last\n"
           "num_drafted rows.");
}

void bind_attention(nb::module_& m) {
  nb::class_<BoundAttention>(m, "BoundAttention", "Gated causal attention over pages of keys and values.")
      .def(nb::init<std::shared_ptr<Runtime>, int, int, int, int, int, Floats1, Floats1, float>(), "runtime"_a, "Hq"_a,
           "Hkv"_a, "Dh"_a, "rotary_half"_a, "kv"_a, "q_norm"_a, "k_norm"_a, "eps"_a,
           "kv: a code of a3b.kernels.kv.KV_TYPES; q_norm, k_norm [Dh], 1 included.")
      .def("__call__", &BoundAttention::call, "projected"_a, "start"_a, "cos"_a, "sin"_a, "segments"_a.noconvert(),
           "pages_per_segment"_a, "out"_a.noconvert(),
           "projected [T, per query head: query, gate | k | v], cos and sin [T, rotary_half] -> out [T, Hq*Dh].\n"
           "segments: (keys, values) as bytes of whole pages, written at positions start .. start + T - 1.")
      .def("store", &BoundAttention::store, "kv"_a, "start"_a, "cos"_a, "sin"_a, "segments"_a.noconvert(),
           "pages_per_segment"_a, "The same pages of kv [T, k | v], and no output.");
}

}  // namespace a3b
