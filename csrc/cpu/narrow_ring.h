// A ring in 16 bits: slots as float32, sums added to them, and the block that is open.
#pragma once

#include "engine.h"
#include "scalar_types.h"
#include "simd.h"

namespace futurefill {
namespace FF_ISA {

// Whether a fill's ring holds less than its arithmetic; never with double.
template <class S>
FF_INLINE bool is_narrow(const FillParams& a) {
  return sizeof(S) == sizeof(float) && a.stored != a.state;
}

// run(slot of the row's position) with a pointer of the ring's type. A job is a (layer, tile) pair.
template <class F>
FF_INLINE void at_slot(const FillParams& a, int64_t job, const RowAt& row, const F& run) {
  const int64_t state = (job / a.tiles * a.batch + row.state) * a.tiles + job % a.tiles;
  const int64_t offset = (state * a.slots + row.position) * kLanes<float>;
  a.stored == Scalar::kBFloat16 ? run(static_cast<BFloat16*>(a.ring) + offset)
                                : run(static_cast<Float16*>(a.ring) + offset);
}

FF_INLINE float* open_block_of(const FillParams& a, int64_t job, const RowAt& row) {
  const int64_t state = (job / a.tiles * a.batch + row.state) * a.tiles + job % a.tiles;
  return static_cast<float*>(a.open_block) + state * a.open_slots * kLanes<float>;
}

// out (count, W) = slots p + first .. p + first + count - 1
inline void read_slots(const FillParams& a, int64_t job, const RowAt& row, int64_t first,
                       int64_t count, float* out) {
  constexpr int64_t W = kLanes<float>;
  at_slot(a, job, row, [&](const auto* slot) {
    for (int64_t t = 0; t < count; ++t)
      store(out + t * W, load_wide<float>(slot + (first + t) * W));
  });
}

// slots p .. p + count - 1 += sums (count, W), rounded once; in the open block not at all
inline void add_to_slots(const FillParams& a, int64_t job, const RowAt& row, int64_t count,
                         const float* sums) {
  constexpr int64_t W = kLanes<float>;
  float* block = open_block_of(a, job, row);
  const int64_t open = a.open_slots < count ? a.open_slots : count;
  for (int64_t t = 0; t < open; ++t) store(block + t * W, load(block + t * W) + load(sums + t * W));
  at_slot(a, job, row, [&](auto* slot) {
    for (int64_t t = open; t < count; ++t) {
      store_narrow(slot + t * W, load_wide<float>(slot + t * W) + load(sums + t * W));
    }
  });
}

// The inputs of the open block to the T_0 slots before p, the pending outputs from p on to the
// block.
inline void turn_block(const FillParams& a, int64_t job, const RowAt& row) {
  constexpr int64_t W = kLanes<float>;
  float* block = open_block_of(a, job, row);
  const int64_t left = a.length - row.position;
  at_slot(a, job, row, [&](auto* slot) {
    for (int64_t t = 0; t < a.open_slots; ++t) {
      store_narrow(slot + (t - a.open_slots) * W, load(block + t * W));
    }
  });
  read_slots(a, job, row, 0, left < a.open_slots ? left : a.open_slots, block);
}

}  // namespace FF_ISA
}  // namespace futurefill
