#include "gemlet/thread_pool.h"

#include <unistd.h>

namespace gemlet {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// About 20 microseconds of spinning before the processor is offered to others.
constexpr int kSpins = 1000;

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads < 1 ? 1 : threads), process_(getpid()), workers_(std::make_unique<Workers>()) {
  for (int t = 1; t < size_; t++) workers_->threads.emplace_back([this, t] { work(t); });
}

ThreadPool::~ThreadPool() {
  if (getpid() != process_) {  // a forked child has no workers, and a condition that some still wait for cannot be destroyed
    workers_.release();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(workers_->mutex);
    stop_ = true;
    job_.fetch_add(1, std::memory_order_release);
  }
  workers_->wake.notify_all();
  for (std::thread& thread : workers_->threads) thread.join();
}

void ThreadPool::start(Call call, void* context) {
  if (size_ > 1) {
    {
      std::lock_guard<std::mutex> lock(workers_->mutex);
      call_ = call;
      context_ = context;
      job_.fetch_add(1, std::memory_order_release);
    }
    workers_->wake.notify_all();
  }
  call(context, 0);
  barrier();
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && job_.load(std::memory_order_acquire) == seen; i++) pause();
    Call call;
    void* context;
    {
      std::unique_lock<std::mutex> lock(workers_->mutex);
      workers_->wake.wait(lock, [&] { return job_.load(std::memory_order_relaxed) != seen; });
      seen = job_.load(std::memory_order_relaxed);
      if (stop_) return;
      call = call_;
      context = context_;
    }
    call(context, thread);
    barrier();
  }
}

void ThreadPool::barrier() {
  if (size_ == 1) return;
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  for (int i = 0; generation_.load(std::memory_order_acquire) == generation; i++) {
    if (i < kSpins)
      pause();
    else
      std::this_thread::yield();
  }
}

}  // namespace gemlet
