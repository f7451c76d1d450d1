// How each kernel is launched: grid, shared memory, template arguments and arguments, from what the
// launcher was given. Plain C++, no CUDA: the launchers and the tests' emulator both use it.
#pragma once

#include <cstdint>
#include <tuple>
#include <type_traits>

#include "fill_config.h"
#include "history_config.h"
#include "params.h"

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

// future_fill<ConfigOf<transform, memory, whether the block is as long, kind>>

// Early: filter and kept spectra in tiles of 16 bytes per lane, which are asked for before anything
// else, and outputs that the memory adds.
template <int kTransform, int kMemory, bool kWhole = true, bool kEarly = false>
struct ConfigOf {
  static constexpr int transform = kTransform, memory = kMemory;
  static constexpr bool whole = kWhole, early = kEarly;
  static constexpr FillConfig value = fill_config(kTransform, kMemory);
};

// Whether a block is launched in the same way whatever memory an SM has.
constexpr bool any_memory(const FillShape& a) {
  return a.block < a.transform || config_memory(a.transform, kLarge) == kSmall;
}

// bytes: shared memory of an SM.
constexpr Memory memory_of(int64_t bytes) {
  return bytes >= 228 << 10 ? kLarge : bytes >= 164 << 10 ? kMedium : kSmall;
}

// f(ConfigOf<...>{}) of a block, or nothing where its transform is longer than kMaxFill. Blocks
// that are no powers of two are rare: they have one kernel for every amount of memory.
template <int kTransform = 1, class F>
void choose_fill(const FillShape& a, Memory memory, F&& f) {
  if (a.transform == kTransform) {
    if (a.block < a.transform) return f(ConfigOf<kTransform, kSmall, false>{});
    switch (memory) {
      case kSmall:
        return f(ConfigOf<kTransform, config_memory(kTransform, kSmall)>{});
      case kMedium:
        return f(ConfigOf<kTransform, config_memory(kTransform, kMedium)>{});
      case kLarge:
        return f(ConfigOf<kTransform, config_memory(kTransform, kLarge)>{});
    }
  } else if constexpr (kTransform < kMaxFill) {
    choose_fill<2 * kTransform>(a, memory, f);
  }
}

// Whether a fill is compiled as an early one, too.
constexpr int kMinEarly = 64, kMaxEarly = 2048;
constexpr bool early_supported(const FillShape& a) {
  return a.block == a.transform && a.transform >= kMinEarly && a.transform <= kMaxEarly;
}

// As choose_fill, of early fills.
template <int kTransform = kMinEarly, class F>
void choose_early(const FillShape& a, Memory memory, F&& f) {
  if (!early_supported(a)) return;
  if (a.transform == kTransform) {
    if (memory == kSmall) return f(ConfigOf<kTransform, kSmall, true, true>{});
    return f(ConfigOf<kTransform, config_memory(kTransform, kMedium), true, true>{});
  } else if constexpr (kTransform < kMaxEarly) {
    choose_early<2 * kTransform>(a, memory, f);
  }
}

constexpr LaunchShape fill_launch(const FillParams& p, const FillConfig& config) {
  const int64_t channels = p.shape.last_channel - p.shape.first_channel;
  const int64_t columns = tiles(channels, config.group()) * config.units / config.staged;
  return {{columns, p.n_rows, p.layers}, config.threads(), config.shared_bytes()};
}

inline auto fill_arguments(const FillParams& p) {
  return std::tuple(p.ring, p.open_block, p.kept, p.spectra, p.positions, p.rows, p.shape);
}

// split_block<nodes>, transform_nodes<NodesOf<points, memory>>, merge_block<nodes>

constexpr int kMinLong = 2 * kMaxFill, kMaxLong = 1 << 18;
constexpr int kOuterChannels = 32, kOuterPoints = 4;  // per thread block of the first and last pass

template <int kPoints, int kMemory>
struct NodesOf {
  static constexpr int points = kPoints, memory = kMemory;
  static constexpr FillConfig value = node_config(kPoints, kMemory);
};

// f(Constant<nodes>) of a transform, or nothing where it has no three passes.
template <class F>
void choose_nodes(int64_t transform, F&& f) {
  if (transform < kMinLong || transform > kMaxLong) return;
  switch (nodes_of(int(transform))) {
    case 16:
      return f(Constant<16>{});
    case 32:
      return f(Constant<32>{});
    case 64:
      return f(Constant<64>{});
  }
}

