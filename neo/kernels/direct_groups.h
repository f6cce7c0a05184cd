// Convolutions in groups on Neo's kernels (groups.h) where use_groups has named them, shared between torch's threads; what
// they do not take goes to the fallback. neo/kernels/group_convolution.py says what each function is.
#pragma once
#include <ATen/Parallel.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <new>

#include "direct_memory.h"
#include "direct_products.h"
#include "direct_tensors.h"
#include "groups.h"

namespace {

const NeoGroupConvolution* groups_kernels = nullptr;

constexpr auto LAST = at::MemoryFormat::ChannelsLast;

// A tuple of this many ints, none of them so large that products of two or three overflow; false for anything else.
bool sizes_of(PyObject* tuple, Py_ssize_t count, long smallest, long* found) {
  constexpr long LARGEST = 1 << 20;
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != count) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* size = PyTuple_GET_ITEM(tuple, i);
    int overflow = 0;
    if (!PyLong_CheckExact(size)) return false;
    found[i] = PyLong_AsLongAndOverflow(size, &overflow);
    if (overflow || found[i] < smallest || found[i] > LARGEST) return false;
  }
  return true;
}

// A convolution that the kernels take: of images of `image`'s shape and a weight of `weight`'s, by the geometry of
// neo/functions/convolution.py; null where they do not.
const NeoGroupKernels* group_plan(const long* image, const long* weight, at::ScalarType dtype, PyObject* geometry,
                               NeoGroups* found) {
  long stride[2], padding[2], dilation[2], groups;
  if (groups_kernels == nullptr || (dtype != at::kFloat && dtype != at::kDouble)) return nullptr;
  if (!PyTuple_Check(geometry) || PyTuple_GET_SIZE(geometry) != 6 || PyTuple_GET_ITEM(geometry, 3) != Py_False) return nullptr;
  PyObject* last = PyTuple_GET_ITEM(geometry, 5);
  if (!sizes_of(PyTuple_GET_ITEM(geometry, 0), 2, 1, stride) || !sizes_of(PyTuple_GET_ITEM(geometry, 1), 2, 0, padding) ||
      !sizes_of(PyTuple_GET_ITEM(geometry, 2), 2, 1, dilation) || !PyLong_CheckExact(last))
    return nullptr;
  groups = PyLong_AsLong(last);
  if (groups == -1 && PyErr_Occurred()) PyErr_Clear();
  const NeoGroupKernels* kernels = dtype == at::kFloat ? &groups_kernels->of_float : &groups_kernels->of_double;
  const long channels = image[1], width = weight[1];
  if (groups < 2 || weight[0] != channels || width < 1 || groups > channels || width * groups != channels) return nullptr;
  if (channels < kernels->lanes || kernels->lanes % width != 0) return nullptr;
  *found = {};
  found->n = image[0], found->channels = channels, found->width = width;
  for (int i = 0; i < 2; ++i) {
    const long in = image[2 + i], taps = weight[2 + i];
    if (image[0] < 1 || in < 1 || taps < 1) return nullptr;
    const long space = in + 2 * padding[i] - dilation[i] * (taps - 1) - 1;
    if (space < 0) return nullptr;
    const long out = space / stride[i] + 1;  // apart: GCC 12's sanitizer divides by stride[0] in an assignment to either
    (i == 0 ? found->rows : found->columns) = {in, out, taps, stride[i], padding[i], dilation[i]};
  }
  return kernels;
}

// The sizes of a tensor of four dims; false for others.
bool four(const Tensor* x, long* sizes) {
  if (x == nullptr || x->dim() != 4) return false;
  std::copy(x->sizes().begin(), x->sizes().end(), sizes);
  return true;
}

bool is_output(const Tensor& g, const NeoGroups& p) {
  return g.dim() == 4 && g.size(0) == p.n && g.size(1) == p.channels && g.size(2) == p.rows.out && g.size(3) == p.columns.out;
}

Tensor channels_last(const Tensor& x) {
  const at::AutoDispatchBelowADInplaceOrView below;
  return x.contiguous(LAST);
}

void read_weight(const Tensor& weight, NeoGroups* p) {
  p->weight = weight.const_data_ptr();
  std::copy(weight.strides().begin(), weight.strides().end(), p->weight_strides);
}

// The output by `pieces` pieces of a kernel.
PyObject* in_pieces(const NeoGroups& p, Tensor& out, NeoGroupPieces kernel, long pieces) {
  const int64_t taps = p.rows.taps * p.columns.taps;
  const int64_t work = p.n * std::min(p.rows.out * p.columns.out, p.rows.in * p.columns.in) * p.channels * p.width * taps;
  const auto run = [&] {
    at::parallel_for(0, pieces, std::max<int64_t>(1, SHARE / (work / pieces + 1)), [&](int64_t first, int64_t last) {
      if (kernel(&p, first, last) != 0) throw std::bad_alloc();
    });
  };
  if (work < SHARE) {
    run();
  } else {
    pybind11::gil_scoped_release others;
    run();
  }
  return THPVariable_Wrap(std::move(out));
}

