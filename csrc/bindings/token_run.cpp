#include "bindings/token_run.h"

#include <algorithm>
#include <cstring>
#include <vector>

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

// How many tokens are taken from and brought to the caller's memory together: what they take stays
// in the core's cache, beside what the steps need.
int64_t together(int64_t bytes_of_a_token) {
  return std::clamp<int64_t>((1 << 17) / bytes_of_a_token, 4, 32);
}

// Channels of tokens (n, B, channels) that a thread has to itself: of what others write next to its
// own, its core's prefetching takes the lines away.
struct OwnTokens {
  int64_t batch, first, channels;  // the first one's number in the caller's tensors
  Scalar type;

  int64_t bytes() const { return batch * channels * bytes_of(type); }  // of a token

  // as a step of all channels takes them
  char* as_whole(char* own) const { return own - first * bytes_of(type); }

  // Tokens t .. t + n - 1 of the caller's.
  void take(const Block& x, int64_t t, int64_t n, char* own) const {
    by_width([&](auto value) { copy<decltype(value), false>(x, t, n, own); });
  }
  void bring(const Block& x, int64_t t, int64_t n, char* own) const {
    by_width([&](auto value) { copy<decltype(value), true>(x, t, n, own); });
  }

 private:
  // call(T()) with an integer as wide as the values
  template <class F>
  void by_width(const F& call) const {
    switch (bytes_of(type)) {
      case 2:
        return call(uint16_t());
      case 4:
        return call(uint32_t());
      default:
        return call(uint64_t());
    }
  }

  template <class T, bool kBring>
  void copy(const Block& x, int64_t t, int64_t n, char* own) const {
    const auto move = [](T* place, T* mine, int64_t count) {
      std::memcpy(kBring ? place : mine, kBring ? mine : place, count * sizeof(T));
    };
    T* const all = static_cast<T*>(const_cast<void*>(x.data)) + t * x.strides[2];
    T* const mine = reinterpret_cast<T*>(own);
    for (int64_t b = 0; b < batch; ++b) {
      T* const row = all + b * x.strides[0] + first * x.strides[1];
      if (x.strides[1] == 1) {
        for (int64_t i = 0; i < n; ++i) {
          move(row + i * x.strides[2], mine + (i * batch + b) * channels, channels);
        }
        continue;
      }
      for (int64_t c = 0; c < channels; ++c) {
        T *place = row + c * x.strides[1], *at = mine + b * channels + c;
        for (int64_t i = 0; i < n; ++i) {
          move(place + i * x.strides[2], at + i * batch * channels, 1);
        }
      }
    }
  }
};

// Steps of all rows one after the other, each behind the fills that are due: of some tiles, or with
// slack of all, whose steps several threads share.
struct Stepper {
  const FillState& fills;
  std::vector<RowAt> rows;
  int64_t tile_begin, tile_end;
  std::vector<RowAt> due;

  Stepper(const FillState& f, const std::vector<RowAt>& at, int64_t begin, int64_t end)
      : fills(f), rows(at), tile_begin(begin), tile_end(end) {
    for (const RowAt& row : rows) {
      if (fills.filled[row.state] != row.position) due.push_back(row);
    }
  }

  void step(StepParams& a) {
    a.rows = rows.data(), a.n_rows = static_cast<int64_t>(rows.size());
    if (fills.slack) {
      run_due_fills(fills, due);
      run_step_jobs(a, thread_count());
    } else {
      for_each_firing(fills, due, [&](const FillParams& f, const LevelRow& level) {
        save_images(fills, level, f, tile_begin, tile_end);
        kernels(a).future_fill(f, tile_begin, tile_end);
      });
      kernels(a).short_range_step(a, tile_begin, tile_end);
    }
    for (RowAt& row : rows) ++row.position;
    due = rows;
  }

 private:
  static const StreamKernels& kernels(const StepParams& a) {
    return engine().of_lanes(a.state, a.lanes);
  }
};

// The tokens' channels of some tiles: no others need them.
void run_tiles(StepParams a, const TokenRun& run, Stepper stepper) {
  thread_local std::vector<char> memory;  // nothing is allocated once it has grown
  const int64_t first = stepper.tile_begin * a.lanes;
  const OwnTokens own{static_cast<int64_t>(stepper.rows.size()), first,
                      std::min(stepper.tile_end * a.lanes, a.channels) - first, a.io};
  const bool feeds = run.feedback != Feedback::kNone;
  const int64_t token = own.bytes(), step = together(token), many = step * token;
  memory.resize(4 * many + token);
  char* const u = memory.data();
  char* const y = feeds ? u + token : u + many;
  char *const pre = u + 2 * many + token, *const post = pre + many;
  a.u_stride = a.y_stride = a.pre_stride = a.post_stride = own.channels;
  for (int64_t t = 0; t < run.n; t += step) {
    const int64_t n = std::min(step, run.n - t);
    if (!feeds) {
      own.take(run.u, t, n, u);
    } else if (t) {
      std::memcpy(u, u + many, token);  // the newest output
    } else {
      own.take(run.u, 0, 1, u);
    }
    if (run.pre) own.take(*run.pre, t, n, pre);
    if (run.post) own.take(*run.post, t, n, post);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = i * token;
      a.u = own.as_whole(u + at);
      a.y = own.as_whole(y + at);
      a.pre = run.pre ? own.as_whole(pre + at) : nullptr;
      a.post = run.post ? own.as_whole(post + at) : nullptr;
      stepper.step(a);
      if (run.feedback == Feedback::kRectified) rectify(y + at, token / bytes_of(a.io), a.io);
    }
    own.bring(run.y, t, n, y);
  }
}

// Values that n tokens of a tile work on, from a position on.
int64_t work_of_a_tile(const StepParams& step, const FillState& fills, int64_t position,
                       int64_t n) {
  int64_t values = n * (2 + step.block / 2);
  for (int64_t l = 0; l < fills.levels.count; ++l) {
    const int64_t block = fills.levels.rows[l].block, before = std::max<int64_t>(position - 1, 0);
    values += ((position + n - 1) / block - before / block) * block * 8;
  }
  return fills.params.fill.batch * step.lanes * values;
}

}  // namespace

void run_tokens(const StepParams& step, const FillState& fills, int64_t* positions,
                const TokenRun& run) {
  const int64_t batch = fills.params.fill.batch, n = run.n;
  std::vector<RowAt> rows;
  collect_rows(nullptr, positions, batch, batch, fills.params.fill.length - n + 1, rows);
  const auto tiles = [&](int64_t begin, int64_t end) {
    run_tiles(step, run, Stepper(fills, rows, begin, end));
  };
  if (fills.slack) {  // whose shares are of several tiles
    tiles(0, step.tiles);
  } else {
    run_tiles_apart(step.tiles, work_of_a_tile(step, fills, positions[0], n), thread_count(),
                    tiles);
  }
  for (const RowAt& row : rows) {
    positions[row.state] += n;
    fills.filled[row.state] = row.position + n - 1;
  }
}

}  // namespace futurefill
