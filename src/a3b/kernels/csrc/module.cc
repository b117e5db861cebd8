// The Python module: checks, ownership, the GIL. No arithmetic.
#include "bindings.h"
#include "huge_pages.h"

namespace a3b {

namespace {

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const char* name : {"avx512", "avx2", "scalar"})
    if (find_ops(name)) names.push_back(name);
  return names;
}

std::tuple<size_t, size_t> kv_page_bytes(int kv, int Dh) {
  require(kv >= KV_F32 && kv <= KV_BF16 && Dh > 0, "kv_page_bytes: unknown type or no size");
  return {key_page_bytes((KvType)kv, Dh), value_page_bytes((KvType)kv, Dh)};
}

int checked_to_huge_pages(uintptr_t address, size_t size, int file, int64_t offset) {
  require(address % HUGE_PAGE == 0 && size % HUGE_PAGE == 0 && size > 0,
          "to_huge_pages: address or size is no multiple of a huge page");
  nb::gil_scoped_release release;
  return to_huge_pages((void*)address, size, file, offset);
}

int checked_populate(uintptr_t address, size_t size) {
  require(address % HUGE_PAGE == 0 && size % HUGE_PAGE == 0 && size > 0,
          "populate: address or size is no multiple of a huge page");
  nb::gil_scoped_release release;
  return populate((void*)address, size);
}

int32_t probe_read(Runtime& runtime, const Bytes1& data) {
  int32_t sum = 0;
  runtime.run([&] { sum = runtime.ops->probe_read(runtime.context, data.data(), data.size()); });
  return sum;
}

double probe_products(Runtime& runtime, int count) {
  runtime.run([&] { runtime.ops->probe_products(runtime.context, count); });
  return (double)count * 1024 * 8 * 128;
}

void bind_memory(nb::module_& m) {
  m.attr("HUGE_PAGE") = HUGE_PAGE;
  m.def("to_huge_pages", checked_to_huge_pages, "address"_a, "size"_a, "file"_a, "offset"_a,
        "Puts bytes that are mapped from `offset` of a file into huge pages at the same address. Returns 0 or errno.");
  m.def("populate", checked_populate, "address"_a, "size"_a,
        "Brings mapped bytes into memory and into the page tables. Returns 0 or errno.");
}

void bind_runtime(nb::module_& m) {
  nb::class_<Runtime>(m, "Runtime", "Instruction set, threads and scratch memory. Its ops run one after the other.")
      .def(nb::init<std::string, int>(), "isa"_a, "num_threads"_a, "isa: one of isas(), or \"\" for the best.")
      .def_prop_ro("isa", [](const Runtime& r) { return std::string(r.ops->name); })
      .def_prop_ro("num_threads", [](const Runtime& r) { return r.pool.size(); })
      .def_prop_rw(
          "prefetches_stream", [](const Runtime& r) { return r.context.prefetches_stream; },
          [](Runtime& r, bool prefetches) { r.run([&] { r.context.prefetches_stream = prefetches; }); },
          "Whether products with a single token prefetch their tiles.")
      .def("probe_read", probe_read, "data"_a, "Reads every byte; returns a sum.")
      .def("probe_products", probe_products, "count"_a, "Multiplies registers; returns the integer operations done.");
}

}  // namespace

}  // namespace a3b

NB_MODULE(_native, m) {
  using namespace a3b;
  m.doc() = "The C++ kernels. Arrays that are written to are never converted.";
  m.attr("MAX_CHOSEN") = MAX_CHOSEN;
  m.attr("MAX_CONV") = MAX_CONV;
  m.attr("MAX_DRAFTED") = MAX_DRAFTED;
  m.def("isas", available_isas, "Instruction sets that this machine runs, the best first.");
  m.def("kv_page_bytes", kv_page_bytes, "kv"_a, "Dh"_a, "Bytes of keys and of values of one head in one page.");
  bind_memory(m);
  bind_runtime(m);
  bind_linear(m);
  bind_embed(m);
  bind_moe(m);
  bind_delta(m);
  bind_attention(m);
  bind_sha256(m);
}
