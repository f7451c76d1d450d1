// Where streams of rows parted: up to there their inputs are the same bytes. No torch.
#pragma once

#include <cstdint>
#include <vector>

#include "infra/move_slots.h"

namespace futurefill {

// Of every row the branch that it is on: positions from where it parted from another one. Branches
// of copies grow from one trunk. Those from which one alone goes on are joined with it, so that B
// rows are on 2 B branches at most: nothing is allocated but in the beginning.
class Branches {
 public:
  explicit Branches(int64_t batch_size);
  Branches(const Branches& other) : Branches(other.batch_size()) { *this = other; }
  Branches& operator=(const Branches&) = default;

  int64_t batch_size() const { return static_cast<int64_t>(rows_.size()); }

  // Each of n rows has nothing in common with any other.
  void renew(const int64_t* rows, int64_t n);

  // What each of n rows had from its position on is gone.
  void crop(const int64_t* rows, const int64_t* positions, int64_t n);

  // Row b becomes what row rows[b] was, at positions[rows[b]]. The first of its copies stays on its
  // branch, the others part from it there.
  void reorder(const int64_t* rows, const int64_t* positions);

  // How many first positions two rows have in common, which are not one.
  int64_t common(int64_t row, int64_t other) const;

 private:
  struct Branch {
    int64_t origin, start, depth, trunk;  // depth: more than the origin's
    int64_t users;                        // rows, and branches that part from it; 0: it is free
  };

  int64_t grow(int64_t origin, int64_t start);
  void leave(int64_t branch);
  void join();

  std::vector<Branch> branches_;
  std::vector<int64_t> free_, rows_, after_;
  std::vector<char> placed_;
  int64_t trunks_ = 0;  // so far
};

// Moves after which each row b is what row rows[b] was, and only rows that change: copies to rows
// that no other needs any more, then exchanges along circles.
std::vector<RowMove> moves_to(const int64_t* rows, int64_t batch);

}  // namespace futurefill
