// Which spectrum products the firing behind a position needs (Level.products in plan.py).
#pragma once

namespace futurefill::cuda {

struct Firing {
  int n;       // blocks finished
  int blocks;  // spectrum products, 0 where the level does not fire
  bool keep;   // whether the next firing reads block n - 1

  // shape: radix, n_spectra and extra of the level
  template <class Shape>
  __device__ __forceinline__ Firing(int n, const Shape& shape) : n(n) {
    const int start = unsigned(max(n - shape.extra, 0)) / unsigned(shape.radix) * shape.radix;
    const int next = start + (n + 1 - shape.extra == start + shape.radix ? shape.radix : 0);
    blocks = min(n - start, shape.n_spectra);
    keep = shape.n_spectra > 1 && next < n;
  }

  // of n_spectra - 1 slots, the one of block n - 1; 0 where nothing is kept
  __device__ __forceinline__ int newest(int n_spectra) const {
    return n_spectra > 1 ? unsigned(n - 1) % unsigned(n_spectra - 1) : 0;
  }
};

}  // namespace futurefill::cuda
