// How each kernel is launched: grid, shared memory, template arguments and arguments, from what the
// launcher was given. Plain C++, no CUDA: the launchers and the tests' emulator both use it.
#pragma once

#include <cstdint>
#include <tuple>
#include <type_traits>

#include "fill_config.h"
#include "params.h"
#include "step_config.h"

namespace futurefill::cuda {

struct LaunchShape {
  int64_t grid[3];  // thread blocks
  int threads;      // per thread block
  int shared;       // dynamic shared memory of one, in bytes
};

constexpr int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// A template argument as a value: what the choose_ functions call f with.
template <auto kValue>
using Constant = std::integral_constant<decltype(kValue), kValue>;

// f(Constant<io>), or nothing where there is no such type.
template <class F>
void choose_io(IoType io, F&& f) {
  switch (io) {
    case IoType::kFloat32:
      return f(Constant<IoType::kFloat32>{});
    case IoType::kBFloat16:
      return f(Constant<IoType::kBFloat16>{});
    case IoType::kFloat16:
      return f(Constant<IoType::kFloat16>{});
  }
}

// future_fill<ConfigOf<block, memory>>

template <int kBlock, int kMemory>
struct ConfigOf {
  static constexpr int block = kBlock, memory = kMemory;
  static constexpr FillConfig value = fill_config(kBlock, kMemory);
};

constexpr bool fill_supported(int64_t block) {
  return block >= 1 && block <= kMaxFillBlock && (block & (block - 1)) == 0;
}

// Whether a block size is launched in the same way whatever memory an SM has.
constexpr bool any_memory(int64_t block) { return config_memory(int(block), kLarge) == kSmall; }

// bytes: shared memory of an SM.
constexpr Memory memory_of(int64_t bytes) {
  return bytes >= 228 << 10 ? kLarge : bytes >= 164 << 10 ? kMedium : kSmall;
}

// f(ConfigOf<...>{}) of the block size, or nothing where there is none.
template <int kBlock = 1, class F>
void choose_fill(int64_t block, Memory memory, F&& f) {
  if (block == kBlock) {
    switch (memory) {
      case kSmall:
        return f(ConfigOf<kBlock, config_memory(kBlock, kSmall)>{});
      case kMedium:
        return f(ConfigOf<kBlock, config_memory(kBlock, kMedium)>{});
      case kLarge:
        return f(ConfigOf<kBlock, config_memory(kBlock, kLarge)>{});
    }
  } else if constexpr (kBlock < kMaxFillBlock) {
    choose_fill<2 * kBlock>(block, memory, f);
  }
}

constexpr LaunchShape fill_launch(const FillParams& p, const FillConfig& config) {
  const int64_t channels = p.shape.last_channel - p.shape.first_channel;
  const int64_t columns = tiles(channels, config.group()) * config.units / config.staged;
  return {{columns, p.n_rows, p.layers}, config.threads(), config.shared_bytes()};
}

inline auto fill_arguments(const FillParams& p) {
  return std::tuple(p.ring, p.kept, p.spectra, p.positions, p.rows, p.shape);
}

// spectrum_products

constexpr int kProductChannels = 32, kProductEntries = 8;  // per thread block

constexpr LaunchShape products_launch(const ProductParams& p) {
  const ProductShape& a = p.shape;
  return {{tiles(a.transform, kProductEntries), tiles(a.width, kProductChannels), p.n_rows},
          kProductChannels * kProductEntries,
          0};
}

inline auto products_arguments(const ProductParams& p) {
  return std::tuple(p.values, p.kept, p.spectra, p.positions, p.rows, p.shape);
}

// short_range_step<Io, rows per thread block, whether filters serve several channels>

template <class F>
void choose_step(const StepParams& p, F&& f) {
  const StepShape& a = p.shape;
  choose_io(p.io, [&](auto io) {
    const auto with_rows = [&](auto rows) {
      return a.channels_per_filter > 1 ? f(io, rows, Constant<true>{})
                                       : f(io, rows, Constant<false>{});
    };
    switch (step_rows(a.n_rows, a.channels)) {
      case 1:
        return with_rows(Constant<1>{});
      case 2:
        return with_rows(Constant<2>{});
      default:
        return with_rows(Constant<kStepMaxRows>{});
    }
  });
}

constexpr LaunchShape step_launch(const StepShape& a) {
  return {{tiles(a.channels, kStepChannels), tiles(a.n_rows, step_rows(a.n_rows, a.channels)), 1},
          step_threads(a.taps),
          0};
}

inline auto step_arguments(const StepParams& p) {
  return std::tuple(p.u, p.pre, p.post, p.y, p.ring, p.taps, p.skip, p.positions, p.rows, p.shape);
}

// prefill_inputs<Io> and prefill_outputs<Io>

constexpr int kPrefillThreads = 256, kInputsTile = 4 * kPrefillThreads;
constexpr int kOutputsChannels = 32, kOutputsTime = 64;

constexpr LaunchShape inputs_launch(const InputsShape& a) {
  return {{tiles(a.width, kInputsTile), a.channels, a.n_rows}, kPrefillThreads, 0};
}

inline auto inputs_arguments(const InputsParams& p) {
  return std::tuple(p.u, p.pre, p.lengths, p.x, p.held, p.u_at, p.pre_at, p.x_at, p.held_at,
                    p.shape);
}

constexpr LaunchShape outputs_launch(const OutputsParams& p) {
  const OutputsShape& a = p.shape;
  // a row's first tile begins up to 31 positions before its start
  const int64_t times = a.positions + a.length + (p.starts ? 31 : 0);
  return {{tiles(times, kOutputsTime), tiles(a.channels, kOutputsChannels), a.n_rows},
          kPrefillThreads,
          0};
}

inline auto outputs_arguments(const OutputsParams& p) {
  return std::tuple(p.z, p.u, p.pre, p.post, p.skip, p.y, p.prompt_fill, p.ring, p.rows, p.starts,
                    p.ends, p.z_at, p.u_at, p.pre_at, p.post_at, p.y_at, p.shape);
}

}  // namespace futurefill::cuda
