// Kernels of the compiled peers, built for this machine by bench/peers/compiled.py.
//
// Rows are b * channels + d. A tile is kLanes channels next to each other.
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

namespace {

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// x = pole x + drive, returns sum weight x. Arrays (states, kLanes).
Vec real_tile(const float* poles, const float* weights, float* x, Vec drive, int64_t states) {
  constexpr int kUnrolled = 4;
  Vec total[kUnrolled] = {};
  auto state = [&](int64_t s, Vec& sum) {
    const int64_t at = s * kLanes;
    const Vec next = load(x + at) * load(poles + at) + drive;
    store(x + at, next);
    sum += load(weights + at) * next;
  };
  int64_t s = 0;
  for (; s + kUnrolled <= states; s += kUnrolled) {
    for (int i = 0; i < kUnrolled; ++i) state(s + i, total[i]);
  }
  for (; s < states; ++s) state(s, total[0]);
  return (total[0] + total[1]) + (total[2] + total[3]);
}

// The same for complex numbers, returns sum Re(weight x). Arrays (states, 2, kLanes).
Vec complex_tile(const float* poles, const float* weights, float* x, Vec drive, int64_t states) {
  constexpr int kUnrolled = 2;
  Vec total[kUnrolled] = {};
  auto state = [&](int64_t s, Vec& sum) {
    const int64_t re = s * 2 * kLanes, im = re + kLanes;
    const Vec a = load(x + re), b = load(x + im), p = load(poles + re), q = load(poles + im);
    const Vec next_re = a * p - b * q + drive, next_im = a * q + b * p;
    store(x + re, next_re);
    store(x + im, next_im);
    sum += load(weights + re) * next_re - load(weights + im) * next_im;
  };
  int64_t s = 0;
  for (; s + kUnrolled <= states; s += kUnrolled) {
    for (int i = 0; i < kUnrolled; ++i) state(s + i, total[i]);
  }
  for (; s < states; ++s) state(s, total[0]);
  return total[0] + total[1];
}

float dot_product(const float* a, const float* b, int64_t count) {
  constexpr int kUnrolled = 4;
  Vec total[kUnrolled] = {};
  int64_t i = 0;
  for (; i + kUnrolled * kLanes <= count; i += kUnrolled * kLanes) {
    for (int k = 0; k < kUnrolled; ++k) {
      total[k] += load(a + i + k * kLanes) * load(b + i + k * kLanes);
    }
  }
  for (; i + kLanes <= count; i += kLanes) total[0] += load(a + i) * load(b + i);
  float rest = 0;
  for (; i < count; ++i) rest += a[i] * b[i];
  return rest + sum((total[0] + total[1]) + (total[2] + total[3]));
}

}  // namespace

extern "C" {

int lanes() { return kLanes; }

struct Recurrence {
  const float *poles, *weights;  // (tiles, states, 1 or 2, kLanes)
  float* x;                      // (B, tiles, states, 1 or 2, kLanes)
  float* y;                      // (B, channels)
  int64_t batch, channels, states, is_complex, threads;
};

// One token of every row and channel; u (B, channels).
void recurrence_step(const Recurrence* r, const float* u) {
  const int64_t tiles = (r->channels + kLanes - 1) / kLanes;
  const int64_t size = r->states * (r->is_complex ? 2 : 1) * kLanes;
  const auto tile_step = r->is_complex ? complex_tile : real_tile;
  // rows inside: poles and weights of a tile stay in the first-level cache
#pragma omp parallel for if (r->threads > 1) num_threads(r->threads)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tile * kLanes;
    const size_t bytes = sizeof(float) * std::min<int64_t>(kLanes, r->channels - first);
    for (int64_t b = 0; b < r->batch; ++b) {
      float drive[kLanes] = {}, out[kLanes];
      std::memcpy(drive, u + b * r->channels + first, bytes);
      float* x = r->x + (b * tiles + tile) * size;
      store(out, tile_step(r->poles + tile * size, r->weights + tile * size, x, load(drive),
                           r->states));
      std::memcpy(r->y + b * r->channels + first, out, bytes);
    }
  }
}

struct Dot {
  float* u;              // (B, channels, u_stride): inputs so far
  const float* h;        // (channels, h_stride): the filter, oldest lag first
  const float* pending;  // (B, channels, pending_stride) or null: added to the sum
  float* y;              // (B, channels)
  int64_t batch, channels, u_stride, h_stride, pending_stride, threads;
};

// Stores the input of position t, then y = pending[at] + sum over the newest `count` inputs of
// input times tap; h_first is the tap of the oldest of them.
void dot_step(const Dot* r, const float* u, int64_t t, int64_t count, int64_t h_first, int64_t at) {
#pragma omp parallel for if (r->threads > 1) num_threads(r->threads)
  for (int64_t d = 0; d < r->channels; ++d) {
    const float* h = r->h + d * r->h_stride + h_first;
    for (int64_t b = 0; b < r->batch; ++b) {
      const int64_t row = b * r->channels + d;
      float* history = r->u + row * r->u_stride;
      history[t] = u[row];
      const float known = r->pending ? r->pending[row * r->pending_stride + at] : 0.0f;
      r->y[row] = known + dot_product(history + t + 1 - count, h, count);
    }
  }
}

}  // extern "C"
