// Tensors as the ops read them, and the checks of their shapes and dtypes. Stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "cpu/engine.h"

namespace futurefill {
namespace {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What the checks and the engine need to know of a tensor, read once.
struct View {
  const char* name;
  void* data;
  int64_t dim;
  const int64_t* sizes;
  const int64_t* strides;
  int32_t dtype;

  View(const char* name, const Tensor& t) : name(name) {
    AtenTensorHandle handle = t.get();
    int64_t* s;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle, &dim));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle, &s));
    sizes = s;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle, &s));
    strides = s;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle, &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(handle, &data));
  }
};

inline std::string shape_text(const View& v) {
  std::string text = "(";
  for (int64_t d = 0; d < v.dim; ++d) text += (d ? ", " : "") + std::to_string(v.sizes[d]);
  return text + ")";
}

inline void check_dim(const View& v, int64_t dim) {
  STD_TORCH_CHECK(v.dim == dim, "expected ", v.name, " with ", dim, " dimensions, got shape ",
                  shape_text(v));
}

inline void check_size(const View& v, int64_t d, int64_t size) {
  STD_TORCH_CHECK(v.sizes[d] == size, "expected ", v.name, " with size ", size, " in dimension ", d,
                  ", got shape ", shape_text(v));
}

inline void check_contiguous(const View& v) {
  int64_t stride = 1;
  for (int64_t d = v.dim - 1; d >= 0; --d) {
    if (v.sizes[d] == 0) return;
  }
  for (int64_t d = v.dim - 1; d >= 0; --d) {
    STD_TORCH_CHECK(v.sizes[d] <= 1 || v.strides[d] == stride, "expected ", v.name,
                    " to be contiguous");
    stride *= std::max<int64_t>(v.sizes[d], 1);  // as torch counts empty tensors
  }
}

inline void check_int64(const View& v) {
  STD_TORCH_CHECK(v.dtype == aoti_torch_dtype_int64(), "expected ", v.name, " of dtype int64");
}

inline Scalar scalar_of(const View& v) {
  if (v.dtype == aoti_torch_dtype_float32()) return Scalar::kFloat32;
  if (v.dtype == aoti_torch_dtype_bfloat16()) return Scalar::kBFloat16;
  if (v.dtype == aoti_torch_dtype_float16()) return Scalar::kFloat16;
  STD_TORCH_CHECK(v.dtype == aoti_torch_dtype_float64(), "expected ", v.name,
                  " of a floating point dtype");
  return Scalar::kFloat64;
}

inline int64_t bytes_of(Scalar type) {
  return type == Scalar::kFloat64 ? 8 : type == Scalar::kFloat32 ? 4 : 2;
}

// layers, B, tiles, slots, W, the dtype of ring and that of the rest of the state. open: (layers,
// B, tiles, T_0 or 0, W), the open block of a ring in 16 bits.
struct Ring {
  View view, open;
  int64_t layers, batch, tiles, slots, lanes;
  Scalar state, stored;

  Ring(const Tensor& t, const Tensor& open_block)
      : view("ring", t), open("open_block", open_block) {
    check_dim(view, 5);
    check_contiguous(view);
    layers = view.sizes[0], batch = view.sizes[1], tiles = view.sizes[2];
    slots = view.sizes[3], lanes = view.sizes[4];
    stored = scalar_of(view);
    state = stored == Scalar::kFloat64 ? Scalar::kFloat64 : Scalar::kFloat32;
    const Engine& e = engine();
    const int64_t wide = e.wide.lanes(state), narrow = e.narrow.lanes(state);
    STD_TORCH_CHECK(lanes == wide || lanes == narrow, "expected ring with ", wide, " or ", narrow,
                    " lanes (", e.name, "), got ", lanes);
    check_dim(open, 5);
    check_contiguous(open);
    check_dtype(open);
    for (int64_t d : {0, 1, 2, 4}) check_size(open, d, view.sizes[d]);
    if (stored == state) check_size(open, 3, 0);
  }

  bool narrow() const { return stored != state; }

  void check_dtype(const View& v) const {
    STD_TORCH_CHECK(scalar_of(v) == state, "expected ", v.name, " of dtype ",
                    state == Scalar::kFloat64 ? "float64" : "float32", " beside ring");
  }
};

// (layers, filter tiles, rows, ..., W or 1): returns channels per filter, 0 for a filter per lane
inline int64_t check_filters(const View& v, int64_t dim, const Ring& ring) {
  check_dim(v, dim);
  check_contiguous(v);
  ring.check_dtype(v);
  check_size(v, 0, ring.layers);
  const int64_t lanes = v.sizes[dim - 1], tiles = v.sizes[1];
  if (lanes == ring.lanes) {
    check_size(v, 1, ring.tiles);
    return 0;
  }
  check_size(v, dim - 1, 1);
  const int64_t channels = ring.tiles * ring.lanes;
  STD_TORCH_CHECK(tiles > 0 && channels % tiles == 0 && channels / tiles % ring.lanes == 0,
                  "expected ", v.name, " whose filters cover whole vectors of ", ring.lanes,
                  " channels, got ", tiles, " filters for ", channels, " channels");
  return channels / tiles;
}

}  // namespace
}  // namespace futurefill
