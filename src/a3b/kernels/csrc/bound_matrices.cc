// linear, embed and moe as Python classes: checks and ownership, no arithmetic.
#include <algorithm>

#include "bindings.h"
#include "tuning.h"

namespace a3b {

namespace {

Tiles tiles_of(const TileOperand& operand, int num_matrices = 1) {
  const auto& [code, data, rows, n] = operand;
  require(code >= 0 && code < NUM_CODES && rows > 0 && n > 0, "matrix: unknown format or no size");
  const Tiles tiles = tiles_of_shape((Code)code, data.data(), rows, n);
  require(data.size() == tiles.bytes() * num_matrices, "matrix: its bytes do not have the size of its shape");
  return tiles;
}

bool has_size(const Tiles& tiles, int rows, int n) { return tiles.rows == rows && tiles.n == n; }

class BoundLinear {
 public:
  BoundLinear(std::shared_ptr<Runtime> runtime, std::vector<TileOperand> matrices, std::optional<Floats1> norm_weight,
              float eps)
      : runtime(runtime),
        kept(matrices) {
    require(!matrices.empty(), "linear: no matrix");
    int column = 0;
    for (const TileOperand& matrix : matrices) column = add_part(tiles_of(matrix), column);
    require(layouts.size() <= MAX_LAYOUTS, "linear: too many different formats");
    const int n = parts[0].n;
    if (norm_weight) norm = copied(*norm_weight);
    require(!norm_weight || (int)norm.size() == n, "linear: norm of another width");
    op = {parts.data(),
          layouts.data(),
          runs.data(),
          (int)parts.size(),
          (int)layouts.size(),
          (int)runs.size(),
          n,
          column,
          norm_weight ? norm.data() : nullptr,
          eps};
  }
  int num_out() const { return op.num_out; }
  void call(const FloatRows& x, const OutFloats2& out, bool add) {
    const int T = x.shape(0);
    require(has_shape(x, {T, op.n}) && x.stride(1) == 1 && has_shape(out, {T, op.num_out}), "linear: wrong shapes");
    runtime->run([&] { runtime->ops->linear(op, runtime->context, x.data(), x.stride(0), T, out.data(), add); });
  }

 private:
  // Its outputs start at `column`; returns where the next ones start.
  int add_part(const Tiles& part, int column) {
    const int index = parts.size();
    parts.push_back(part);
    require(part.n == parts[0].n, "linear: matrices of different widths");
    const ActivationLayout layout = layout_of(part);
    const int which = std::find(layouts.begin(), layouts.end(), layout) - layouts.begin();
    if (which == (int)layouts.size()) layouts.push_back(layout);
    const int fitting = HOST_TUNING.run_bytes / part.tile_bytes / 2 * 2;  // even: two tiles are multiplied at once
    const int run_len = std::clamp(fitting, 2, HOST_TUNING.max_run_tiles);
    for (int first = 0; first < part.num_tiles(); first += run_len) {
      const int count = std::min(run_len, part.num_tiles() - first);
      runs.push_back({index, first, count, which, column + first * TILE_ROWS});
    }
    return column + part.rows;
  }

  std::shared_ptr<Runtime> runtime;
  std::vector<TileOperand> kept;
  std::vector<Tiles> parts;
  std::vector<ActivationLayout> layouts;
  std::vector<TileRun> runs;
  std::vector<float> norm;
  LinearOp op;
};

class BoundEmbed {
 public:
  BoundEmbed(std::shared_ptr<Runtime> runtime, TileOperand matrix)
      : runtime(runtime),
        kept(matrix),
        tiles(tiles_of(matrix)) {}
  void call(const Ids& ids, const OutFloats2& out) {
    require(has_shape(out, {(int)ids.size(), tiles.n}), "embed: wrong shapes");
    for (size_t i = 0; i < ids.size(); i++) require(ids(i) >= 0 && ids(i) < tiles.rows, "embed: id out of range");
    runtime->run([&] { runtime->ops->embed(tiles, ids.data(), ids.size(), out.data()); });
  }

