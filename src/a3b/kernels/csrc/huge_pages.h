#pragma once
#include <cstddef>
#include <cstdint>

namespace a3b {

constexpr size_t HUGE_PAGE = 2 << 20;

// Puts `size` bytes at `address`, which are mapped from `offset` of a file, into huge pages. Address and size are
// multiples of HUGE_PAGE. Returns 0, or errno if nothing has changed.
int to_huge_pages(void* address, size_t size, int file, int64_t offset);

// Brings mapped bytes into memory and into the page tables now, so that the first reader of each page does not wait.
// Returns 0 or errno.
int populate(void* address, size_t size);

}  // namespace a3b
