// SHA-256 as a Python class.
#include <cstring>

#include "bindings.h"
#include "sha256.h"

namespace a3b {

namespace {

constexpr size_t STATE_BYTES = 32 + 8 + 64;

void init_sha256(Sha256* self, const nb::bytes& state) {
  require(state.size() == 0 || state.size() == STATE_BYTES, "Sha256: a state has 104 bytes");
  new (self) Sha256();
  if (!state.size()) return;
  const char* data = state.c_str();
  memcpy(self->words, data, 32);
  memcpy(&self->num_bytes, data + 32, 8);
  memcpy(self->rest, data + 40, 64);
}

void update(Sha256& self, const Bytes1& data) {
  nb::gil_scoped_release release;
  self.update(data.data(), data.size());
}

nb::bytes digest(const Sha256& self) {
  uint8_t out[32];
  self.digest(out);
  return nb::bytes((const char*)out, 32);
}

nb::bytes state(const Sha256& self) {
  char out[STATE_BYTES];
  memcpy(out, self.words, 32);
  memcpy(out + 32, &self.num_bytes, 8);
  memcpy(out + 40, self.rest, 64);
  return nb::bytes(out, STATE_BYTES);
}

nb::bytes plain_digest(const Bytes1& data) {
  Sha256 whole;
  const size_t blocks = data.size() / 64 * 64;
  sha256_blocks(whole.words, data.data(), blocks / 64);
  whole.num_bytes = blocks;
  memcpy(whole.rest, data.data() + blocks, data.size() - blocks);
  whole.num_bytes = data.size();
  return digest(whole);
}

}  // namespace

void bind_sha256(nb::module_& m) {
  nb::class_<Sha256>(m, "Sha256", "SHA-256 whose state can be stored, and continued by another process.")
      .def("__init__", init_sha256, "state"_a = nb::bytes("", 0), "state: what `state` gave; empty: a new one.")
      .def("update", update, "data"_a)
      .def("digest", digest, "The hash of all bytes so far.")
      .def("state", state, "104 bytes, in the byte order of this machine.");
  m.def("sha256_plain", plain_digest, "data"_a, "SHA-256 of bytes without the machine's own instructions, for tests.");
}

}  // namespace a3b
