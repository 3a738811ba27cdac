// Every thread runs every function once, barriers hold, and the pool ends cleanly: idle, just made, or in a forked child.
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "gemlet/thread_pool.h"
#include "support.h"

using gemlet::ThreadPool;

namespace {

void check_runs(int threads, int runs) {
  ThreadPool pool(threads);
  CHECK(pool.size() == threads);
  std::vector<int> counts(static_cast<size_t>(threads));  // plain memory: run itself must order the accesses
  for (int i = 0; i < runs; i++) {
    pool.run([&](int thread) { counts[static_cast<size_t>(thread)]++; });
    for (int count : counts) CHECK_WITH(count == i + 1, threads, i, count);
  }
}

void check_barriers(int threads, int rounds) {
  ThreadPool pool(threads);
  std::vector<int> at(static_cast<size_t>(threads));
  std::atomic<int> wrong{0};
  pool.run([&](int thread) {
    for (int round = 1; round <= rounds; round++) {
      at[static_cast<size_t>(thread)] = round;
      pool.barrier();
      for (int other : at) wrong += other != round;
      pool.barrier();
    }
  });
  CHECK_WITH(wrong == 0, threads, wrong.load());
}

void check_fork() {
  auto pool = std::make_unique<ThreadPool>(3);
  pool->run([](int) {});
  usleep(20000);  // the workers sleep
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    pool.reset();
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK_WITH(WIFEXITED(status) && WEXITSTATUS(status) == 0, status);
  int ran = 0;
  pool->run([&](int thread) {
    if (thread == 0) ran++;
  });
  CHECK(ran == 1);
}

}  // namespace

int main() {
  for (int threads = 1; threads <= 8; threads++) {
    check_runs(threads, 300);
    check_barriers(threads, 150);
    for (int i = 0; i < 20; i++) ThreadPool pool(threads);
  }
  CHECK(ThreadPool(0).size() == 1 && ThreadPool(-5).size() == 1);
  check_fork();
}