// group_convolution(x, weight, bias, geometry)
PyObject* group_convolution(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  long image[4], sizes[4];
  NeoGroups p;
  const Tensor* x = count == 4 && unwatched() ? plain(arguments[0]) : nullptr;
  const Tensor* weight = x != nullptr ? plain(arguments[1]) : nullptr;
  if (!four(x, image) || !four(weight, sizes) || x->scalar_type() != weight->scalar_type() || !x->is_contiguous(LAST))
    return elsewhere(fallback, arguments, count);
  const Tensor* bias = arguments[2] == Py_None ? nullptr : plain(arguments[2]);
  const auto dtype = x->scalar_type();
  if (arguments[2] != Py_None && (bias == nullptr || bias->dim() != 1 || bias->size(0) != sizes[0] ||
                                  bias->scalar_type() != dtype || !bias->is_contiguous()))
    return elsewhere(fallback, arguments, count);
  const NeoGroupKernels* kernels = group_plan(image, sizes, dtype, arguments[3], &p);
  if (kernels == nullptr) return elsewhere(fallback, arguments, count);
  Tensor out = fresh({p.n, p.channels, p.rows.out, p.columns.out}, dtype, LAST);
  p.x = x->const_data_ptr(), p.bias = bias == nullptr ? nullptr : bias->const_data_ptr(), p.out = out.data_ptr();
  read_weight(*weight, &p);
  return in_pieces(p, out, kernels->convolve, kernels->image_pieces(&p));
  END_HANDLE_TH_ERRORS
}

// group_input_gradient(g, weight, (shape, strides) of x, geometry)
PyObject* group_input_gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  long image[4], sizes[4];
  NeoGroups p;
  const Tensor* g = count == 4 && unwatched() ? plain(arguments[0]) : nullptr;
  const Tensor* weight = g != nullptr ? plain(arguments[1]) : nullptr;
  if (!four(weight, sizes) || g->scalar_type() != weight->scalar_type() || !PyTuple_Check(arguments[2]) ||
      PyTuple_GET_SIZE(arguments[2]) != 2 || !sizes_of(PyTuple_GET_ITEM(arguments[2], 0), 4, 1, image))
    return elsewhere(fallback, arguments, count);
  PyObject* stride = PyTuple_GET_ITEM(arguments[2], 1);
  if (!PyTuple_Check(stride) || PyTuple_GET_SIZE(stride) != 4 || PyLong_AsLong(PyTuple_GET_ITEM(stride, 1)) != 1) {
    PyErr_Clear();
    return elsewhere(fallback, arguments, count);
  }
  const auto dtype = g->scalar_type();
  const NeoGroupKernels* kernels = group_plan(image, sizes, dtype, arguments[3], &p);
  if (kernels == nullptr || !is_output(*g, p)) return elsewhere(fallback, arguments, count);
  const Tensor dense = channels_last(*g);
  Tensor out = fresh({image[0], image[1], image[2], image[3]}, dtype, LAST);
  p.g = dense.const_data_ptr(), p.out = out.data_ptr();
  read_weight(*weight, &p);
  return in_pieces(p, out, kernels->input_gradient, kernels->image_pieces(&p));
  END_HANDLE_TH_ERRORS
}

// group_weight_gradient(x, g, shape of the weight, geometry)
PyObject* group_weight_gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  long image[4], sizes[4];
  NeoGroups p;
  const Tensor* x = count == 4 && unwatched() ? plain(arguments[0]) : nullptr;
  const Tensor* g = x != nullptr ? plain(arguments[1]) : nullptr;
  if (g == nullptr || !four(x, image) || !sizes_of(arguments[2], 4, 1, sizes) || x->scalar_type() != g->scalar_type() ||
      !x->is_contiguous(LAST))
    return elsewhere(fallback, arguments, count);
  const auto dtype = x->scalar_type();
  const NeoGroupKernels* kernels = group_plan(image, sizes, dtype, arguments[3], &p);
  if (kernels == nullptr || !is_output(*g, p)) return elsewhere(fallback, arguments, count);
  const Tensor dense = channels_last(*g);
  Tensor out = fresh({sizes[0], sizes[1], sizes[2], sizes[3]}, dtype);
  p.x = x->const_data_ptr(), p.g = dense.const_data_ptr(), p.out = out.data_ptr();
  return in_pieces(p, out, kernels->weight_gradient, kernels->weight_pieces(&p));
  END_HANDLE_TH_ERRORS
}

PyObject* use_groups(PyObject*, PyObject* capsule) {
  if (capsule == Py_None) {
    groups_kernels = nullptr;
  } else {
    const void* found = PyCapsule_GetPointer(capsule, NEO_GROUPS);
    if (found == nullptr) return nullptr;
    groups_kernels = static_cast<const NeoGroupConvolution*>(found);
  }
  Py_RETURN_NONE;
}

}  // namespace
