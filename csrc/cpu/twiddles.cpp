#include "twiddles.h"

#include <atomic>
#include <cmath>
#include <mutex>

namespace futurefill {

namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;

// Node r of depth d below x^n - i: the root has theta = 1/4, children have theta / 2 and
// theta / 2 + 1/2, so the bits of r, newest first, are the leading bits of theta.
double node_theta(int depth, int64_t r) {
  double theta = 0.25;
  for (int bit = depth - 1; bit >= 0; --bit) {
    theta = theta / 2 + ((r >> bit) & 1) * 0.5;
  }
  return theta;
}

template <class S>
Twiddle<S>* make_table(int depth) {
  const int64_t nodes = int64_t{1} << depth;
  auto* table = new Twiddle<S>[nodes];
  for (int64_t r = 0; r < nodes; ++r) {
    const double angle = kTwoPi * node_theta(depth, r);
    const auto re = [&](double turn) { return S(std::cos(angle * turn)); };
    const auto im = [&](double turn) { return S(std::sin(angle * turn)); };
    const double eighth = kTwoPi / 8 + angle / 8;
    table[r] = {re(0.5),
                im(0.5),
                re(0.25),
                im(0.25),
                re(0.125),
                im(0.125),
                S(std::cos(eighth)),
                S(std::sin(eighth))};
  }
  return table;
}

}  // namespace

template <class S>
const TwiddleTables<S>& twiddle_tables(int max_depth) {
  static TwiddleTables<S> tables{};
  static std::atomic<int> ready{-1};
  static std::mutex mutex;
  if (ready.load(std::memory_order_acquire) < max_depth) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (int d = ready.load(std::memory_order_relaxed) + 1; d <= max_depth; ++d) {
      tables.depth[d] = make_table<S>(d);
      ready.store(d, std::memory_order_release);
    }
  }
  return tables;
}

template const TwiddleTables<float>& twiddle_tables<float>(int);
template const TwiddleTables<double>& twiddle_tables<double>(int);

}  // namespace futurefill
