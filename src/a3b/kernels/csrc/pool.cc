#include "pool.h"

#include <cstdlib>
#include <new>
#include <stdexcept>

#include "tuning.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define A3B_PAUSE() _mm_pause()
#else
#define A3B_PAUSE() std::this_thread::yield()
#endif

namespace a3b {

void Pool::resize(int count) {
  stop();
  quit = false;
  num_threads = count < 1 ? 1 : count;
  try {
    for (int thread = 1; thread < num_threads; thread++) workers.emplace_back([this, thread] { work(thread); });
  } catch (...) {  // the system refuses more threads
    stop();
    throw;
  }
}

void Pool::stop() {
  {
    std::lock_guard lock(mutex);
    quit = true;
    generation++;
    wake_workers.notify_all();
  }
  for (std::thread& worker : workers) worker.join();
  workers.clear();
}

void Pool::take_items(int thread) {
  for (int item = next.fetch_add(1, std::memory_order_relaxed); item < num_items;
       item = next.fetch_add(1, std::memory_order_relaxed))
    call(fn, item, thread);
}

// A worker enters a job only while it is open, and the caller leaves only when no worker is inside. All of these
// accesses are sequentially consistent: either the worker sees the job closed, or the caller sees the worker inside.
void Pool::start(int count, Call job_call, const void* job) {
  num_items = count;
  call = job_call;
  fn = job;
  next.store(0, std::memory_order_relaxed);
  open = true;
  generation++;
  if (sleeping) {
    std::lock_guard lock(mutex);
    wake_workers.notify_all();
  }
  take_items(0);
  open = false;
  for (int spin = 0; spin < HOST_TUNING.spins && inside; spin++) A3B_PAUSE();
  if (inside) {
    std::unique_lock lock(mutex);
    caller_sleeps = true;
    wake_caller.wait(lock, [this] { return inside == 0; });
    caller_sleeps = false;
  }
}

void Pool::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    for (int spin = 0; spin < HOST_TUNING.spins && generation == seen; spin++) A3B_PAUSE();
    if (generation == seen) {
      std::unique_lock lock(mutex);
      sleeping++;
      wake_workers.wait(lock, [&] { return generation != seen; });
      sleeping--;
    }
    seen = generation;
    if (quit) return;
    inside++;
    if (open) take_items(thread);
    if (--inside == 0 && caller_sleeps) {
      std::lock_guard lock(mutex);
      wake_caller.notify_one();
    }
  }
}

Scratch::~Scratch() {
  for (Slot& slot : slots) std::free(slot.data);
}

void* Scratch::bytes(int which, size_t size) {
  if (which >= NUM_SLOTS) throw std::logic_error("an op takes more scratch arrays than there are slots");
  Slot& slot = slots[which];
  size = (size + 4095) / 4096 * 4096;
  if (size > slot.size) {
    std::free(slot.data);
    slot = {nullptr, 0};
    slot.data = std::aligned_alloc(4096, size);
    if (!slot.data) throw std::bad_alloc();
    slot.size = size;
  }
  return slot.data;
}

}  // namespace a3b
