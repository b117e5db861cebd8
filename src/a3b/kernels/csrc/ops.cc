#include "ops.h"

#include <cstring>

namespace a3b {

Form form_of(const Tiles& t) {
  switch (t.code) {
    case W4S32: return {32, 32, 8, false, 4, t.num_units * 64};
    case W4M32: return {32, 32, 0, true, 4, t.num_units * 64};
    case W4M64: return {64, 64, 0, true, 4, t.num_units * 64};
    case W4K32: return {256, 32, 0, true, 4, t.num_units * 256};
    case W6S32: return {32, 32, 32, false, 6, t.num_units * 64};
    case W6K16: return {256, 16, 32, false, 6, t.num_units * 256};
    case W6K32: return {256, 32, 0, true, 6, t.num_units * 256};
    case W8S32: return {32, 32, 128, false, 8, t.num_units * 64};
    default: return {0, 0, 0, false, 0, t.n};
  }
}

bool same(const Form& a, const Form& b) {
  return a.act_group == b.act_group && a.group == b.group && a.zero == b.zero && a.has_minimum == b.has_minimum &&
         (a.bits == 8) == (b.bits == 8) && a.columns == b.columns;
}

Rows rows_for(const Form& form, int num_rows, Scratch& scratch, int slot) {
  Rows rows;
  if (!form.act_group) {
    rows.f_stride = form.columns;
    rows.f = scratch.get<float>(slot, (size_t)num_rows * form.columns);
    return rows;
  }
  const int num_scales = form.columns / form.act_group, num_offsets = form.columns / form.group;
  rows.q_stride = (form.columns + 4 * (num_scales + num_offsets) + 63) / 64 * 64;
  rows.q = scratch.get<int8_t>(slot, (size_t)num_rows * rows.q_stride);
  rows.scale_at = form.columns;
  rows.offset_at = form.columns + 4 * num_scales;
  return rows;
}

namespace scalar { extern const Ops OPS; }
#if defined(__x86_64__)
namespace avx2 { extern const Ops OPS; }
namespace avx512 { extern const Ops OPS; }
#endif

static bool runs(const Ops& ops) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(A3B_EMULATED)
  if (!strcmp(ops.name, "avx512")) return __builtin_cpu_supports("avx2");
#endif
  if (!strcmp(ops.name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (!strcmp(ops.name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
  return true;
}

const Ops* find_ops(const char* name) {
  static const Ops* const ALL[] = {
#if defined(__x86_64__)
      &avx512::OPS, &avx2::OPS,
#endif
      &scalar::OPS};
  for (const Ops* ops : ALL)
    if ((!*name || !strcmp(name, ops->name)) && runs(*ops)) return ops;
  return nullptr;
}

}  // namespace a3b
