// Many steps of a bound stream in one call.
#include <cstring>
#include <exception>
#include <string>

#include "bindings/bound_stream.h"
#include "bindings/due_fills.h"

namespace futurefill {
namespace {

// max(x, 0); NaN stays NaN
template <class T>
void rectify(T* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] = x[i] < T(0) ? T(0) : x[i];
}

// The same of 16-bit numbers: those with the sign, but NaN, become 0.
void rectify16(uint16_t* x, int64_t count, uint16_t infinity) {
  for (int64_t i = 0; i < count; ++i) {
    if (x[i] > 0x8000 && (x[i] & 0x7fff) <= infinity) x[i] = 0;
  }
}

void rectify(void* x, int64_t count, Scalar type) {
  switch (type) {
    case Scalar::kFloat32:
      return rectify(static_cast<float*>(x), count);
    case Scalar::kFloat64:
      return rectify(static_cast<double*>(x), count);
    case Scalar::kBFloat16:
      return rectify16(static_cast<uint16_t*>(x), count, 0x7f80);
    case Scalar::kFloat16:
      return rectify16(static_cast<uint16_t*>(x), count, 0x7c00);
  }
}

}  // namespace
}  // namespace futurefill

const char* futurefill_run(futurefill::BoundStream* stream, const void* u, const void* pre,
                           const void* post, void* y, int64_t n, bool rectified) noexcept {
  using namespace futurefill;
  const StepParams& a = stream->step;
  const int64_t values = stream->batch * a.channels;
  const int64_t width = a.io == Scalar::kFloat64 ? 8 : a.io == Scalar::kFloat32 ? 4 : 2;
  const auto at = [&](const void* x, int64_t t) {
    return x ? static_cast<const char*>(x) + t * values * width : nullptr;
  };
  for (int64_t t = 0; t < n; ++t) {
    void* out = static_cast<char*>(y) + t * values * width;
    const char* error =
        futurefill_step(stream, at(u, t), at(pre, t), at(post, t), out, nullptr, stream->batch, 0);
    if (error) return error;
    if (rectified) rectify(out, values, a.io);
  }
  return nullptr;
}

namespace futurefill {
namespace {

int64_t io_bytes(const BoundStream& s) {
  return s.step.io == Scalar::kFloat64 ? 8 : s.step.io == Scalar::kFloat32 ? 4 : 2;
}

// (B, D, n) of any strides, in elements -> (n, B, D), contiguous
template <class T>
void to_tokens(const Block& x, int64_t batch, int64_t channels, int64_t n, T* tokens) {
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t b = 0; b < batch; ++b) {
      const T* row = static_cast<const T*>(x.data) + t * x.strides[2] + b * x.strides[0];
      for (int64_t c = 0; c < channels; ++c) *tokens++ = row[c * x.strides[1]];
    }
  }
}

// (n, B, D), contiguous -> (B, D, n), rows of `stride` values
template <class T>
void from_tokens(const T* tokens, int64_t rows, int64_t n, T* y, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t t = 0; t < n; ++t) y[r * stride + t] = tokens[t * rows + r];
  }
}

// call(T()) with an integer as wide as the stream's inputs
template <class F>
void by_width(const BoundStream& s, const F& call) {
  switch (io_bytes(s)) {
    case 2:
      return call(uint16_t());
    case 4:
      return call(uint32_t());
    default:
      return call(uint64_t());
  }
}

// Of one row, whose due fills have run, everything that n steps change.
void save_row(const BoundStream& s, int64_t row, int64_t n, Before& before) {
  const FillParams& f = s.fills.params.fill;
  const int64_t width = f.state == Scalar::kFloat64 ? 8 : 4, slot = s.fills.lanes * width;
  const int64_t start = s.positions[row], end = start + n, base = s.step.block;
  const bool fires = s.fills.levels.count && (end - 1) / base * base > start;
  for (int64_t tile = 0; tile < f.tiles; ++tile) {
    const int64_t at = row * f.tiles + tile;
    before.add(s.undo.pending + at * s.undo.slots * slot, s.undo.slots * slot);
    if (f.open_slots) {
      char* open = static_cast<char*>(f.open_block) + at * f.open_slots * slot;
      before.add(open, f.open_slots * slot);
    }
    if (fires && s.fills.image_rows) {
      before.add(s.fills.images + at * s.fills.image_rows * slot, s.fills.image_rows * slot);
    }
    int64_t stop = end;
    for (int64_t l = 0; l < s.fills.levels.count; ++l) {
      const LevelRow& level = s.fills.levels.rows[l];
      const int64_t last = (end - 1) / level.block * level.block;  // its last firing before the end
      if (last <= start) break;                                    // larger blocks fire no earlier
      stop = std::max(stop, std::min(last + level.block, s.length));
      int64_t first = level.kept_offset, rows = level.kept_rows();
      if (rows && last - level.block <= start) {  // the only firing
        first +=
            (last / level.block - 1) % level.radix % (rows / level.transform) * level.transform;
        rows = level.transform;
      }
      if (!rows) continue;
      char* kept = static_cast<char*>(f.kept) + 2 * slot * (at * f.kept_rows + first);
      before.add(kept, 2 * slot * rows);
    }
    const int64_t in_ring = s.fills.lanes * bytes_of(f.stored);
    char* slots = static_cast<char*>(f.ring) + (at * f.slots + start) * in_ring;
    before.add(slots, (stop - start) * in_ring);
  }
}

