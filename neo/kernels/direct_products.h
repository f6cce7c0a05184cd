// Products of matrices and of stacks of them: on Neo's kernels (matrix_product.h) where use_matrix has named them, shared
// between torch's threads; on torch's elsewhere.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
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

// A matrix, or each one of a stack, as the product reads it: transposed, or as it is.
struct Side {
  const Tensor& tensor;
  bool turned;
  int64_t rows() const { return tensor.size(turned ? -1 : -2); }
  int64_t columns() const { return tensor.size(turned ? -2 : -1); }
  int64_t row() const { return tensor.stride(turned ? -1 : -2); }
  int64_t column() const { return tensor.stride(turned ? -2 : -1); }
  bool dense() const { return row() == 1 || column() == 1; }
};

// A tensor (.., n) as the matrix of all its rows, without a copy: not every one lies so.
bool has_rows(const Tensor& x) { return x.dim() == 2 || (x.dim() > 2 && x.numel() > 0 && x.is_contiguous()); }

Tensor all_rows(const Tensor& x) {
  if (x.dim() == 2) return x;
  const int64_t n = x.size(-1);
  auto impl = x.unsafeGetTensorImpl()->shallow_copy_and_detach(c10::VariableVersion(0), true);
  const int64_t sizes[] = {x.numel() / n, n}, strides[] = {n, 1};
  impl->set_sizes_and_strides(at::IntArrayRef(sizes), at::IntArrayRef(strides));
  return Tensor(std::move(impl));
}

// The shape of a product, whose rows are those of x unless x is transposed.
using Shape = c10::SmallVector<int64_t, 5>;
Shape shape_of_product(const Tensor& x, bool transposed, int64_t rows, int64_t columns) {
  if (transposed || x.dim() == 2) return {rows, columns};
  Shape shape(x.sizes().begin(), x.sizes().end());
  shape.back() = columns;
  return shape;
}

bool takes(const Side& a, const Side& b, const Tensor* bias) {
  const Tensor &x = a.tensor, &y = b.tensor;
  const auto dtype = x.scalar_type();
  if (matrix == nullptr || x.dim() < 2 || x.dim() != y.dim() || x.sizes().slice(0, x.dim() - 2) != y.sizes().slice(0, y.dim() - 2))
    return false;
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

// x y + added, of sides that the kernels take, where x, y and the output begin. The kernels spread the left side's
// entries over vectors of the right side's columns; where those do not lie side by side, the product may be computed
// turned round, yᵀ xᵀ.
NeoProduct planned(const Side& a, const Side& b, const void* x, const void* y, const void* added, void* out) {
  const int64_t m = a.rows(), n = b.columns(), k = a.columns();
  if (b.column() != 1 && a.dense() && (a.row() == 1 || !b.dense()))
    return {y, b.column(), b.row(), x, a.column(), a.row(), added, 1, 0, out, 1, n, n, m, k};
  return {x, a.row(), a.column(), y, b.row(), b.column(), added, 0, 1, out, n, 1, m, n, k};
}

NeoProductRows rows_of(const Tensor& x) { return x.scalar_type() == at::kDouble ? matrix->of_double : matrix->of_float; }

// a b + bias, of sides that the kernels take
PyObject* own(const Side& a, const Side& b, const Tensor* bias, const Shape& shape) {
  const int64_t m = a.rows(), n = b.columns(), k = a.columns();
  const Tensor &x = a.tensor, &y = b.tensor;
  Tensor out = fresh(shape, x.scalar_type());
  const void* added = bias == nullptr ? nullptr : bias->const_data_ptr();
  const NeoProduct whole = planned(a, b, x.const_data_ptr(), y.const_data_ptr(), added, out.data_ptr());
  const auto go = [&] { compute(whole, rows_of(x), static_cast<int64_t>(x.element_size())); };
  if (m * n * k < SHARE) {
    go();
  } else {
    pybind11::gil_scoped_release others;
    go();
  }
  return THPVariable_Wrap(std::move(out));
}

// product(a, b, transpose_a, transpose_b), of the matrices of all rows; with a's leading dims unless it is transposed
PyObject* product(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* a = count == 4 ? plain(arguments[0]) : nullptr;
  const Tensor* b = a != nullptr ? plain(arguments[1]) : nullptr;
  if (b == nullptr || !PyBool_Check(arguments[2]) || !PyBool_Check(arguments[3]) || !unwatched() || !has_rows(*a) ||
      !has_rows(*b))
    return elsewhere(fallback, arguments, count);
  const Tensor x = all_rows(*a), y = all_rows(*b);
  const Side left{x, arguments[2] == Py_True}, right{y, arguments[3] == Py_True};
  const Shape shape = shape_of_product(*a, left.turned, left.rows(), right.columns());
  if (takes(left, right, nullptr)) return own(left, right, nullptr, shape);
  return kernel(x.numel() > y.numel() ? x : y, [&] {
    const Tensor out = at::mm(left.turned ? x.t() : x, right.turned ? y.t() : y);
    return shape.size() == 2 ? out : at::_unsafe_view(out, shape);
  });
  END_HANDLE_TH_ERRORS
}

// affine(x, weight, bias) = x weightᵀ + bias, of all rows of x
PyObject* affine(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* given = count == 3 ? plain(arguments[0]) : nullptr;
  const Tensor* weight = given != nullptr ? plain(arguments[1]) : nullptr;
  const Tensor* bias = weight != nullptr ? plain(arguments[2]) : nullptr;
  if (bias == nullptr || !unwatched() || !has_rows(*given) || weight->dim() != 2)
    return elsewhere(fallback, arguments, count);
  const Tensor x = all_rows(*given);
  const Side left{x, false}, right{*weight, true};
  const Shape shape = shape_of_product(*given, false, left.rows(), right.columns());
  if (takes(left, right, bias)) return own(left, right, bias, shape);
  return kernel(x.numel() > weight->numel() ? x : *weight, [&] {
    const Tensor out = at::addmm(*bias, x, weight->t());
    return shape.size() == 2 ? out : at::_unsafe_view(out, shape);
  });
  END_HANDLE_TH_ERRORS
}

// Where the i-th matrix of a stack begins.
const void* start_of(const Tensor& stack, int64_t i) {
  int64_t place = 0;
  for (int64_t d = stack.dim() - 3; d >= 0; --d) {
    place += i % stack.size(d) * stack.stride(d);
    i /= stack.size(d);
  }
  return static_cast<const char*>(stack.const_data_ptr()) + place * static_cast<int64_t>(stack.element_size());
}

// Stacks of matrices, which are read where they lie: torch copies those of heads that stand side by side in memory.
PyObject* own_stack(const Side& a, const Side& b) {
  const Tensor &x = a.tensor, &y = b.tensor;
  const int64_t m = a.rows(), n = b.columns(), work = m * n * a.columns();
  auto shape = x.sizes().vec();
  shape.back() = n;
  Tensor out = fresh(shape, x.scalar_type());
  const int64_t count = out.numel() / (m * n), bytes = m * n * static_cast<int64_t>(x.element_size());
  char* const first = static_cast<char*>(out.data_ptr());
  const NeoProductRows rows = rows_of(x);
  const auto go = [&] {
    at::parallel_for(0, count, std::max<int64_t>(1, SHARE / work), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const NeoProduct one = planned(a, b, start_of(x, i), start_of(y, i), nullptr, first + i * bytes);
        if (rows(&one, 0, one.rows) != 0) throw std::bad_alloc();
      }
    });
  };
  if (count * work < SHARE) {
    go();
  } else {
    pybind11::gil_scoped_release others;
    go();
  }
  return THPVariable_Wrap(std::move(out));
}

