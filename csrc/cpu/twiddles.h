// Twiddle factors of the tree of x^n - c reductions (docs/algorithm.md).
#pragma once

#include <cstdint>

namespace futurefill {

// Of a node x^m - c with c = exp(2 pi i theta), split eight ways: exp(2 pi i theta / 2), / 4, / 8,
// and the last one times exp(i pi / 4). The roots of its other nodes are these times i.
template <class S>
struct Twiddle {
  S re1, im1, re2, im2, re3, im3, re4, im4;
};

constexpr int kMaxDepth = 40;

// Twiddles of every node by depth: depth[d][r] is node r of depth d below the root x^n - i. They do
// not depend on n. Tables are computed in double precision when first needed and live on.
template <class S>
struct TwiddleTables {
  const Twiddle<S>* depth[kMaxDepth];
};

// Tables for depths 0 .. max_depth. Thread-safe.
template <class S>
const TwiddleTables<S>& twiddle_tables(int max_depth);

}  // namespace futurefill