// f(NodesOf<...>{}), likewise.
template <int kPoints = kMinNode, class F>
void choose_node(int64_t transform, Memory memory, F&& f) {
  if (transform < kMinLong || transform > kMaxLong) return;
  if (transform == int64_t{kPoints} * nodes_of(int(transform))) {
    if (memory == kSmall) return f(NodesOf<kPoints, node_memory(kPoints, kSmall)>{});
    return f(NodesOf<kPoints, node_memory(kPoints, kMedium)>{});
  } else if constexpr (kPoints < kMaxLong / kMostNodes) {
    choose_node<2 * kPoints>(transform, memory, f);
  }
}

constexpr LaunchShape outer_launch(const LongFillParams& p, int nodes) {
  const FillShape& a = p.fill.shape;
  const int64_t units = (a.last_channel - a.first_channel) / kOuterChannels;
  return {{units * (a.transform / nodes / kOuterPoints), p.fill.n_rows, p.fill.layers},
          kOuterChannels * kOuterPoints,
          0};
}

constexpr LaunchShape nodes_launch(const LongFillParams& p, const FillConfig& config) {
  const FillShape& a = p.fill.shape;
  return {{(a.last_channel - a.first_channel) / config.channels, p.fill.n_rows,
           p.fill.layers * (a.transform / config.block)},
          config.threads(),
          config.shared_bytes()};
}

inline auto outer_arguments(const LongFillParams& p) {
  return std::tuple(p.scratch, p.fill.ring, p.fill.open_block, p.fill.positions, p.fill.rows,
                    p.twist, p.fill.shape);
}

inline auto nodes_arguments(const LongFillParams& p) {
  return std::tuple(p.scratch, p.fill.kept, p.fill.spectra, p.fill.positions, p.fill.rows,
                    p.fill.shape);
}

// history<rows of a warp, lanes with channels, taps at a time, whether filters serve several
// channels>

template <class F>
void choose_history(const HistoryParams& p, F&& f) {
  const HistoryShape& a = p.shape;
  const auto with = [&](auto rows, auto vectors, auto unroll) {
    return a.channels_per_filter > 1 ? f(rows, vectors, unroll, Constant<true>{})
                                     : f(rows, vectors, unroll, Constant<false>{});
  };
  if (history_config(a.n_rows, a.lanes, p.layers).rows == 1) {
    return with(Constant<kOneRow.rows>{}, Constant<kOneRow.vectors>{}, Constant<kOneRow.unroll>{});
  }
  return with(Constant<kSeveralRows.rows>{}, Constant<kSeveralRows.vectors>{},
              Constant<kSeveralRows.unroll>{});
}

constexpr LaunchShape history_launch(const HistoryParams& p) {
  const HistoryShape& a = p.shape;
  const HistoryConfig config = history_config(a.n_rows, a.lanes, p.layers);
  return {
      {tiles(a.lanes, kHistoryWarps * config.channels()), tiles(a.n_rows, config.rows), p.layers},
      32 * kHistoryWarps,
      0};
}

inline auto history_arguments(const HistoryParams& p) {
  return std::tuple(p.slots, p.taps, p.positions, p.rows, p.token_at, p.undo, p.history, p.shape);
}

// apply_step<Io, neighbouring channels of a thread>

constexpr int kApplyThreads = 128, kApplyVector = 4;

// Whether every row starts at a whole vector.
inline bool apply_in_vectors(const ApplyParams& p) {
  const ApplyShape& a = p.shape;
  const int64_t bytes = kApplyVector * (p.io == IoType::kFloat32 ? 4 : 2);
  const auto whole = [&](const void* tensor, int64_t row) {
    return reinterpret_cast<intptr_t>(tensor) % bytes == 0 && row % kApplyVector == 0;
  };
  return a.channels % kApplyVector == 0 && whole(p.u, a.u_row) && whole(p.pre, a.pre_row) &&
         whole(p.post, a.post_row) && whole(p.y, a.y_row);
}

template <class F>
void choose_apply(const ApplyParams& p, F&& f) {
  choose_io(p.io, [&](auto io) {
    return apply_in_vectors(p) ? f(io, Constant<kApplyVector>{}) : f(io, Constant<1>{});
  });
}

inline LaunchShape apply_launch(const ApplyParams& p) {
  const int vector = apply_in_vectors(p) ? kApplyVector : 1;
  return {{tiles(p.shape.channels, kApplyThreads * vector), p.n_rows, 1}, kApplyThreads, 0};
}

inline auto apply_arguments(const ApplyParams& p) {
  return std::tuple(p.u, p.pre, p.post, p.y, p.slots, p.taps, p.skip, p.history, p.token_at,
                    p.positions, p.rows, p.shape);
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
