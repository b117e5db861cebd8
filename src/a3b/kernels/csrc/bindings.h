// What the Python bindings share: array types, checks, the runtime.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <initializer_list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "ops.h"

namespace a3b {

namespace nb = nanobind;
using namespace nb::literals;

template <class T, int NDIM>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<NDIM>, nb::c_contig, nb::device::cpu>;
using Floats1 = Array<const float, 1>;
using Floats2 = Array<const float, 2>;
using FloatRows = nb::ndarray<nb::numpy, const float, nb::ndim<2>, nb::device::cpu>;  // rows may lie apart
using OutFloats2 = Array<float, 2>;
using OutFloats3 = Array<float, 3>;
using Ids = Array<const int64_t, 1>;
using Bytes1 = Array<const uint8_t, 1>;
using PageBytes = Array<uint8_t, 1>;

// A matrix, or several of one shape, as tiles: code, bytes, rows (of one matrix), columns.
using TileOperand = std::tuple<int, Bytes1, int, int>;

inline void require(bool is_right, const char* message) {
  if (!is_right) throw std::invalid_argument(message);
}

template <class A>
bool has_shape(const A& array, std::initializer_list<int> shape) {
  size_t axis = 0;
  for (int size : shape)
    if (array.shape(axis++) != (size_t)size) return false;
  return true;
}

inline std::vector<float> copied(const Floats1& array) { return {array.data(), array.data() + array.size()}; }

// Instruction set, threads and memory of this process's model. Ops of one runtime run one after the other.
struct Runtime {
  Runtime(const std::string& isa, int num_threads)
      : ops(find_ops(isa.c_str())),
        pool(ops ? num_threads : 1),
        context{pool, scratch} {
    if (!ops) throw std::invalid_argument("instruction set '" + isa + "' is not available on this machine");
  }
  const Ops* ops;
  Pool pool;
  Scratch scratch;
  Context context;
  std::mutex mutex;

  template <class Fn>
  void run(const Fn& fn) {
    nb::gil_scoped_release release;
    std::lock_guard lock(mutex);
    fn();
  }
};

// The ops, each in a class that owns what it is bound to.
void bind_linear(nb::module_& m);
void bind_embed(nb::module_& m);
void bind_moe(nb::module_& m);
void bind_delta(nb::module_& m);
void bind_attention(nb::module_& m);
void bind_sha256(nb::module_& m);

}  // namespace a3b
