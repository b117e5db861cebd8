#pragma once
#include <cstddef>

namespace a3b {

constexpr size_t HUGE_PAGE = 2 << 20;

// Puts `size` bytes at `address` into huge pages; both multiples of HUGE_PAGE. Returns 0, or what errno says; then nothing has changed.
int to_huge_pages(void* address, size_t size);

}  // namespace a3b
