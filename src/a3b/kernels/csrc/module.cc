// The Python face of the kernels: checks, ownership, the GIL. No arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "huge_pages.h"
#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace a3b;

namespace {

using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Rows2 = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;  // rows may lie apart
using Out2 = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out3 = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Bytes1 = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using PageBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = std::tuple<int, Bytes1, int, int>;  // code, bytes, rows (of one expert), columns

void require(bool is_right, const char* message) {
  if (!is_right) throw std::invalid_argument(message);
}

// Instruction set, threads and memory of this process's model. Ops of one runtime run one after the other.
struct Runtime {
  Runtime(const std::string& isa, int num_threads) : ops(find_ops(isa.c_str())), pool(ops ? num_threads : 1), context{pool, scratch} {
    if (!ops) throw std::invalid_argument("instruction set '" + isa + "' is not to be had on this machine");
  }
  const Ops* ops;
  Pool pool;
  Scratch scratch;
  Context context;
  std::mutex mutex;

  template <class Fn> void run(const Fn& fn) {
    nb::gil_scoped_release release;
    std::lock_guard lock(mutex);
    fn();
  }
};

constexpr struct { int bits, unit, header; } LAYOUTS[] = {{4, 64, 64}, {4, 64, 128}, {4, 64, 64}, {4, 256, 320}, {6, 64, 64}, {6, 256, 320}, {6, 256, 320}, {8, 64, 64}};

Tiles tiles_of(const Matrix& matrix, int num_experts = 1) {
  const auto& [code, data, rows, n] = matrix;
  require(code >= 0 && code < NUM_CODES && rows > 0 && n > 0, "matrix: unknown format or no size");
  Tiles tiles{(Code)code, data.data(), rows, n, 0, 0};
  if (code < F32) {
    const auto& layout = LAYOUTS[code];
    tiles.num_units = (n + layout.unit - 1) / layout.unit;
    tiles.tile_bytes = (size_t)tiles.num_units * (layout.header + 16 * layout.unit * layout.bits / 8);
  } else {
    tiles.tile_bytes = (size_t)n * 16 * (code == F32 ? 4 : 2);
  }
  require(data.size() == tiles.bytes() * num_experts, "matrix: its bytes do not have the size of its shape");
  return tiles;
}

std::vector<float> copied(const Floats1& array) { return {array.data(), array.data() + array.size()}; }

struct Linear {
  Linear(std::shared_ptr<Runtime> runtime, std::vector<Matrix> matrices, std::optional<Floats1> norm_weight, float eps)
      : runtime(runtime), kept(matrices) {
    require(!matrices.empty(), "linear: no matrix");
    for (const Matrix& matrix : matrices) parts.push_back(tiles_of(matrix));
    int column = 0;
    for (int p = 0; p < (int)parts.size(); p++) {
      const Tiles& part = parts[p];
      require(part.n == parts[0].n, "linear: matrices of different widths");
      const Form form = form_of(part);
      size_t f = 0;
      while (f < forms.size() && !same(forms[f], form)) f++;
      if (f == forms.size()) forms.push_back(form);
      const int step = std::clamp<int>((128 << 10) / part.tile_bytes / 2 * 2, 2, MAX_PIECE);
      for (int first = 0; first < part.num_tiles(); first += step)
        pieces.push_back({p, first, std::min(step, part.num_tiles() - first), (int)f, column + first * 16});
      column += part.rows;
    }
    require(forms.size() <= MAX_FORMS, "linear: too many different formats");
    if (norm_weight) norm = copied(*norm_weight);
    require(!norm_weight || (int)norm.size() == parts[0].n, "linear: norm of another width");
    op = {parts.data(), forms.data(), pieces.data(), (int)parts.size(), (int)forms.size(), (int)pieces.size(), parts[0].n, column,
          norm_weight ? norm.data() : nullptr, eps};
  }
  void call(const Rows2& x, const Out2& out, bool add) {
    require((int)x.shape(1) == op.n && x.stride(1) == 1 && out.shape(0) == x.shape(0) && (int)out.shape(1) == op.num_out, "linear: wrong shapes");
    runtime->run([&] { runtime->ops->linear(op, runtime->context, x.data(), x.stride(0), x.shape(0), out.data(), op.num_out, add); });
  }
  std::shared_ptr<Runtime> runtime;
  std::vector<Matrix> kept;
  std::vector<Tiles> parts;
  std::vector<Form> forms;
  std::vector<Piece> pieces;
  std::vector<float> norm;
  LinearOp op;
};

struct Embed {
  Embed(std::shared_ptr<Runtime> runtime, Matrix matrix) : runtime(runtime), kept(matrix), tiles(tiles_of(matrix)) {}
  void call(const nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& ids, const Out2& out) {
    require(out.shape(0) == ids.shape(0) && (int)out.shape(1) == tiles.n, "embed: wrong shapes");
    for (size_t i = 0; i < ids.size(); i++) require(ids(i) >= 0 && ids(i) < tiles.rows, "embed: id out of range");
    runtime->run([&] { runtime->ops->rows_f32(tiles, ids.data(), ids.size(), out.data()); });
  }
  std::shared_ptr<Runtime> runtime;
  Matrix kept;
  Tiles tiles;
};

struct Moe {
  Moe(std::shared_ptr<Runtime> runtime, int E, int K, std::vector<Matrix> matrices, Floats1 norm_weight, float eps)
      : runtime(runtime), kept(matrices), norm(copied(norm_weight)) {
    require(matrices.size() == 7 && E > 0 && K > 0 && K <= E && K <= MAX_CHOSEN, "moe: wrong number of matrices or experts");
    op.E = E, op.K = K;
    Tiles* const fields[] = {&op.gate, &op.up, &op.down, &op.shared_gate, &op.shared_up, &op.shared_down, &op.router};
    for (int i = 0; i < 7; i++) *fields[i] = tiles_of(matrices[i], i < 3 ? E : 1);
    op.D = op.down.rows, op.F = op.gate.rows, op.Fs = op.shared_gate.rows;
    auto is = [](const Tiles& t, int rows, int n) { return t.rows == rows && t.n == n; };
    require(is(op.gate, op.F, op.D) && is(op.up, op.F, op.D) && is(op.down, op.D, op.F) && is(op.shared_gate, op.Fs, op.D) &&
                is(op.shared_up, op.Fs, op.D) && is(op.shared_down, op.D, op.Fs) && is(op.router, E + 1, op.D) && (int)norm.size() == op.D,
            "moe: matrices that do not fit each other");
    op.norm = norm.data(), op.eps = eps;
  }
  // One MLP without experts.
  Moe(std::shared_ptr<Runtime> runtime, Matrix gate, Matrix up, Matrix down, Floats1 norm_weight, float eps)
      : runtime(runtime), kept{gate, up, down}, norm(copied(norm_weight)) {
    op.shared_gate = tiles_of(gate), op.shared_up = tiles_of(up), op.shared_down = tiles_of(down);
    op.D = op.shared_down.rows, op.Fs = op.shared_gate.rows;
    require(op.shared_gate.n == op.D && op.shared_up.rows == op.Fs && op.shared_up.n == op.D && op.shared_down.n == op.Fs && (int)norm.size() == op.D,
            "mlp: matrices that do not fit each other");
    op.norm = norm.data(), op.eps = eps;
  }
  void call(const Out2& h) {
    require((int)h.shape(1) == op.D, "moe: wrong shape");
    runtime->run([&] { runtime->ops->moe(op, runtime->context, h.data(), h.shape(0)); });
  }
  std::shared_ptr<Runtime> runtime;
  std::vector<Matrix> kept;
  std::vector<float> norm;
  MoeOp op{};
};

struct Delta {
  Delta(std::shared_ptr<Runtime> runtime, int Hk, int Hv, int Dk, int Dv, bool tiled_heads, Floats2 conv_weight, Floats1 rates, Floats1 biases,
        Floats1 norm_weight, float eps)
      : runtime(runtime), conv(conv_weight.data(), conv_weight.data() + conv_weight.size()), rate(copied(rates)), bias(copied(biases)),
        norm(copied(norm_weight)) {
    op = {Hk, Hv, Dk, Dv, (int)conv_weight.shape(0), tiled_heads, conv.data(), rate.data(), bias.data(), norm.data(), eps};
    require(Hk > 0 && Hv % Hk == 0 && Dk > 0 && Dv > 0 && op.conv_len > 0 && op.conv_len <= MAX_CONV, "delta: wrong sizes");
    require((int)conv_weight.shape(1) == op.channels() && (int)rate.size() == Hv && (int)bias.size() == Hv && (int)norm.size() == Dv, "delta: wrong weights");
  }
  void call(const Rows2& projected, const Out2& conv_state, const Out3& state, const Out2& out) {
    const int values = op.Hv * op.Dv;
    require((int)projected.shape(1) == op.channels() + values + 2 * op.Hv && projected.stride(1) == 1 && out.shape(0) == projected.shape(0) &&
                (int)out.shape(1) == values && (int)conv_state.shape(0) == op.conv_len - 1 && (int)conv_state.shape(1) == op.channels() &&
                (int)state.shape(0) == op.Hv && (int)state.shape(1) == op.Dk && (int)state.shape(2) == op.Dv,
            "delta: wrong shapes");
    runtime->run([&] {
      runtime->ops->delta(op, runtime->context, projected.data(), projected.stride(0), projected.shape(0), conv_state.data(), state.data(), out.data());
    });
  }
  std::shared_ptr<Runtime> runtime;
  std::vector<float> conv, rate, bias, norm;
  DeltaOp op;
};

size_t padded(int Dh) { return (Dh + 15) / 16 * 16; }
std::tuple<size_t, size_t> kv_page_bytes(int kv, int Dh) {  // keys, values of one head
  if (kv != KV_Q8) return {padded(Dh) * (kv == KV_F32 ? 256 : 128), padded(Dh) * (kv == KV_F32 ? 256 : 128)};
  return {padded(Dh) * 64 + (padded(Dh) + 63) / 64 * 256, padded(Dh) * 64 + 256};
}

struct Attention {
  Attention(std::shared_ptr<Runtime> runtime, int Hq, int Hkv, int Dh, int rotary_half, int kv, Floats1 q_weight, Floats1 k_weight, float eps)
      : runtime(runtime), q_norm(copied(q_weight)), k_norm(copied(k_weight)) {
    require(Hkv > 0 && Hq % Hkv == 0 && Dh > 0 && 2 * rotary_half <= Dh && kv >= KV_F32 && kv <= KV_BF16, "attention: wrong sizes");
    require((int)q_norm.size() == Dh && (int)k_norm.size() == Dh, "attention: wrong norms");
    op = {Hq, Hkv, Dh, rotary_half, (KvType)kv, q_norm.data(), k_norm.data(), eps};
  }
  void call(const Rows2& projected, int start, const Floats2& cos, const Floats2& sin, const std::vector<std::tuple<PageBytes, PageBytes>>& segments,
            int pages_per_segment, const Out2& out) {
    const int T = projected.shape(0);
    const auto [key_bytes, value_bytes] = kv_page_bytes(op.kv, op.Dh);
    require((int)projected.shape(1) == (2 * op.Hq + 2 * op.Hkv) * op.Dh && projected.stride(1) == 1 && (int)out.shape(0) == T &&
                (int)out.shape(1) == op.Hq * op.Dh && (int)cos.shape(0) == T && (int)sin.shape(0) == T && (int)cos.shape(1) == op.rotary_half &&
                (int)sin.shape(1) == op.rotary_half,
            "attention: wrong shapes");
    require(start >= 0 && pages_per_segment > 0 && (size_t)(start + T) <= segments.size() * pages_per_segment * 64, "attention: too few pages");
    std::vector<KvRun> runs;
    for (const auto& [keys, values] : segments) {
      require(keys.size() == key_bytes * op.Hkv * pages_per_segment && values.size() == value_bytes * op.Hkv * pages_per_segment, "attention: wrong pages");
      runs.push_back({keys.data(), values.data()});
    }
    runtime->run([&] {
      runtime->ops->attention(op, runtime->context, projected.data(), projected.stride(0), T, start, cos.data(), sin.data(), runs.data(), pages_per_segment,
                              out.data());
    });
  }
  std::shared_ptr<Runtime> runtime;
  std::vector<float> q_norm, k_norm;
  AttentionOp op;
};

}  // namespace

