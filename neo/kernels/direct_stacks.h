// Kernels that take stacks of tensors, called on the whole batch of a vmap at once: neo/functions/_stacks.py.
#pragma once
#include <ATen/functorch/BatchedTensorImpl.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>

#include "direct_tensors.h"

namespace {

// What a tensor is a slice of, in all vmaps around; itself where it is none.
const Tensor& behind_slices(const Tensor& tensor) {
  const Tensor* whole = &tensor;
  while (const auto* slice = whole->defined() ? at::functorch::maybeGetBatchedImpl(*whole) : nullptr)
    whole = &slice->value();
  return *whole;
}

// What the slices among the arguments are slices of.
struct Slices {
  int64_t level = -1, size = 0;
  bool one = true;  // whether they are of one vmap alone, and all else are plain tensors

  void look(PyObject* value) {
    if (PyTuple_CheckExact(value)) {
      for (Py_ssize_t i = 0; one && i < PyTuple_GET_SIZE(value); ++i) look(PyTuple_GET_ITEM(value, i));
    } else if (THPVariable_Check(value)) {
      const Tensor& tensor = THPVariable_Unpack(value);
      const auto* slice = tensor.defined() ? at::functorch::maybeGetBatchedImpl(tensor) : nullptr;
      if (slice == nullptr) {
        one = plain(value) != nullptr;
      } else {
        one = THPVariable_CheckExact(value) && slice->value().key_set() == dense && !slice->value().requires_grad() &&
            (level < 0 || level == slice->level());
        level = slice->level();
        if (one) size = slice->value().size(slice->bdim());
      }
    }
  }

  // With the examples first in each tensor; a new reference.
  PyObject* whole(PyObject* value) const {
    if (PyTuple_CheckExact(value)) {
      PyObject* out = PyTuple_New(PyTuple_GET_SIZE(value));
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i)
        PyTuple_SET_ITEM(out, i, whole(PyTuple_GET_ITEM(value, i)));
      return out;
    }
    if (!THPVariable_Check(value)) return Py_NewRef(value);
    const Tensor& tensor = THPVariable_Unpack(value);
    at::AutoDispatchBelowADInplaceOrView below;
    if (const auto* slice = at::functorch::maybeGetBatchedImpl(tensor))
      return THPVariable_Wrap(slice->bdim() == 0 ? slice->value() : slice->value().movedim(slice->bdim(), 0));
    return THPVariable_Wrap(repeated(tensor));
  }

  // tensor.expand(size, *tensor.shape), without the way there
  Tensor repeated(const Tensor& tensor) const {
    c10::SmallVector<int64_t, 5> shape{size}, strides{0};
    shape.append(tensor.sizes().begin(), tensor.sizes().end());
    strides.append(tensor.strides().begin(), tensor.strides().end());
    auto impl = tensor.unsafeGetTensorImpl()->shallow_copy_and_detach(c10::VariableVersion(0), true);
    impl->set_sizes_and_strides(shape, strides);
    return Tensor(std::move(impl));
  }

  // whole() undone, of what a kernel gives; takes the reference, gives a new one.
  PyObject* sliced(PyObject* value) const {
    PyObject* out = nullptr;
    if (THPVariable_Check(value)) {
      out = THPVariable_Wrap(at::functorch::makeBatched(THPVariable_Unpack(value), 0, level));
    } else if (PyTuple_CheckExact(value) || PyList_CheckExact(value)) {
      const Py_ssize_t count = PySequence_Fast_GET_SIZE(value);
      out = PyTuple_New(count);
      for (Py_ssize_t i = 0; i < count; ++i)
        PyTuple_SET_ITEM(out, i, sliced(Py_NewRef(PySequence_Fast_GET_ITEM(value, i))));
    } else {
      return value;
    }
    Py_DECREF(value);
    return out;
  }
};

// ones_like(x): the cotangent that a session begins with. Of a scalar inside vmap, which is one for all examples, a scalar.
PyObject* ones_like(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 1 || !THPVariable_CheckExact(arguments[0])) return elsewhere(fallback, arguments, count);
  const Tensor& x = THPVariable_Unpack(arguments[0]);
  const auto* slice = x.defined() ? at::functorch::maybeGetBatchedImpl(x) : nullptr;
  const bool scalar = slice != nullptr && x.dim() == 0 && slice->value().key_set() == dense &&
      (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble) && !at::impl::torch_function_mode_enabled();
  if (!scalar && (plain(arguments[0]) == nullptr || !few(x) || !unwatched())) return elsewhere(fallback, arguments, count);
  return filled(x.sizes(), x.scalar_type(), []<class T>(T* entry, int64_t n) { std::fill(entry, entry + n, T(1)); });
  END_HANDLE_TH_ERRORS
}

// on_stacks(call, stacked, *arguments)
PyObject* on_stacks(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count < 2) return PyErr_Format(PyExc_TypeError, "on_stacks: expected call, stacked and arguments");
  Slices slices;
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  const bool transformed = included.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
  for (Py_ssize_t i = 2; transformed && slices.one && i < count; ++i) slices.look(arguments[i]);
  if (!transformed || !slices.one || slices.level < 0)
    return PyObject_Vectorcall(arguments[0], arguments + 2, count - 2, nullptr);
  PyObject* out = nullptr;
  {
    const c10::impl::ForceDispatchKeyGuard plainly(plain_keys(), c10::default_excluded_set);
    PyObject* given = PyTuple_New(count - 2);
    for (Py_ssize_t i = 2; i < count; ++i) PyTuple_SET_ITEM(given, i - 2, slices.whole(arguments[i]));
    out = PyObject_CallObject(arguments[1], given);
    Py_DECREF(given);
  }
  return out == nullptr ? nullptr : slices.sliced(out);
  END_HANDLE_TH_ERRORS
}

}  // namespace
