// Moves weights into huge pages while they are being read.
#include "huge_pages.h"

#include <cerrno>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace a3b {

#if defined(__linux__)

// Reads the file into anonymous huge pages, then moves these to the addresses of the file's own pages in one system
// call. Readers see the same bytes before and after, so none has to stop.
int to_huge_pages(void* address, size_t size, int file, int64_t offset) {
  char* mapped = (char*)mmap(nullptr, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return errno;
  const size_t head = -(size_t)mapped % HUGE_PAGE;
  char* copy = mapped + head;
  int error = 0;
  madvise(copy, size, MADV_HUGEPAGE);
  for (size_t at = 0; at < size && !error;) {
    const ssize_t num = pread(file, copy + at, size - at, offset + at);
    if (num > 0) at += num;
    else if (num == 0 || errno != EINTR) error = num ? errno : EIO;
  }
  if (error) {
    munmap(copy, size);
  } else if (mprotect(copy, size, PROT_READ) ||
             mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, address) == MAP_FAILED) {
    error = errno;
    munmap(copy, size);
  }
  if (head) munmap(mapped, head);
  munmap(copy + size, HUGE_PAGE - head);
  return error;
}

int populate(void* address, size_t size) {
  constexpr int POPULATE_READ = 22;  // since Linux 5.14; headers may be older
  return madvise(address, size, POPULATE_READ) ? errno : 0;
}

#else

int to_huge_pages(void*, size_t, int, int64_t) { return ENOSYS; }
int populate(void*, size_t) { return ENOSYS; }

#endif

}  // namespace a3b
