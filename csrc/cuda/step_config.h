// How a short-range step is spread over thread blocks. Plain C++, no CUDA.
#pragma once

#include <cstdint>

namespace futurefill::cuda {

constexpr int kStepChannels = 8;  // per thread block: one 32-byte sector
constexpr int kStepMaxThreads = 128;
constexpr int kStepMaxRows = 8;      // batch rows that share one reading of the taps
constexpr int kStepFewBlocks = 120;  // fewer thread blocks leave SMs idle

// Batch rows per thread block, 1, 2 or 8: as many as leave no SM idle.
constexpr int step_rows(int64_t n_rows, int64_t channels) {
  const int64_t tiles = (channels + kStepChannels - 1) / kStepChannels;
  int rows = kStepMaxRows;
  while (rows > 1 &&
         (rows / 2 >= n_rows || tiles * ((n_rows + rows - 1) / rows) < kStepFewBlocks)) {
    rows /= rows == kStepMaxRows ? 4 : 2;
  }
  return rows;
}

// Two threads per tap.
constexpr int step_threads(int64_t taps) {
  int threads = 32;
  while (threads < kStepMaxThreads && threads / 2 < taps - 1) threads *= 2;
  return threads;
}

}  // namespace futurefill::cuda
