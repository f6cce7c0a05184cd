// Cross-entropy of a few rows, and its gradient.
#pragma once
#include <torch/csrc/Exceptions.h>

#include <cmath>

#include "direct_tensors.h"

namespace {

// Class indices of x's rows, each a class or to be ignored; null for what torch has to answer, to refuse, or to do in
// whole vectors of classes, which it does faster.
const int64_t* classes_of(const Tensor& x, const Tensor& target, int64_t ignored) {
  if (!few(x) || x.dim() != 2 || target.scalar_type() != at::kLong || target.dim() != 1 || !target.is_contiguous() ||
      target.size(0) != x.size(0) || x.numel() == 0 || (x.size(1) > VECTOR && x.numel() > FEW / VECTOR))
    return nullptr;
  const auto* classes = static_cast<const int64_t*>(target.const_data_ptr());
  for (int64_t i = 0; i < x.size(0); ++i)
    if (classes[i] != ignored && (classes[i] < 0 || classes[i] >= x.size(1))) return nullptr;
  return classes;
}

enum Reduction { NONE = 0, MEAN = 1, SUM = 2 };

bool known(long reduction) { return reduction >= NONE && reduction <= SUM; }

// cross_entropy(x, target, reduction, ignored) → (loss, log softmax(x), rows that count)
PyObject* cross_entropy(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 4 ? plain(arguments[0]) : nullptr;
  const Tensor* given = x != nullptr ? plain(arguments[1]) : nullptr;
  if (given == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  const long reduction = PyLong_AsLong(arguments[2]), ignored = PyLong_AsLong(arguments[3]);
  if (PyErr_Occurred()) return nullptr;
  if (!known(reduction)) return elsewhere(fallback, arguments, count);
  const int64_t* target = classes_of(*x, *given, ignored);
  if (target == nullptr) return elsewhere(fallback, arguments, count);
  const int64_t rows = x->size(0), classes = x->size(1);
  Tensor loss = at::detail::empty_cpu(reduction == NONE ? at::IntArrayRef{rows} : at::IntArrayRef{}, x->scalar_type());
  Tensor counted = at::detail::empty_cpu({}, x->scalar_type());
  PyObject* log_p = filled(*x, [&]<class T>(T* out, int64_t) {
    const T* row = entries<T>(*x);
    T* losses = static_cast<T*>(loss.data_ptr());
    T total = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < rows; ++i, row += classes, out += classes) {
      T largest = row[0], sum = 0;
      for (int64_t j = 1; j < classes; ++j) largest = row[j] > largest || row[j] != row[j] ? row[j] : largest;
      for (int64_t j = 0; j < classes; ++j) sum += std::exp(row[j] - largest);
      const T log_sum = std::log(sum);
      for (int64_t j = 0; j < classes; ++j) out[j] = row[j] - largest - log_sum;
      const bool counts = target[i] != ignored;
      const T of_row = counts ? -out[target[i]] : T(0);
      kept += counts;
      total += of_row;
      if (reduction == NONE) losses[i] = of_row;
    }
    if (reduction != NONE) *losses = reduction == MEAN ? total / kept : total;
    *static_cast<T*>(counted.data_ptr()) = static_cast<T>(reduction == NONE ? 0 : kept);
  });
  return Py_BuildValue("(NNN)", THPVariable_Wrap(std::move(loss)), log_p, THPVariable_Wrap(std::move(counted)));
  END_HANDLE_TH_ERRORS
}

// What the gradient below and its own gradient are given: (g, log_p, target, count, reduction, ignored).
struct Rows {
  const Tensor *g = nullptr, *log_p = nullptr, *counted = nullptr;
  const int64_t* target = nullptr;
  long reduction = 0, ignored = 0;

  bool read(PyObject* const* arguments) {
    g = plain(arguments[0]);
    log_p = g != nullptr ? plain(arguments[1]) : nullptr;
    const Tensor* given = log_p != nullptr ? plain(arguments[2]) : nullptr;
    counted = given != nullptr ? plain(arguments[3]) : nullptr;
    if (counted == nullptr || !PyLong_Check(arguments[4]) || !PyLong_Check(arguments[5])) return false;
    reduction = PyLong_AsLong(arguments[4]);
    ignored = PyLong_AsLong(arguments[5]);
    if (PyErr_Occurred()) {  // a number as large as no class is; torch says what it makes of it
      PyErr_Clear();
      return false;
    }
    if (!known(reduction)) return false;
    target = classes_of(*log_p, *given, ignored);
    return target != nullptr && g->scalar_type() == log_p->scalar_type() &&
        counted->scalar_type() == g->scalar_type() && counted->numel() == 1 && g->is_contiguous() &&
        g->numel() == (reduction == NONE ? given->numel() : 1);
  }

