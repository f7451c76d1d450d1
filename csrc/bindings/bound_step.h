// The step of a stream whose tensors were checked once (op "bind"): for callers to whom a token is
// shorter than a dispatcher's work on sixteen arguments.
#pragma once

#include <cstdint>

namespace futurefill {
struct BoundStream;
}

// One token of one layer, of which the last one advances the positions: the op "step" for
// contiguous u, pre, post, y (n_rows, channels) of the dtype given to "bind". pre, post and rows
// may be null; rows (n_rows,) int64, -1 for padding. Returns null, or what is wrong: then nothing
// has changed. The text lives until the thread's next call.
extern "C" __attribute__((visibility("default"))) const char* futurefill_step(
    futurefill::BoundStream* stream, const void* u, const void* pre, const void* post, void* y,
    const int64_t* rows, int64_t n_rows, int64_t layer) noexcept;

// The same for all rows without gates: Python pays for every argument.
extern "C" __attribute__((visibility("default"))) const char* futurefill_plain_step(
    futurefill::BoundStream* stream, const void* u, void* y, int64_t layer) noexcept;

// Whether such a step of all rows, with the fills that layer 0 begins with, takes microseconds: not
// worth handing over Python's lock.
extern "C" __attribute__((visibility("default"))) bool futurefill_step_is_short(
    const futurefill::BoundStream* stream, int64_t layer) noexcept;

// n tokens of all rows of a stream of one layer: u, pre, post, y (n, B, channels), contiguous. y
// may be u one token later: then the steps feed on themselves, with `rectified` on max(y, 0); of u
// only the first token is read. What
// is wrong is said as above; then slots and outputs may have changed, but no token has been taken.
extern "C" __attribute__((visibility("default"))) const char* futurefill_run(
    futurefill::BoundStream* stream, const void* u, const void* pre, const void* post, void* y,
    int64_t n, bool rectified) noexcept;

namespace futurefill {

// (B, D, n) of any strides, which count elements.
struct Block {
  const void* data;
  int64_t strides[3];
};

// What a step's input is: known, or made of the output before it.
enum class Feedback : int32_t { kNone, kSame, kRectified };

}  // namespace futurefill

// Before n tokens that futurefill_block takes, in parts or at once: what they change is kept to
// take them back.
extern "C" __attribute__((visibility("default"))) const char* futurefill_begin_block(
    futurefill::BoundStream* stream, int64_t n) noexcept;

// The same as futurefill_run for inputs as they lie in memory. y: (B, D, n), rows of y_stride
// values. With feedback u has one token, the first, and y are the tokens after it. Where something
// is wrong nothing has changed since futurefill_begin_block.
extern "C" __attribute__((visibility("default"))) const char* futurefill_block(
    futurefill::BoundStream* stream, const futurefill::Block* u, const futurefill::Block* pre,
    const futurefill::Block* post, void* y, int64_t y_stride, int64_t n,
    futurefill::Feedback feedback) noexcept;

// Bytes that are kept to take tokens back.
extern "C" __attribute__((visibility("default"))) int64_t
futurefill_kept_bytes(const futurefill::BoundStream* stream) noexcept;

// Takes what was begun last back, if rows are where it left them; else returns false.
extern "C" __attribute__((visibility("default"))) bool futurefill_take_back(
    futurefill::BoundStream* stream) noexcept;
