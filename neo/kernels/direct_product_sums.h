// Sums of two products, of matrices and of stacks of them: what the tangent of a product is. The second is computed onto
// the first, of which each number is read as its sum is written, in place of a pass over two tensors that makes a third.
#pragma once
#include "direct_products.h"

namespace {

// The plan of a product that is added to what its output has.
NeoProduct added_to_output(NeoProduct plan) {
  plan.bias = plan.out;
  plan.bias_row = plan.out_row;
  plan.bias_column = plan.out_column;
  return plan;
}

bool take_both(const Side& a, const Side& b, const Side& c, const Side& d, const Tensor* bias) {
  return takes(a, b, bias) && takes(c, d, nullptr) && a.tensor.scalar_type() == c.tensor.scalar_type() &&
      a.rows() == c.rows() && b.columns() == d.columns() && a.tensor.dim() == c.tensor.dim();
}

// a b + c d + bias, of sides that the kernels take
PyObject* own_sum(
    const Side& a, const Side& b, const Side& c, const Side& d, const Tensor* bias, const Shape& shape) {
  const int64_t m = a.rows(), n = b.columns(), bytes = static_cast<int64_t>(a.tensor.element_size());
  Tensor out = fresh(shape, a.tensor.scalar_type());
  const NeoProductRows rows = rows_of(a.tensor);
  const auto go = [&] {
    const void* added = bias == nullptr ? nullptr : bias->const_data_ptr();
    compute(planned(a, b, a.tensor.const_data_ptr(), b.tensor.const_data_ptr(), added, out.data_ptr()), rows, bytes);
    const NeoProduct second =
        planned(c, d, c.tensor.const_data_ptr(), d.tensor.const_data_ptr(), nullptr, out.data_ptr());
    compute(added_to_output(second), rows, bytes);
  };
  if (m * n * (a.columns() + c.columns()) < SHARE) {
    go();
  } else {
    pybind11::gil_scoped_release others;
    go();
  }
  return THPVariable_Wrap(std::move(out));
}

// product_sum(a, b, c, d, bias or None, transpose_a, transpose_b), as of product; the flags are of c and d too
PyObject* product_sum(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* given[4] = {};
  Tensor x[4];
  for (int i = 0; i < 4; ++i) {
    given[i] = count == 7 ? plain(arguments[i]) : nullptr;
    if (given[i] == nullptr || !has_rows(*given[i])) return elsewhere(fallback, arguments, count);
    x[i] = all_rows(*given[i]);
  }
  const bool biased = arguments[4] != Py_None;
  const Tensor* bias = biased ? plain(arguments[4]) : nullptr;
  if ((biased && bias == nullptr) || !PyBool_Check(arguments[5]) || !PyBool_Check(arguments[6]) || !unwatched())
    return elsewhere(fallback, arguments, count);
  const bool first = arguments[5] == Py_True, second = arguments[6] == Py_True;
  const Side a{x[0], first}, b{x[1], second}, c{x[2], first}, d{x[3], second};
  if (!take_both(a, b, c, d, bias)) return elsewhere(fallback, arguments, count);
  return own_sum(a, b, c, d, bias, shape_of_product(*given[0], first, a.rows(), b.columns()));
  END_HANDLE_TH_ERRORS
}

// batch_product_sum(a, b, c, d), of stacks of matrices of one shape
PyObject* batch_product_sum(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x[4] = {};
  for (int i = 0; i < 4; ++i) {
    x[i] = count == 4 ? plain(arguments[i]) : nullptr;
    if (x[i] == nullptr || x[i]->dim() < 3 || x[i]->numel() == 0) return elsewhere(fallback, arguments, count);
  }
  const Side a{*x[0], false}, b{*x[1], false}, c{*x[2], false}, d{*x[3], false};
  const int64_t leading = x[0]->dim() - 2;
  if (!unwatched() || !take_both(a, b, c, d, nullptr) || x[0]->sizes().slice(0, leading) != x[2]->sizes().slice(0, leading))
    return elsewhere(fallback, arguments, count);
  const int64_t m = a.rows(), n = b.columns(), work = m * n * (a.columns() + c.columns());
  auto shape = x[0]->sizes().vec();
  shape.back() = n;
  Tensor out = fresh(shape, x[0]->scalar_type());
  const int64_t stack = out.numel() / (m * n), bytes = m * n * static_cast<int64_t>(x[0]->element_size());
  char* const start = static_cast<char*>(out.data_ptr());
  const NeoProductRows rows = rows_of(*x[0]);
  const auto go = [&] {
    at::parallel_for(0, stack, std::max<int64_t>(1, SHARE / work), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        char* const place = start + i * bytes;
        const NeoProduct one = planned(a, b, start_of(*x[0], i), start_of(*x[1], i), nullptr, place);
        const NeoProduct other =
            added_to_output(planned(c, d, start_of(*x[2], i), start_of(*x[3], i), nullptr, place));
        if (rows(&one, 0, one.rows) != 0 || rows(&other, 0, other.rows) != 0) throw std::bad_alloc();
      }
    });
  };
  if (stack * work < SHARE) {
    go();
  } else {
    pybind11::gil_scoped_release others;
    go();
  }
  return THPVariable_Wrap(std::move(out));
  END_HANDLE_TH_ERRORS
}

}  // namespace
