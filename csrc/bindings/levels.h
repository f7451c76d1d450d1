// The levels of a stream as its table has them (state/tensors.py, level_table). Stable ABI only.
#pragma once

#include "bindings/tensors.h"

namespace futurefill {

// One row of levels; offsets in complex rows.
struct LevelRow {
  int64_t block, radix, transform, n_spectra;
  int64_t kept_offset, spectra_offset;
  int64_t late, steps, extra;  // with slack, see plan.Level; else 0
  int64_t work_offset;         // of the CPU's transforms under way
  int64_t direct;              // whether its spectra rows hold taps, two per row
  int64_t images_offset;       // rows of images; that of the firing after n blocks is n % images
  int64_t images;              // 0 where no before-image is made
  int64_t made;                // whether a firing makes its spectra

  bool plain() const { return late == 0 && extra == 0; }
  int64_t kept_rows() const { return direct ? 0 : (n_spectra - 1) * transform; }
  // of a before-image: pending outputs, then the kept spectrum as rows of real and imaginary parts
  int64_t image_rows() const { return block + (kept_rows() ? 2 * transform : 0); }
  int64_t spectra_rows() const {
    if (made) return 0;
    return direct ? ((n_spectra + 1) * block + 1) / 2 : n_spectra * transform;
  }
};

constexpr int64_t kLevelFields = 14;
static_assert(sizeof(LevelRow) == kLevelFields * sizeof(int64_t));

// The table, smallest block first; on the CPU whatever the device of the others.
struct Levels {
  const LevelRow* rows;
  int64_t count;

  explicit Levels(const Tensor& t) {
    int32_t device;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &device));
    STD_TORCH_CHECK(device == aoti_torch_device_type_cpu(), "expected levels on the CPU");
    const View v("levels", t);
    check_dim(v, 2);
    check_size(v, 1, kLevelFields);
    check_contiguous(v);
    check_int64(v);
    rows = static_cast<const LevelRow*>(v.data);
    count = v.sizes[0];
  }

  const LevelRow& at(int64_t index) const {
    STD_TORCH_CHECK(index >= 0 && index < count, "expected index in 0 .. ", count - 1, ", got ",
                    index);
    return rows[index];
  }
};

namespace {

// Whether the level's numbers fit each other, the length, and the rows of kept and spectra.
inline void check_level(const LevelRow& l, int64_t length, int64_t kept_rows,
                        int64_t spectra_rows) {
  STD_TORCH_CHECK(l.block >= 1 && l.transform >= l.block && l.transform < 2 * l.block &&
                      (l.transform & (l.transform - 1)) == 0,
                  "expected levels with block >= 1 and the next power of two as transform, got ",
                  l.block, " and ", l.transform);
  STD_TORCH_CHECK(
      l.late >= 0 && l.late < length && l.extra >= 0 && l.steps >= 0 && l.steps <= l.block,
      "expected levels with 0 <= late < length, extra >= 0 and 0 <= steps <= block, "
      "got late ",
      l.late, ", extra ", l.extra, ", steps ", l.steps);
  STD_TORCH_CHECK(l.radix >= 2 && l.n_spectra >= 1 && l.n_spectra < l.radix + l.extra,
                  "expected levels with radix >= 2 and 1 <= n_spectra < radix + extra, got radix ",
                  l.radix, ", n_spectra ", l.n_spectra, ", extra ", l.extra);
  STD_TORCH_CHECK(!l.made || (!l.direct && l.plain()),
                  "expected levels that make their spectra without slack and not direct");
  STD_TORCH_CHECK(l.spectra_offset >= 0 && l.spectra_offset + l.spectra_rows() <= spectra_rows,
                  "expected spectra with at least ", l.spectra_offset + l.spectra_rows(),
                  " rows, got ", spectra_rows);
  STD_TORCH_CHECK(l.kept_offset >= 0 && l.kept_offset + l.kept_rows() <= kept_rows,
                  "expected kept with at least ", l.kept_offset + l.kept_rows(), " rows, got ",
                  kept_rows);
}

}  // namespace
}  // namespace futurefill