// batch_product(a, b), of stacks of matrices of one shape; leading dims that broadcast are torch's
PyObject* batch_product(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* a = count == 2 ? plain(arguments[0]) : nullptr;
  const Tensor* b = a != nullptr ? plain(arguments[1]) : nullptr;
  if (b == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  const Side left{*a, false}, right{*b, false};
  if (a->dim() < 3 || a->numel() == 0 || !takes(left, right, nullptr)) return elsewhere(fallback, arguments, count);
  return own_stack(left, right);
  END_HANDLE_TH_ERRORS
}

// x y + bias, of matrices or of stacks of them with the same leading dims, bias (.., columns) or null: on Neo's kernels,
// vectors among them where they are short (torch's way to its own takes longer); else on torch's.
Tensor times(const Side& a, const Side& b, const Tensor* bias) {
  constexpr int64_t SHORT = 1 << 13;
  const Tensor &x = a.tensor, &y = b.tensor;
  const int64_t m = a.rows(), n = b.columns(), k = a.columns(), work = m * n * k;
  const bool brief = matrix != nullptr && 0 < work && work <= SHORT && (a.dense() || b.dense());
  if ((!brief && !takes(a, b, nullptr)) || (bias != nullptr && bias->stride(-1) != 1)) {
    const Tensor left = a.turned ? x.mT() : x, right = b.turned ? y.mT() : y;
    if (x.dim() == 2) return bias == nullptr ? at::mm(left, right) : at::addmm(*bias, left, right);
    return bias == nullptr ? at::bmm(left, right) : at::baddbmm(bias->unsqueeze(-2), left, right);
  }
  auto shape = x.sizes().vec();
  shape.end()[-2] = m;
  shape.back() = n;
  if (x.dim() == 3 && x.size(0) > 1 && !a.turned && x.is_contiguous() && y.stride(0) == 0 && bias == nullptr) {
    // one right side for all: one product of all rows
    return times({x.flatten(0, 1), false}, {y.select(0, 0), b.turned}, nullptr).view(shape);
  }
  Tensor out = fresh(shape, x.scalar_type());
  const int64_t count = x.dim() == 2 ? 1 : x.size(0), bytes = static_cast<int64_t>(x.element_size());
  const NeoProductRows rows = rows_of(x);
  char* const first = static_cast<char*>(out.data_ptr());
  const auto one = [&](int64_t i) {
    const auto part = [&](const Tensor& stack) {
      const auto start = static_cast<const char*>(stack.const_data_ptr());
      return x.dim() == 2 ? start : start + i * stack.stride(0) * bytes;
    };
    return planned(a, b, part(x), part(y), bias == nullptr ? nullptr : part(*bias), first + i * m * n * bytes);
  };
  if (count == 1) {
    compute(one(0), rows, bytes);
  } else {
    at::parallel_for(0, count, std::max<int64_t>(1, SHARE / std::max<int64_t>(1, work)), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const NeoProduct whole = one(i);
        if (rows(&whole, 0, whole.rows) != 0) throw std::bad_alloc();
      }
    });
  }
  return out;
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
