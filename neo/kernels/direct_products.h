// Products of matrices: on Neo's kernels (matrix_product.h) where use_matrix has named them, shared between torch's
// threads; on torch's elsewhere.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/t.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <new>

#include "direct_memory.h"
#include "direct_tensors.h"
#include "matrix.h"

namespace {

const NeoMatrix* matrix = nullptr;

constexpr int64_t SHARE = 1 << 17;  // products that are worth another thread: a few microseconds of them
constexpr int64_t ROWS = 6, COLUMNS = 64;  // as the kernels take them at a time

// A matrix as the product reads it: transposed, or as it is.
struct Side {
  const Tensor& tensor;
  bool turned;
  int64_t rows() const { return tensor.size(turned ? 1 : 0); }
  int64_t columns() const { return tensor.size(turned ? 0 : 1); }
  int64_t row() const { return tensor.stride(turned ? 1 : 0); }
  int64_t column() const { return tensor.stride(turned ? 0 : 1); }
  bool dense() const { return row() == 1 || column() == 1; }
};

bool takes(const Side& a, const Side& b, const Tensor* bias) {
  const Tensor &x = a.tensor, &y = b.tensor;
  const auto dtype = x.scalar_type();
  if (matrix == nullptr || x.dim() != 2 || y.dim() != 2) return false;
  if ((dtype != at::kFloat && dtype != at::kDouble) || y.scalar_type() != dtype || a.columns() != b.rows()) return false;
  if (a.rows() < 2 || b.columns() < 2 || a.columns() < 1) return false;  // a vector: torch has kernels for it
  if (!a.dense() && !b.dense()) return false;
  return bias == nullptr ||
      (bias->dim() == 1 && bias->scalar_type() == dtype && bias->size(0) == b.columns() && bias->is_contiguous());
}

// The product in parts: of its rows, or of its columns where there are few rows.
void compute(const NeoProduct& whole, NeoProductRows rows_of, int64_t bytes) {
  const int64_t entry = whole.columns * whole.terms;
  const auto run = [&](const NeoProduct& part, int64_t first, int64_t last) {
    if (rows_of(&part, first, last) != 0) throw std::bad_alloc();
  };
  const int64_t blocks = (whole.rows + ROWS - 1) / ROWS;
  if (whole.rows * entry < 2 * SHARE || at::get_num_threads() == 1) {
    run(whole, 0, whole.rows);
  } else if (blocks >= 4 * at::get_num_threads()) {
    at::parallel_for(0, blocks, std::max<int64_t>(1, SHARE / (ROWS * entry)), [&](int64_t first, int64_t last) {
      run(whole, first * ROWS, std::min(last * ROWS, whole.rows));
    });
  } else {
    const int64_t panels = (whole.columns + COLUMNS - 1) / COLUMNS, panel = COLUMNS * whole.rows * whole.terms;
    at::parallel_for(0, panels, std::max<int64_t>(1, SHARE / panel), [&](int64_t first, int64_t last) {
      NeoProduct part = whole;
      const auto moved = [&](const void* start, int64_t stride) {
        return start == nullptr ? nullptr : static_cast<const char*>(start) + first * COLUMNS * stride * bytes;
      };
      part.right = moved(whole.right, whole.right_column);
      part.bias = moved(whole.bias, whole.bias_column);
      part.out = const_cast<char*>(moved(whole.out, whole.out_column));
      part.columns = std::min(last * COLUMNS, whole.columns) - first * COLUMNS;
      run(part, 0, part.rows);
    });
  }
}

// a b + bias, of sides that the kernels take. They spread the left side's entries over vectors of the right side's
// columns; where those do not lie side by side, the product may be computed turned round, bᵀ aᵀ.
PyObject* own(const Side& a, const Side& b, const Tensor* bias) {
  const int64_t m = a.rows(), n = b.columns(), k = a.columns();
  const Tensor &x = a.tensor, &y = b.tensor;
  Tensor out = fresh({m, n}, x.scalar_type());
  const void* added = bias == nullptr ? nullptr : bias->const_data_ptr();
  NeoProduct whole;
  if (b.column() != 1 && a.dense() && (a.row() == 1 || m < n || !b.dense())) {
    whole = {y.const_data_ptr(), b.column(), b.row(), x.const_data_ptr(), a.column(), a.row(), added, 1, 0,
             out.data_ptr(), 1, n, n, m, k};
  } else {
    whole = {x.const_data_ptr(), a.row(), a.column(), y.const_data_ptr(), b.row(), b.column(), added, 0, 1,
             out.data_ptr(), n, 1, m, n, k};
  }
  const bool wide = x.scalar_type() == at::kDouble;
  const auto go = [&] { compute(whole, wide ? matrix->of_double : matrix->of_float, wide ? 8 : 4); };
  if (m * n * k < SHARE) {
    go();
  } else {
    pybind11::gil_scoped_release others;
    go();
  }
  return THPVariable_Wrap(std::move(out));
}

// product(a, b, transpose_a, transpose_b), of matrices
PyObject* product(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* a = count == 4 ? plain(arguments[0]) : nullptr;
  const Tensor* b = a != nullptr ? plain(arguments[1]) : nullptr;
  if (b == nullptr || !PyBool_Check(arguments[2]) || !PyBool_Check(arguments[3]) || !unwatched())
    return elsewhere(fallback, arguments, count);
  const Side left{*a, arguments[2] == Py_True}, right{*b, arguments[3] == Py_True};
  if (takes(left, right, nullptr)) return own(left, right, nullptr);
  const Tensor& larger = a->numel() > b->numel() ? *a : *b;
  return kernel(larger, [&] { return at::mm(left.turned ? a->t() : *a, right.turned ? b->t() : *b); });
  END_HANDLE_TH_ERRORS
}

// affine(x, weight, bias) = x weightᵀ + bias
PyObject* affine(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 3 ? plain(arguments[0]) : nullptr;
  const Tensor* weight = x != nullptr ? plain(arguments[1]) : nullptr;
  const Tensor* bias = weight != nullptr ? plain(arguments[2]) : nullptr;
  if (bias == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  const Side left{*x, false}, right{*weight, true};
  if (takes(left, right, bias)) return own(left, right, bias);
  const Tensor& larger = x->numel() > weight->numel() ? *x : *weight;
  return kernel(larger, [&] { return at::addmm(*bias, *x, weight->t()); });
  END_HANDLE_TH_ERRORS
}

PyObject* use_matrix(PyObject*, PyObject* capsule) {
  if (capsule == Py_None) {
    matrix = nullptr;
  } else {
    const void* found = PyCapsule_GetPointer(capsule, NEO_MATRIX);
    if (found == nullptr) return nullptr;
    matrix = static_cast<const NeoMatrix*>(found);
  }
  Py_RETURN_NONE;
}

}  // namespace
