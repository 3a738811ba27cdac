// What an adapter adds to the products of a program: for some of its matrices W, scale * (x · Aᵀ) · Bᵀ beside x · Wᵀ.
#pragma once
#include <memory>
#include <vector>

#include "gemlet/kv_state.h"

namespace gemlet {

constexpr int kMaxRank = 1024;

// Two dense matrices in the kernels' layout; borrowed memory.
struct LowRank {
  Weight a;  // [rank][columns of W]
  Weight b;  // [rows of W][rank]
  float scale;

  int rank() const { return a.rows; }
  int stride() const { return static_cast<int>(round_up(a.rows, kPanel)); }  // floats of a row of x · Aᵀ
};

// Made by a program, for that program only. Says nothing of threads: many may read it.
class Adapter {
 public:
  const LowRank* part(int matrix) const {
    const int at = place_[static_cast<size_t>(matrix)];
    return at < 0 ? nullptr : &parts_[static_cast<size_t>(at)];
  }

 private:
  friend class Program;
  std::shared_ptr<const KvLayout> layout_;  // the program's: kept, so that no other program has one at its address
  std::vector<int> place_;                  // of each matrix in parts_, or -1
  std::vector<LowRank> parts_;
};

}  // namespace gemlet
