// How a future fill of one block size is spread over a thread block. Plain C++, no CUDA.
//
// A channel's transform of T complex values is held by W = T / points threads, `points` each, and
// done in passes of radices points x middle x last (middle 1: two passes; T = points: one).
//
// The registers hold 16384 complex values, for T >= 4096 of fewer channels than fill a sector of
// the rings. There a thread block takes `staged` units of channels one after the other: a lane
// reads and writes that many neighbouring channels at once, and those of the other units wait in
// shared memory, as inputs or as outputs. Filter and kept spectra then lie unit by unit, so that a
// thread's entries r and r + 1 of a channel are 16 bytes (spectrum_index).
#pragma once

#include <cstdint>

namespace futurefill::cuda {

constexpr int kMaxFill = 8192;  // points

struct FillConfig {
  int block;       // T
  int points;      // complex values per thread, radix of the first pass
  int middle;      // radix of the second of three passes, else 1
  int last;        // radix of the last pass
  int channels;    // channels per thread block
  int min_blocks;  // thread blocks per SM that the registers must allow
  bool split;      // exchange real and imaginary parts in turn through half the shared memory
  int units = 1;   // channel of lane c of unit u: c units + u
  int staged = 1;  // units per thread block
  int held = 0;    // slots of the last waiting unit that stay in registers
  int turn = 0;    // slots exchanged at a time, 0 for all

  constexpr int width() const { return block / points; }
  constexpr int exchanged() const { return turn ? turn : points; }
  constexpr int group() const { return channels * units; }  // channels whose units interleave
  constexpr int threads() const { return channels * width(); }
  constexpr bool single() const { return block == points; }

  // rows of `channels` values, with a row of padding after every run of `last`, or after every
  // thread's where slots and threads swap
  constexpr int exchange_rows() const {
    if (single()) return 0;
    return swaps() ? exchanged() * (width() + 1) : block + block / last;
  }
  // whether an exchange only swaps an index of the slots and one of the threads, an involution
  constexpr bool swaps() const { return split && (middle > 1 ? middle == last : last == width()); }
  constexpr int exchange_bytes() const { return exchange_rows() * channels * (split ? 4 : 8); }
  constexpr int twiddles() const;  // complex entries, behind the exchange
  constexpr int waiting_bytes() const { return ((staged - 1) * points - held) * threads() * 4; }
  constexpr int shared_bytes() const { return exchange_bytes() + 8 * twiddles() + waiting_bytes(); }
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

// Shared memory of an SM: 100 KB (8.6, 8.9, 12.0), 164 KB (8.0) or 228 KB (9.0, 10.0).
enum Memory : int { kSmall, kMedium, kLarge };

// The configuration of a block size, a power of two up to kMaxFill.
constexpr FillConfig fill_config(int block, int memory) {
  const bool small = memory == kSmall;
  if (block <= 16) return {block, block, 1, block, 128, 5, false};
  if (block == 32) return {32, 32, 1, 32, 128, 3, false};
  if (block == 64) return {64, 8, 1, 8, 32, 3, false};
  if (block == 128) return {128, 16, 1, 8, 32, 2, false};
  if (block == 256) return {256, 16, 1, 16, 16, 2, false};
  if (block == 512) return {512, 32, 1, 16, 8, 3, small};
  if (block == 1024) return {1024, 32, 1, 32, 8, 2, small};
  if (block == 2048) return {2048, 32, 8, 8, 8, 1, small};
  if (block == 4096) return {4096, 16, 16, 16, 4, 1, true, 2, small ? 1 : 2};
  if (memory < kLarge) return {8192, 32, 16, 16, 2, 1, true, 4, small ? 1 : 2};
  return {8192, 32, 16, 16, 2, 1, true, 4, 4, 11, 16};
}

// The least memory that gives a block's configuration; what is compiled.
constexpr int config_memory(int block, int memory) {
  if (block < 512) return kSmall;
  return block < 8192 && memory > kMedium ? int(kMedium) : memory;
}

// Longer ones in three passes: nodes, which the first makes of a block, and points of each. From
// 2048 on a point takes twice as long, so nodes are made more before they are made longer.
constexpr int kMinNode = 1024, kMostNodes = 64;

constexpr int nodes_of(int transform) {
  return transform / kMinNode < kMostNodes ? transform / kMinNode : kMostNodes;
}

// Of a node, whose values are complex and four of them a sector.
constexpr FillConfig node_config(int points, int memory) {
  if (points == 4096) return {4096, 16, 16, 16, 4, 1, true};
  return fill_config(points, memory);
}

constexpr int node_memory(int points, int memory) {
  return points == 4096 ? int(kSmall) : config_memory(points, memory);
}

}  // namespace futurefill::cuda