  template <class T>
  T factor(int64_t row) const {  // m g
    if (target[row] == ignored) return 0;
    const T of_loss = entries<T>(*g)[reduction == NONE ? row : 0];
    return reduction == MEAN ? of_loss / *entries<T>(*counted) : of_loss;
  }
};

// cross_entropy_gradient(g, log_p, target, count, reduction, ignored) → m g (e^log_p − onehot(target)) of each row
PyObject* cross_entropy_gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Rows rows;
  if (count != 6 || !unwatched() || !rows.read(arguments)) return elsewhere(fallback, arguments, count);
  const int64_t classes = rows.log_p->size(1);
  return filled(*rows.log_p, [&]<class T>(T* out, int64_t n) {
    const T* row = entries<T>(*rows.log_p);
    for (int64_t i = 0; i < n / classes; ++i, row += classes, out += classes) {
      const T factor = rows.factor<T>(i);
      for (int64_t j = 0; j < classes; ++j) out[j] = factor * std::exp(row[j]);
      if (rows.target[i] != rows.ignored) out[rows.target[i]] -= factor;
    }
  });
  END_HANDLE_TH_ERRORS
}

// cross_entropy_double_backward(z, g, log_p, target, count, reduction, ignored) → m g p (z − Σ z p) of each row, p = e^log_p
PyObject* cross_entropy_double_backward(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Rows rows;
  const Tensor* z = count == 7 && unwatched() ? plain(arguments[0]) : nullptr;
  if (z == nullptr || !rows.read(arguments + 1) || !alike(*rows.log_p, *z)) return elsewhere(fallback, arguments, count);
  const int64_t classes = rows.log_p->size(1);
  return filled(*z, [&]<class T>(T* out, int64_t n) {
    const T *row = entries<T>(*rows.log_p), *bar = entries<T>(*z);
    for (int64_t i = 0; i < n / classes; ++i, row += classes, bar += classes, out += classes) {
      const T factor = rows.factor<T>(i);
      T mean = 0;
      for (int64_t j = 0; j < classes; ++j) mean += bar[j] * std::exp(row[j]);
      for (int64_t j = 0; j < classes; ++j) out[j] = factor * std::exp(row[j]) * (bar[j] - mean);
    }
  });
  END_HANDLE_TH_ERRORS
}

// squared_error(x, target, factor) = factor / 2 Σ (x − target)²
PyObject* squared_error(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 3 && PyFloat_CheckExact(arguments[2]) ? plain(arguments[0]) : nullptr;
  const Tensor* target = x != nullptr ? plain(arguments[1]) : nullptr;
  if (target == nullptr || !few(*x) || !alike(*x, *target) || !unwatched()) return elsewhere(fallback, arguments, count);
  const double factor = PyFloat_AS_DOUBLE(arguments[2]) / 2;
  return filled({}, x->scalar_type(), [&]<class T>(T* loss, int64_t) {
    const T *u = entries<T>(*x), *t = entries<T>(*target);
    double sum = 0;
    for (int64_t i = 0, n = x->numel(); i < n; ++i) {
      const T away = u[i] - t[i];
      sum += static_cast<double>(away) * away;
    }
    *loss = static_cast<T>(sum * factor);
  });
  END_HANDLE_TH_ERRORS
}

// scaled_difference(g, x, target or None, factor) = factor g (x − target), g a scalar
PyObject* scaled_difference(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* g = count == 4 && PyFloat_CheckExact(arguments[3]) ? plain(arguments[0]) : nullptr;
  const Tensor* x = g != nullptr ? plain(arguments[1]) : nullptr;
  const bool away = x != nullptr && arguments[2] != Py_None;
  const Tensor* target = away ? plain(arguments[2]) : x;
  if (target == nullptr || !few(*x) || !alike(*x, *target) || g->dim() != 0 || g->scalar_type() != x->scalar_type() ||
      !unwatched())
    return elsewhere(fallback, arguments, count);
  return filled(*x, [&]<class T>(T* __restrict z, int64_t n) {
    const T *u = entries<T>(*x), *t = entries<T>(*target);
    const T scale = *entries<T>(*g) * static_cast<T>(PyFloat_AS_DOUBLE(arguments[3]));
    if (away)
      for (int64_t i = 0; i < n; ++i) z[i] = (u[i] - t[i]) * scale;
    else
      for (int64_t i = 0; i < n; ++i) z[i] = u[i] * scale;
  });
  END_HANDLE_TH_ERRORS
}

}  // namespace
