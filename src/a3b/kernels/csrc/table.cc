// The entry points of one instruction set.
#include "ops.h"
#include "simd.h"

namespace a3b::A3B_NS {

void linear(const LinearOp&, Context&, const float*, size_t, int, float*, bool);
void moe(const MoeOp&, Context&, float*, int);
void delta(const DeltaOp&, Context&, const DeltaArgs&);
void attention(const AttentionOp&, Context&, const AttentionArgs&);
void embed(const Tiles&, const int64_t*, int, float*);
int32_t probe_read(Context&, const uint8_t*, size_t);
int32_t probe_products(Context&, int);

#define A3B_STRING2(x) #x
#define A3B_STRING(x) A3B_STRING2(x)
extern const Ops OPS;
const Ops OPS = {A3B_STRING(A3B_NS), linear, moe, delta, attention, embed, probe_read, probe_products};

}  // namespace a3b::A3B_NS
