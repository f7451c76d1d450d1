#include "infra/branches.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace futurefill {

Branches::Branches(int64_t batch_size) : after_(batch_size), placed_(batch_size) {
  branches_.reserve(3 * batch_size);  // while they change
  free_.reserve(3 * batch_size);
  for (int64_t row = 0; row < batch_size; ++row) rows_.push_back(grow(-1, 0));
}

int64_t Branches::grow(int64_t origin, int64_t start) {
  int64_t branch = static_cast<int64_t>(branches_.size());
  if (free_.empty()) {
    branches_.emplace_back();
  } else {
    branch = free_.back();
    free_.pop_back();
  }
  Branch grown{origin, start, 0, 0, 1};
  if (origin >= 0) {
    Branch& from = branches_[origin];
    grown.depth = from.depth + 1, grown.trunk = from.trunk, ++from.users;
  } else {
    grown.trunk = trunks_++;
  }
  branches_[branch] = grown;
  return branch;
}

void Branches::leave(int64_t branch) {
  while (branch >= 0 && --branches_[branch].users == 0) {
    free_.push_back(branch);
    branch = branches_[branch].origin;
  }
}

// Branches from which one alone goes on become parts of it.
void Branches::join() {
  for (Branch& branch : branches_) {
    while (branch.users && branch.origin >= 0 && branches_[branch.origin].users == 1) {
      Branch& origin = branches_[branch.origin];
      origin.users = 0;
      free_.push_back(branch.origin);
      branch.start = std::min(branch.start, origin.start);
      branch.origin = origin.origin;
    }
  }
}

void Branches::renew(const int64_t* rows, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    leave(rows_[rows[i]]);
    rows_[rows[i]] = grow(-1, 0);
  }
  join();
}

void Branches::crop(const int64_t* rows, const int64_t* positions, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    int64_t branch = rows_[rows[i]];
    while (branches_[branch].origin >= 0 && branches_[branch].start > positions[i]) {
      branch = branches_[branch].origin;
    }
    const int64_t cropped = grow(branch, positions[i]);
    leave(rows_[rows[i]]);
    rows_[rows[i]] = cropped;
  }
  join();
}

void Branches::reorder(const int64_t* rows, const int64_t* positions) {
  std::fill(placed_.begin(), placed_.end(), 0);
  for (int64_t b = 0; b < batch_size(); ++b) {
    const int64_t branch = rows_[rows[b]];
    if (placed_[rows[b]]) {
      after_[b] = grow(branch, positions[rows[b]]);
    } else {
      after_[b] = branch, ++branches_[branch].users;
    }
    placed_[rows[b]] = 1;
  }
  rows_.swap(after_);
  for (const int64_t branch : after_) leave(branch);
  join();
}

int64_t Branches::common(int64_t row, int64_t other) const {
  int64_t a = rows_[row], b = rows_[other];
  if (branches_[a].trunk != branches_[b].trunk) return 0;
  int64_t parted = std::numeric_limits<int64_t>::max();
  while (a != b) {
    if (branches_[a].depth < branches_[b].depth) std::swap(a, b);
    parted = std::min(parted, branches_[a].start);
    a = branches_[a].origin;
  }
  return parted;
}

std::vector<RowMove> moves_to(const int64_t* rows, int64_t batch) {
  std::vector<int64_t> needed(batch, 0), free;
  std::vector<char> left(batch, 0);
  for (int64_t b = 0; b < batch; ++b) {
    if (rows[b] != b) left[b] = 1, ++needed[rows[b]];
  }
  std::vector<RowMove> moves;
  for (int64_t b = 0; b < batch; ++b) {
    if (left[b] && !needed[b]) free.push_back(b);
  }
  while (!free.empty()) {
    const int64_t target = free.back(), source = rows[target];
    free.pop_back();
    moves.push_back({MoveKind::kCopy, source, target});
    left[target] = 0;
    if (--needed[source] == 0 && left[source]) free.push_back(source);
  }
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t target = b; left[target]; target = rows[target]) {
      left[target] = 0;
      if (left[rows[target]]) moves.push_back({MoveKind::kSwap, rows[target], target});
    }
  }
  return moves;
}

}  // namespace futurefill