NB_MODULE(_native, m) {
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const char* name : {"avx512", "avx2", "scalar"})
      if (find_ops(name)) names.push_back(name);
    return names;
  });
  m.attr("HUGE_PAGE") = HUGE_PAGE;
  m.attr("MAX_CHOSEN") = MAX_CHOSEN;
  m.attr("MAX_CONV") = MAX_CONV;
  m.def("to_huge_pages", [](uintptr_t address, size_t size, int file, int64_t offset) {
    require(address % HUGE_PAGE == 0 && size % HUGE_PAGE == 0 && size > 0, "to_huge_pages: address or size is no multiple of a huge page");
    nb::gil_scoped_release release;
    return to_huge_pages((void*)address, size, file, offset);
  });
  m.def("populate", [](uintptr_t address, size_t size) {
    require(address % HUGE_PAGE == 0 && size % HUGE_PAGE == 0 && size > 0, "populate: address or size is no multiple of a huge page");
    nb::gil_scoped_release release;
    return populate((void*)address, size);
  });
  m.def("kv_page_bytes", kv_page_bytes, "kv"_a, "Dh"_a);
  nb::class_<Runtime>(m, "Runtime")
      .def(nb::init<std::string, int>(), "isa"_a, "num_threads"_a)
      .def_prop_ro("isa", [](const Runtime& r) { return std::string(r.ops->name); })
      .def_prop_ro("num_threads", [](const Runtime& r) { return r.pool.size(); })
      .def_prop_rw("asks_ahead", [](const Runtime& r) { return r.context.asks_ahead; },
                   [](Runtime& r, bool asks) { r.run([&] { r.context.asks_ahead = asks; }); })
      .def("probe_read", [](Runtime& r, const Bytes1& data) {
        int32_t sum = 0;
        r.run([&] { sum = r.ops->probe_read(r.context, data.data(), data.size()); });
        return sum;
      })
      .def("probe_products", [](Runtime& r, int count) {  // integer operations done
        r.run([&] { r.ops->probe_products(r.context, count); });
        return (double)count * 1024 * 8 * 128;
      });
  nb::class_<Linear>(m, "Linear")
      .def(nb::init<std::shared_ptr<Runtime>, std::vector<Matrix>, std::optional<Floats1>, float>(), "runtime"_a, "matrices"_a, "norm"_a.none(), "eps"_a)
      .def_prop_ro("num_out", [](const Linear& op) { return op.op.num_out; })
      .def("__call__", &Linear::call, "x"_a, "out"_a.noconvert(), "add"_a = false);
  nb::class_<Embed>(m, "Embed")
      .def(nb::init<std::shared_ptr<Runtime>, Matrix>(), "runtime"_a, "matrix"_a)
      .def("__call__", &Embed::call, "ids"_a, "out"_a.noconvert());
  nb::class_<Moe>(m, "Moe")
      .def(nb::init<std::shared_ptr<Runtime>, int, int, std::vector<Matrix>, Floats1, float>(), "runtime"_a, "E"_a, "K"_a, "matrices"_a, "norm"_a, "eps"_a)
      .def(nb::init<std::shared_ptr<Runtime>, Matrix, Matrix, Matrix, Floats1, float>(), "runtime"_a, "gate"_a, "up"_a, "down"_a, "norm"_a, "eps"_a)
      .def("__call__", &Moe::call, "h"_a.noconvert());
  nb::class_<Delta>(m, "Delta")
      .def(nb::init<std::shared_ptr<Runtime>, int, int, int, int, bool, Floats2, Floats1, Floats1, Floats1, float>(), "runtime"_a, "Hk"_a, "Hv"_a, "Dk"_a,
           "Dv"_a, "tiled_heads"_a, "conv"_a, "rate"_a, "dt_bias"_a, "norm"_a, "eps"_a)
      .def("__call__", &Delta::call, "projected"_a, "conv_state"_a.noconvert(), "state"_a.noconvert(), "out"_a.noconvert());
  nb::class_<Attention>(m, "Attention")
      .def(nb::init<std::shared_ptr<Runtime>, int, int, int, int, int, Floats1, Floats1, float>(), "runtime"_a, "Hq"_a, "Hkv"_a, "Dh"_a, "rotary_half"_a,
           "kv"_a, "q_norm"_a, "k_norm"_a, "eps"_a)
      .def("__call__", &Attention::call, "projected"_a, "start"_a, "cos"_a, "sin"_a, "segments"_a.noconvert(), "pages_per_segment"_a, "out"_a.noconvert());
}
