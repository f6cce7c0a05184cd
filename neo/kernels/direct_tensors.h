// What the functions of _direct.cpp have in common: which tensors they take, how results are made, who answers the rest.
#pragma once
#include <ATen/EmptyTensor.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>

#include "direct_recording.h"

namespace {

using at::Tensor;

constexpr int64_t FEW = 4096;          // entries up to which a loop on the spot beats the way to torch's vectors and threads
constexpr int64_t VECTOR = 16;         // entries of torch's vectors, at the most
constexpr int64_t LONG = 1 << 14;      // entries from which other Python threads may run meanwhile
constexpr int64_t EXACT = 1 << 24;     // integers up to here are float32 numbers

c10::DispatchKeySet dense;  // the keys of an ordinary CPU tensor; set once, at import

// A dense CPU tensor and nothing more: no subclass, no transform's wrapper, no autograd.
const Tensor* plain(PyObject* value) {
  if (!THPVariable_CheckExact(value)) return nullptr;
  const Tensor& tensor = THPVariable_Unpack(value);
  return tensor.defined() && tensor.key_set() == dense && !tensor.requires_grad() ? &tensor : nullptr;
}

// Nobody wants to see torch's calls in this thread: no mode, transform, autocast, inference mode or profiler.
bool unwatched() {
  const auto local = c10::impl::tls_local_dispatch_key_set();
  return local.included_ == c10::default_included_set && local.excluded_ == c10::default_excluded_set &&
      !at::impl::torch_function_mode_enabled() && !at::hasCallbacks();
}

bool few(const Tensor& x) {
  const auto dtype = x.scalar_type();
  return (dtype == at::kFloat || dtype == at::kDouble) && x.numel() <= FEW && x.is_contiguous();
}

bool alike(const Tensor& x, const Tensor& y) {
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() && y.is_contiguous();
}

template <class T>
const T* entries(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

// A new tensor, filled by fill(pointer to its entries, number of entries), whose pointer says the type of number.
template <class Fill>
PyObject* filled(at::IntArrayRef shape, at::ScalarType dtype, Fill fill) {
  Tensor out(at::detail::empty_cpu(shape, dtype));
  if (dtype == at::kFloat) {
    fill(static_cast<float*>(out.data_ptr()), out.numel());
  } else {
    fill(static_cast<double*>(out.data_ptr()), out.numel());
  }
  return THPVariable_Wrap(std::move(out));
}

template <class Fill>
PyObject* filled(const Tensor& x, Fill fill) {
  return filled(x.sizes(), x.scalar_type(), fill);
}

template <class Op>
PyObject* loop(const Tensor& x) {
  return filled(x, [&]<class T>(T* __restrict z, int64_t n) {
    const T* u = entries<T>(x);
    for (int64_t i = 0; i < n; ++i) z[i] = Op::of(u[i]);
  });
}

template <class Op>
PyObject* loop(const Tensor& x, const Tensor& y) {
  return filled(x, [&]<class T>(T* __restrict z, int64_t n) {
    const T *u = entries<T>(x), *v = entries<T>(y);
    for (int64_t i = 0; i < n; ++i) z[i] = Op::of(u[i], v[i]);
  });
}

template <class Op>
PyObject* loop(const Tensor& x, double number) {
  return filled(x, [&]<class T>(T* __restrict z, int64_t n) {
    const T *u = entries<T>(x), v = static_cast<T>(number);
    for (int64_t i = 0; i < n; ++i) z[i] = Op::of(u[i], v);
  });
}

// A kernel of torch's, called below autograd.
template <class Kernel>
PyObject* kernel(const Tensor& x, Kernel call) {
  Tensor out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    if (x.numel() < LONG) {
      out = call();
    } else {
      pybind11::gil_scoped_release others;
      out = call();
    }
  }
  return THPVariable_Wrap(std::move(out));
}

}  // namespace
