#include "ops.h"

#include <cstring>

namespace a3b {

namespace scalar {
extern const Ops OPS;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Ops OPS;
}
namespace avx512 {
extern const Ops OPS;
}
#endif

static bool is_supported([[maybe_unused]] const Ops& ops) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(A3B_EMULATED)
  if (!strcmp(ops.name, "avx512")) return __builtin_cpu_supports("avx2");
#endif
  if (!strcmp(ops.name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
  if (!strcmp(ops.name, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
  return true;
}

const Ops* find_ops(const char* name) {
  static const Ops* const BEST_FIRST[] = {
#if defined(__x86_64__)
      &avx512::OPS,
      &avx2::OPS,
#endif
      &scalar::OPS,
  };
  for (const Ops* ops : BEST_FIRST)
    if ((!*name || !strcmp(name, ops->name)) && is_supported(*ops)) return ops;
  return nullptr;
}

// The layout is in kv_page.h.
static size_t padded(int Dh) { return (Dh + 15) / 16 * 16; }
static size_t number_bytes(KvType kv) { return kv == KV_F32 ? 4 : kv == KV_BF16 ? 2 : 1; }

size_t key_page_bytes(KvType kv, int Dh) {
  const size_t scale_bytes = kv == KV_Q8 ? (padded(Dh) + 63) / 64 * 4 : 0;
  return KV_PAGE * (padded(Dh) * number_bytes(kv) + scale_bytes);
}

size_t value_page_bytes(KvType kv, int Dh) {
  const size_t scale_bytes = kv == KV_Q8 ? 4 : 0;
  return KV_PAGE * (padded(Dh) * number_bytes(kv) + scale_bytes);
}

}  // namespace a3b
