// How a future fill of one block size is spread over a thread block. Plain C++, no CUDA.
//
// A channel's transform of T complex values is held by W = T / points threads, `points` each, and
// done in passes of radices points x middle x last (middle 1: two passes; T = points: one).
#pragma once

#include <cstdint>

namespace futurefill::cuda {

constexpr int kMaxFillBlock = 8192;

struct FillConfig {
  int block;       // T
  int points;      // complex values per thread, radix of the first pass
  int middle;      // radix of the second of three passes, else 1
  int last;        // radix of the last pass
  int channels;    // channels per thread block
  int min_blocks;  // thread blocks per SM that the registers must allow
  bool split;      // exchange real and imaginary parts in turn through half the shared memory

  constexpr int width() const { return block / points; }
  constexpr int threads() const { return channels * width(); }
  constexpr bool single() const { return block == points; }

  // rows of `channels` values, with a row of padding after every run of `last`
  constexpr int exchange_rows() const { return single() ? 0 : block + block / last; }
  constexpr int exchange_bytes() const { return exchange_rows() * channels * (split ? 4 : 8); }
  constexpr int twiddles() const;  // complex entries, behind the exchange
  constexpr int shared_bytes() const { return exchange_bytes() + 8 * twiddles(); }
};

constexpr int log2_of(int n) { return n < 2 ? 0 : 1 + log2_of(n / 2); }

// Levels of a twiddled pass that are stored: all but the first, which is a square.
constexpr int stored_levels(int radix) { return log2_of(radix) - 1; }

constexpr int FillConfig::twiddles() const {
  if (single()) return 0;
  const int forward = stored_levels(last) * (block / last);
  const int inverse = (stored_levels(points) + 1) * width();
  const int between = middle > 1 ? stored_levels(middle) * (points + last) : 0;
  return forward + inverse + between;
}

// The configuration of a block size, a power of two up to kMaxFillBlock. split: for devices whose
// SMs have 100 KB of shared memory; small blocks do not need it.
constexpr FillConfig fill_config(int block, bool split) {
  if (block <= 16) return {block, block, 1, block, 128, 5, false};
  if (block == 32) return {32, 32, 1, 32, 128, 3, false};
  if (block == 64) return {64, 8, 1, 8, 32, 3, false};
  if (block == 128) return {128, 16, 1, 8, 32, 2, false};
  if (block == 256) return {256, 16, 1, 16, 16, 2, false};
  if (block == 512) return {512, 32, 1, 16, 8, 3, split};
  if (block == 1024) return {1024, 32, 1, 32, 8, 2, split};
  if (block == 2048) return {2048, 32, 8, 8, 8, 1, split};
  if (block == 4096) return {4096, 32, 16, 8, 4, 1, split};
  return {8192, 32, 16, 16, 2, 1, split};
}

}  // namespace futurefill::cuda
