// Moves weights into huge pages under the feet of whoever reads them.
#include "huge_pages.h"

#include <cerrno>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace a3b {

#if defined(__linux__)

// The bytes are copied into anonymous huge pages, which then take the place of the file's pages at the same addresses in one step of
// the kernel's. Readers meet the same bytes before and after, so nobody has to stop or be told.
int to_huge_pages(void* address, size_t size) {
  char* mapped = (char*)mmap(nullptr, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return errno;
  const size_t head = -(size_t)mapped % HUGE_PAGE;
  char* copy = mapped + head;
  int error = 0;
  madvise(copy, size, MADV_HUGEPAGE);
  memcpy(copy, address, size);
  if (mprotect(copy, size, PROT_READ) || mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, address) == MAP_FAILED) {
    error = errno;
    munmap(copy, size);
  }
  if (head) munmap(mapped, head);
  munmap(copy + size, HUGE_PAGE - head);
  return error;
}

#else

int to_huge_pages(void*, size_t) { return ENOSYS; }

#endif

}  // namespace a3b