void restore(BoundStream& s) {
  const char* values = s.before.values.data();
  for (const Before::Piece& piece : s.before.pieces) {
    std::memcpy(piece.place, values, piece.bytes);
    values += piece.bytes;
  }
  for (int64_t r = 0; r < s.batch; ++r) {
    s.positions[r] = s.fills.filled[r] = s.before.start[r];
    s.undo.token_at[r] = -1;
  }
  s.before.clear();
}

}  // namespace
}  // namespace futurefill

const char* futurefill_begin_block(futurefill::BoundStream* stream, int64_t n) noexcept {
  using namespace futurefill;
  thread_local std::string error;
  BoundStream& s = *stream;
  s.before.clear();
  try {
    thread_local std::vector<RowAt> at;
    collect_rows(nullptr, s.positions, s.batch, s.batch, s.length - n + 1, at);
    run_unfilled(s.fills, at);
    for (int64_t r = 0; r < s.batch; ++r) save_row(s, r, n, s.before);
    s.before.start.assign(s.positions, s.positions + s.batch);
    s.before.end = s.before.start;
    return nullptr;
  } catch (const std::exception& e) {
    s.before.clear();
    error = e.what();
    return error.c_str();
  }
}

const char* futurefill_block(futurefill::BoundStream* stream, const futurefill::Block* u,
                             const futurefill::Block* pre, const futurefill::Block* post, void* y,
                             int64_t y_stride, int64_t n, futurefill::Feedback feedback) noexcept {
  using namespace futurefill;
  thread_local std::string error;
  thread_local std::vector<char> memory;  // inputs, gates and outputs as tokens
  BoundStream& s = *stream;
  const char* wrong = nullptr;
  try {
    const bool feeds = feedback != Feedback::kNone;
    const int64_t channels = s.step.channels, rows = s.batch * channels, bytes = io_bytes(s) * rows;
    memory.resize((4 * n + 1) * bytes);
    char* const tokens = memory.data();
    char* const out = feeds ? tokens + bytes : tokens + n * bytes;
    char* const gates = tokens + (2 * n + 1) * bytes;
    by_width(s, [&](auto type) {
      using T = decltype(type);
      const auto tokens_of = [&](const Block& x, int64_t count, char* to) {
        to_tokens(x, s.batch, channels, count, reinterpret_cast<T*>(to));
      };
      tokens_of(*u, feeds ? 1 : n, tokens);
      if (pre) tokens_of(*pre, n, gates);
      if (post) tokens_of(*post, n, gates + n * bytes);
    });
    wrong =
        futurefill_run(stream, tokens, pre ? gates : nullptr, post ? gates + n * bytes : nullptr,
                       out, n, feedback == Feedback::kRectified);
    if (!wrong) {
      by_width(s, [&](auto type) {
        using T = decltype(type);
        from_tokens(reinterpret_cast<const T*>(out), rows, n, static_cast<T*>(y), y_stride);
      });
    }
  } catch (const std::exception& e) {
    error = e.what();
    wrong = error.c_str();
  }
  if (wrong) {
    restore(s);
  } else {
    for (int64_t& end : s.before.end) end += n;
  }
  return wrong;
}

int64_t futurefill_kept_bytes(const futurefill::BoundStream* stream) noexcept {
  return static_cast<int64_t>(stream->before.values.capacity());
}

bool futurefill_take_back(futurefill::BoundStream* stream) noexcept {
  using namespace futurefill;
  BoundStream& s = *stream;
  if (s.before.end.empty()) return false;
  const bool newest = std::equal(s.before.end.begin(), s.before.end.end(), s.positions);
  newest ? restore(s) : s.before.clear();
  return newest;
}
