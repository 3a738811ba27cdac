// A fixed set of threads that run one function together. Waiting spins briefly, then gives the processor away.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gemlet {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls f(thread) on every thread, the caller as thread 0, and returns when all are done. Not reentrant.
  template <class Function>
  void run(Function&& f) {
    start([](void* context, int thread) { (*static_cast<Function*>(context))(thread); }, &f);
  }

  // Inside run: waits until every thread has come here.
  void barrier();

 private:
  using Call = void (*)(void*, int);
  void start(Call call, void* context);
  void work(int thread);

  struct Workers {
    std::vector<std::thread> threads;
    std::mutex mutex;
    std::condition_variable wake;
  };

  const int size_;
  const pid_t process_;
  std::unique_ptr<Workers> workers_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

}  // namespace gemlet
