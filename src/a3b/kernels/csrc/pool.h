// Threads that share a loop. Items are handed out one by one, so a slow thread costs only its current item. Waiting
// threads spin for some microseconds and then sleep: on a busy machine a spinning thread can keep the one it waits for
// off its core.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace a3b {

class Pool {
 public:
  explicit Pool(int num_threads) { resize(num_threads); }
  ~Pool() { stop(); }
  int size() const { return num_threads; }
  void resize(int num_threads);

  // fn(item, thread) for every item in [0, num_items), thread in [0, size()). The caller works too. No exceptions in
  // fn.
  template <class Fn>
  [[gnu::always_inline]] void run(int num_items, const Fn& fn) {
    if (num_items <= 1 || num_threads == 1) {
      for (int item = 0; item < num_items; item++) fn(item, 0);
      return;
    }
    start(num_items, [](const void* f, int item, int thread) { (*(const Fn*)f)(item, thread); }, &fn);
  }

 private:
  using Call = void (*)(const void*, int, int);
  void start(int num_items, Call call, const void* fn);
  void work(int thread);
  void take_items(int thread);
  void stop();

  std::vector<std::thread> workers;
  int num_threads = 1;
  Call call = nullptr;
  const void* fn = nullptr;
  int num_items = 0;
  alignas(64) std::atomic<int> next{0};
  alignas(64) std::atomic<uint32_t> generation{0};
  std::atomic<bool> open{false}, quit{false};
  alignas(64) std::atomic<int> inside{0};  // workers that may touch the job
  std::atomic<int> sleeping{0};
  std::atomic<bool> caller_sleeps{false};
  std::mutex mutex;
  std::condition_variable wake_workers, wake_caller;
};

// Memory that ops use while they run, grown as needed and kept. One op runs at a time.
class Scratch {
 public:
  static constexpr int NUM_SLOTS = 40;
  ~Scratch();
  void* bytes(int slot, size_t size);  // 4096-byte aligned; contents are not kept when it grows

 private:
  struct Slot {
    void* data = nullptr;
    size_t size = 0;
  };
  Slot slots[NUM_SLOTS];
};

// Hands one op its scratch memory, an array at a time.
class ScratchSlots {
 public:
  explicit ScratchSlots(Scratch& scratch) : scratch(scratch) {}
  template <class T>
  T* take(size_t count) {
    return (T*)scratch.bytes(next++, count * sizeof(T));
  }

 private:
  Scratch& scratch;
  int next = 0;
};

// What an op runs with.
struct Context {
  Pool& pool;
  Scratch& scratch;
  bool prefetches_stream = true;  // for a single token; which is faster differs between processors
};

}  // namespace a3b
