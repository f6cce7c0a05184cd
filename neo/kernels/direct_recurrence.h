// The gates of an LSTM's step, their gradient, and its own gradient: a loop each over a few numbers a state.
// neo/functions/recurrence.py has the formulas.
#pragma once
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>
#include <torch/csrc/Exceptions.h>

#include "direct_tensors.h"

namespace {

// A contiguous tensor of this dtype and shape (n, columns); null for another.
const Tensor* matrix_of(PyObject* value, at::ScalarType dtype, int64_t n, int64_t columns) {
  const Tensor* x = plain(value);
  return x != nullptr && x->dim() == 2 && x->size(0) == n && x->size(1) == columns && x->scalar_type() == dtype &&
          x->is_contiguous()
      ? x
      : nullptr;
}

template <class T>
T* start_of(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

template <class Fill>
void by_dtype(at::ScalarType dtype, Fill fill) {
  if (dtype == at::kFloat) {
    fill(float());
  } else {
    fill(double());
  }
}

// lstm_gates(a (n, 4 size), c (n, size)) → (h, c′, gates, τ)
PyObject* lstm_gates(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* c = count == 2 ? plain(arguments[1]) : nullptr;
  if (c == nullptr || c->dim() != 2 || (c->scalar_type() != at::kFloat && c->scalar_type() != at::kDouble) ||
      !c->is_contiguous() || !unwatched())
    return elsewhere(fallback, arguments, count);
  const int64_t n = c->size(0), size = c->size(1);
  const auto dtype = c->scalar_type();
  const Tensor* a = matrix_of(arguments[0], dtype, n, 4 * size);
  if (a == nullptr) return elsewhere(fallback, arguments, count);
  const at::AutoDispatchBelowADInplaceOrView below;
  Tensor gates = at::sigmoid(*a), g = at::tanh(a->slice(1, 2 * size, 3 * size)).contiguous();
  Tensor now(at::detail::empty_cpu({n, size}, dtype)), h(at::detail::empty_cpu({n, size}, dtype));
  by_dtype(dtype, [&]<class T>(T) {
    for (int64_t row = 0; row < n; ++row) {
      T* __restrict part = start_of<T>(gates) + 4 * size * row;
      T* __restrict to = start_of<T>(now) + size * row;
      const T *new_g = start_of<T>(g) + size * row, *from = entries<T>(*c) + size * row;
      for (int64_t k = 0; k < size; ++k) {
        part[2 * size + k] = new_g[k];
        to[k] = part[size + k] * from[k] + part[k] * new_g[k];
      }
    }
  });
  Tensor tau = at::tanh(now);
  by_dtype(dtype, [&]<class T>(T) {
    for (int64_t row = 0; row < n; ++row) {
      const T *o = start_of<T>(gates) + 4 * size * row + 3 * size, *t = start_of<T>(tau) + size * row;
      T* __restrict to = start_of<T>(h) + size * row;
      for (int64_t k = 0; k < size; ++k) to[k] = o[k] * t[k];
    }
  });
  return Py_BuildValue("(NNNN)", THPVariable_Wrap(std::move(h)), THPVariable_Wrap(std::move(now)),
                       THPVariable_Wrap(std::move(gates)), THPVariable_Wrap(std::move(tau)));
  END_HANDLE_TH_ERRORS
}

// What both gradients are given: (h̄, c̄′ or None, c, gates, τ).
struct Step {
  const Tensor *h_bar = nullptr, *c_bar = nullptr, *c = nullptr, *gates = nullptr, *tau = nullptr;
  int64_t n = 0, size = 0;
  at::ScalarType dtype = at::kFloat;

  bool read(PyObject* const* arguments) {
    c = plain(arguments[2]);
    if (c == nullptr || c->dim() != 2 || !c->is_contiguous()) return false;
    n = c->size(0);
    size = c->size(1);
    dtype = c->scalar_type();
    if (dtype != at::kFloat && dtype != at::kDouble) return false;
    h_bar = matrix_of(arguments[0], dtype, n, size);
    if (arguments[1] != Py_None && (c_bar = matrix_of(arguments[1], dtype, n, size)) == nullptr) return false;
    gates = matrix_of(arguments[3], dtype, n, 4 * size);
    tau = matrix_of(arguments[4], dtype, n, size);
    return h_bar != nullptr && gates != nullptr && tau != nullptr;
  }

  Tensor made(int64_t columns) const { return Tensor(at::detail::empty_cpu({n, columns}, dtype)); }
};

template <class T>
const T* row_of(const Tensor* x, int64_t row, int64_t columns) {
  return x == nullptr ? nullptr : entries<T>(*x) + row * columns;
}

// lstm_gradient(h̄, c̄′, c, gates, τ) → (ā, c̄)
PyObject* lstm_gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Step step;
  if (count != 5 || !unwatched() || !step.read(arguments)) return elsewhere(fallback, arguments, count);
  const int64_t size = step.size;
  Tensor a_bar = step.made(4 * size), c_out = step.made(size);
  by_dtype(step.dtype, [&]<class T>(T) {
    for (int64_t row = 0; row < step.n; ++row) {
      const T *i = row_of<T>(step.gates, row, 4 * size), *f = i + size, *g = f + size, *o = g + size;
      const T *c = row_of<T>(step.c, row, size), *tau = row_of<T>(step.tau, row, size);
      const T *h_bar = row_of<T>(step.h_bar, row, size), *c_bar = row_of<T>(step.c_bar, row, size);
      T* __restrict to = start_of<T>(a_bar) + 4 * size * row;
      T* __restrict of_c = start_of<T>(c_out) + size * row;
      for (int64_t k = 0; k < size; ++k) {
        const T d = h_bar[k] * o[k] * (1 - tau[k] * tau[k]) + (c_bar == nullptr ? T(0) : c_bar[k]);
        to[k] = d * g[k] * i[k] * (1 - i[k]);
        to[size + k] = d * c[k] * f[k] * (1 - f[k]);
        to[2 * size + k] = d * i[k] * (1 - g[k] * g[k]);
        to[3 * size + k] = h_bar[k] * tau[k] * o[k] * (1 - o[k]);
        of_c[k] = d * f[k];
      }
    }
  });
  return Py_BuildValue("(NN)", THPVariable_Wrap(std::move(a_bar)), THPVariable_Wrap(std::move(c_out)));
  END_HANDLE_TH_ERRORS
}

// lstm_double_backward(A (n, 4 size), C or None, h̄, c̄′, c, gates, τ) → the cotangents of h̄, c̄′, a and c
PyObject* lstm_double_backward(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Step step;
  if (count != 7 || !unwatched() || !step.read(arguments + 2)) return elsewhere(fallback, arguments, count);
  const int64_t size = step.size;
  const Tensor* A = matrix_of(arguments[0], step.dtype, step.n, 4 * size);
  const Tensor* C = arguments[1] == Py_None ? nullptr : matrix_of(arguments[1], step.dtype, step.n, size);
  if (A == nullptr || (C == nullptr && arguments[1] != Py_None)) return elsewhere(fallback, arguments, count);
  Tensor h_out = step.made(size), d_out = step.made(size), a_out = step.made(4 * size), c_out = step.made(size);
  by_dtype(step.dtype, [&]<class T>(T) {
    for (int64_t row = 0; row < step.n; ++row) {
      const T *pi = row_of<T>(step.gates, row, 4 * size), *pf = pi + size, *pg = pf + size, *po = pg + size;
      const T *pI = row_of<T>(A, row, 4 * size), *pF = pI + size, *pG = pF + size, *pO = pG + size;
      const T *pc = row_of<T>(step.c, row, size), *ptau = row_of<T>(step.tau, row, size);
      const T *ph = row_of<T>(step.h_bar, row, size), *pd = row_of<T>(step.c_bar, row, size);
      const T* pC = row_of<T>(C, row, size);
      T* __restrict to_h = start_of<T>(h_out) + size * row;
      T* __restrict to_d = start_of<T>(d_out) + size * row;
      T* __restrict to_a = start_of<T>(a_out) + 4 * size * row;
      T* __restrict to_c = start_of<T>(c_out) + size * row;
      for (int64_t k = 0; k < size; ++k) {
        const T i = pi[k], f = pf[k], g = pg[k], o = po[k], c = pc[k], tau = ptau[k], h_bar = ph[k];
        const T I = pI[k], F = pF[k], G = pG[k], O = pO[k], of_c = pC == nullptr ? T(0) : pC[k];
        const T i1 = i * (1 - i), f1 = f * (1 - f), g1 = 1 - g * g, o1 = o * (1 - o), tau1 = 1 - tau * tau;
        const T d = h_bar * o * tau1 + (pd == nullptr ? T(0) : pd[k]);
        const T D = I * g * i1 + F * c * f1 + G * i * g1 + of_c * f;
        const T through = h_bar * tau1 * (O * o1 - 2 * tau * o * D);
        to_h[k] = D * o * tau1 + O * tau * o1;
        to_d[k] = D;
        to_c[k] = F * d * f1 + through * f;
        to_a[k] = i1 * (d * (I * g * (1 - 2 * i) + G * g1) + through * g);
        to_a[size + k] = f1 * (d * (F * c * (1 - 2 * f) + of_c) + through * c);
        to_a[2 * size + k] = g1 * (d * (I * i1 - 2 * g * i * G) + through * i);
        to_a[3 * size + k] = h_bar * o1 * (D * tau1 + O * tau * (1 - 2 * o));
      }
    }
  });
  return Py_BuildValue("(NNNN)", THPVariable_Wrap(std::move(h_out)), THPVariable_Wrap(std::move(d_out)),
                       THPVariable_Wrap(std::move(a_out)), THPVariable_Wrap(std::move(c_out)));
  END_HANDLE_TH_ERRORS
}

}  // namespace