 private:
  std::shared_ptr<Runtime> runtime;
  TileOperand kept;
  Tiles tiles;
};

class BoundMoe {
 public:
  BoundMoe(std::shared_ptr<Runtime> runtime, int E, int K, std::vector<TileOperand> matrices, Floats1 norm_weight,
           float eps)
      : runtime(runtime),
        kept(matrices),
        norm(copied(norm_weight)) {
    require(matrices.size() == 7 && E > 0 && K > 0 && K <= E && K <= MAX_CHOSEN,
            "moe: wrong number of matrices or experts");
    Tiles* const fields[] = {&op.gate, &op.up, &op.down, &op.shared_gate, &op.shared_up, &op.shared_down, &op.router};
    for (int i = 0; i < 7; i++) *fields[i] = tiles_of(matrices[i], i < 3 ? E : 1);
    op.E = E, op.K = K, op.F = op.gate.rows;
    set_sizes(eps);
    require(has_size(op.gate, op.F, op.D) && has_size(op.up, op.F, op.D) && has_size(op.down, op.D, op.F) &&
                has_size(op.router, E + 1, op.D) && shared_expert_fits(),
            "moe: matrices that do not fit each other");
  }
  BoundMoe(std::shared_ptr<Runtime> runtime, TileOperand gate, TileOperand up, TileOperand down, Floats1 norm_weight,
           float eps)
      : runtime(runtime),
        kept{gate, up, down},
        norm(copied(norm_weight)) {
    op.shared_gate = tiles_of(gate), op.shared_up = tiles_of(up), op.shared_down = tiles_of(down);
    set_sizes(eps);
    require(shared_expert_fits(), "mlp: matrices that do not fit each other");
  }
  void call(const OutFloats2& h) {
    require((int)h.shape(1) == op.D, "moe: wrong shape");
    runtime->run([&] { runtime->ops->moe(op, runtime->context, h.data(), h.shape(0)); });
  }

 private:
  void set_sizes(float eps) {
    op.D = op.shared_down.rows, op.Fs = op.shared_gate.rows;
    op.norm = norm.data(), op.eps = eps;
  }
  bool shared_expert_fits() const {
    return has_size(op.shared_gate, op.Fs, op.D) && has_size(op.shared_up, op.Fs, op.D) &&
           has_size(op.shared_down, op.D, op.Fs) && (int)norm.size() == op.D;
  }

  std::shared_ptr<Runtime> runtime;
  std::vector<TileOperand> kept;
  std::vector<float> norm;
  MoeOp op{};
};

}  // namespace

void bind_linear(nb::module_& m) {
  nb::class_<BoundLinear>(m, "BoundLinear", "Products with matrices whose outputs lie side by side.")
      .def(nb::init<std::shared_ptr<Runtime>, std::vector<TileOperand>, std::optional<Floats1>, float>(), "runtime"_a,
           "matrices"_a, "norm"_a.none(), "eps"_a,
           "norm [n]: the weight of an RMS norm before the products, 1 included.")
      .def_prop_ro("num_out", &BoundLinear::num_out)
      .def("__call__", &BoundLinear::call, "x"_a, "out"_a.noconvert(), "add"_a = false,
           "x [T, n], rows may lie apart -> out [T, num_out], or out += if add.");
}

void bind_embed(nb::module_& m) {
  nb::class_<BoundEmbed>(m, "BoundEmbed", "Rows of a matrix as floats.")
      .def(nb::init<std::shared_ptr<Runtime>, TileOperand>(), "runtime"_a, "matrix"_a)
      .def("__call__", &BoundEmbed::call, "ids"_a, "out"_a.noconvert(), "ids [T] -> out [T, n].");
}

void bind_moe(nb::module_& m) {
  nb::class_<BoundMoe>(m, "BoundMoe", "Experts and the shared expert, or one MLP.")
      .def(nb::init<std::shared_ptr<Runtime>, int, int, std::vector<TileOperand>, Floats1, float>(), "runtime"_a, "E"_a,
           "K"_a, "matrices"_a, "norm"_a, "eps"_a,
           "matrices: gate, up, down of E experts; gate, up, down of the shared one; router with the shared gate.")
      .def(nb::init<std::shared_ptr<Runtime>, TileOperand, TileOperand, TileOperand, Floats1, float>(), "runtime"_a,
           "gate"_a, "up"_a, "down"_a, "norm"_a, "eps"_a, "One MLP without experts.")
      .def("__call__", &BoundMoe::call, "h"_a.noconvert(), "h [T, D] += moe(norm(h)).");
}

}  // namespace a3b
