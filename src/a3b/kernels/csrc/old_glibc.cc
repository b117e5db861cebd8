// For wheels that run from glibc 2.28 on (A3B_PORTABLE in CMakeLists.txt): what libstdc++.a would take from a newer
// glibc. Everything is hidden, so it serves this module alone.
#if !defined(__x86_64__)
#error "a portable build is for x86-64; build without -DA3B_PORTABLE=ON"
#endif

// In glibc 2.34 these moved from libpthread to libc and got a second version; all have the first.
__asm__(".symver old_pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver old_pthread_join, pthread_join@GLIBC_2.2.5");

extern "C" {

int old_pthread_create(unsigned long* thread, const void* attributes, void* (*start)(void*), void* argument);
int old_pthread_join(unsigned long thread, void** result);

[[gnu::visibility("hidden")]] int pthread_create(unsigned long* thread, const void* attributes, void* (*start)(void*),
                                                 void* argument) {
  return old_pthread_create(thread, attributes, start, argument);
}

[[gnu::visibility("hidden")]] int pthread_join(unsigned long thread, void** result) {
  return old_pthread_join(thread, result);
}

// Since glibc 2.32: whether reference counts need no atomic instructions. They always get them.
[[gnu::visibility("hidden")]] extern const char __libc_single_threaded;
const char __libc_single_threaded = 0;
}
