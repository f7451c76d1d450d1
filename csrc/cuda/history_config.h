// How a history is spread over warps. Plain C++, no CUDA.
#pragma once

#include <cstdint>

namespace futurefill::cuda {

constexpr int kHistoryWarps = 4;  // per thread block, each with channels of its own
constexpr int kHistoryRows = 4;   // batch rows of a warp that share one reading of the taps
// fewer warps have too few bytes in flight: four on each multiprocessor of a large GPU
constexpr int64_t kHistoryManyWarps = 512;

// Of a warp: batch rows, and lanes with four channels each; its other lanes share the taps. unroll:
// taps that a lane has in flight.
struct HistoryConfig {
  int rows, vectors, unroll;

  constexpr int channels() const { return 4 * vectors; }
};

// One row in sectors of 32 bytes, 64 taps at once; several rows in lines of 128. Four taps of four
// rows in flight take more than 128 registers.
constexpr HistoryConfig kOneRow = {1, 2, 4}, kSeveralRows = {kHistoryRows, 8, 2};

// Resident thread blocks, so that a token of 24 layers of 1024 channels runs at once on 132
// multiprocessors; more would spill.
constexpr int history_min_blocks(int rows) { return rows == 1 ? 6 : 4; }

constexpr HistoryConfig history_config(int64_t n_rows, int64_t lanes, int64_t layers) {
  const int64_t groups = (n_rows + kHistoryRows - 1) / kHistoryRows;
  const int64_t warps = layers * groups * (lanes / kSeveralRows.channels());
  return n_rows > 1 && warps >= kHistoryManyWarps ? kSeveralRows : kOneRow;
}

}  // namespace futurefill::cuda
