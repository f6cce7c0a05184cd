// Passes over entries and rows on Neo's kernels (rows.h) where use_rows has named them, shared between torch's threads;
// what they do not take goes to the fallback. neo/kernels/rows.py says what each function is.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>

#include "direct_memory.h"
#include "direct_tensors.h"
#include "rows.h"

namespace {

const NeoRows* rows_kernels = nullptr;

constexpr int64_t ENTRIES = 1 << 14;  // that are worth another thread: some microseconds of exponentials

// A contiguous float32 tensor of this many entries; null for another.
const Tensor* floats(PyObject* value, int64_t count) {
  const Tensor* x = plain(value);
  return x != nullptr && x->scalar_type() == at::kFloat && x->numel() == count && x->is_contiguous() ? x : nullptr;
}

// A new tensor of x's shape, its entries from `first` to `last` by go(its entries, first, last).
template <class Go>
PyObject* by_entries(const Tensor& x, Go go) {
  Tensor out = fresh(x.sizes(), at::kFloat);
  float* const to = static_cast<float*>(out.data_ptr());
  const auto run = [&] {
    at::parallel_for(0, x.numel(), ENTRIES, [&](int64_t first, int64_t last) { go(to, first, last); });
  };
  if (x.numel() < LONG) {
    run();
  } else {
    pybind11::gil_scoped_release others;
    run();
  }
  return THPVariable_Wrap(std::move(out));
}

// The first argument's entries where the kernels take all `wanted` arguments; tensors of one shape.
template <int wanted>
bool take_floats(PyObject* const* arguments, Py_ssize_t count, const Tensor** found) {
  if (rows_kernels == nullptr || count != wanted || !unwatched()) return false;
  const Tensor* x = plain(arguments[wanted - 1]);
  for (int i = 0; x != nullptr && i < wanted; ++i) {
    found[i] = floats(arguments[i], x->numel());
    if (found[i] == nullptr || found[i]->sizes() != x->sizes()) return false;
  }
  return x != nullptr;
}

// gelu_gradient(g, x) = g (Φ(x) + x φ(x))
PyObject* gelu_gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* given[2];
  if (!take_floats<2>(arguments, count, given)) return elsewhere(fallback, arguments, count);
  const float *g = entries<float>(*given[0]), *x = entries<float>(*given[1]);
  return by_entries(*given[1], [&](float* to, int64_t first, int64_t last) {
    rows_kernels->gelu_gradient(g + first, x + first, to + first, last - first);
  });
  END_HANDLE_TH_ERRORS
}

// gelu_bend(a, g, x) = a g φ(x) (2 − x²)
PyObject* gelu_bend(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* given[3];
  if (!take_floats<3>(arguments, count, given)) return elsewhere(fallback, arguments, count);
  const float *a = entries<float>(*given[0]), *g = entries<float>(*given[1]), *x = entries<float>(*given[2]);
  return by_entries(*given[2], [&](float* to, int64_t first, int64_t last) {
    rows_kernels->gelu_bend(a + first, g + first, x + first, to + first, last - first);
  });
  END_HANDLE_TH_ERRORS
}

// The last dims of x where they are those of a tuple of ints; none where they are not.
at::IntArrayRef last_dims(const Tensor& x, PyObject* shape) {
  if (!PyTuple_Check(shape) || PyTuple_GET_SIZE(shape) > x.dim()) return {};
  const auto dims = x.sizes().slice(x.dim() - PyTuple_GET_SIZE(shape));
  for (size_t i = 0; i < dims.size(); ++i) {
    PyObject* size = PyTuple_GET_ITEM(shape, static_cast<Py_ssize_t>(i));
    int overflow = 0;
    if (!PyLong_CheckExact(size) || PyLong_AsLongLongAndOverflow(size, &overflow) != dims[i]) return {};
  }
  return dims;
}

// layer_norm_second_order(X, W, B, g, x, weight, mean, scale, shape, (need ḡ, x̄, w̄)) → (ḡ, x̄, w̄), None where it is zero
// or not needed
PyObject* layer_norm_second_order(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  constexpr int GIVEN = 8;
  enum { X, W, B, G, VALUE, WEIGHT, MEAN, SCALE };
  const Tensor* x = count == GIVEN + 2 ? plain(arguments[VALUE]) : nullptr;
  const Tensor* mean = x != nullptr ? plain(arguments[MEAN]) : nullptr;
  if (mean == nullptr || rows_kernels == nullptr || x->numel() == 0 || !PyTuple_Check(arguments[GIVEN + 1]) ||
      PyTuple_GET_SIZE(arguments[GIVEN + 1]) != 3 || !unwatched())
    return elsewhere(fallback, arguments, count);
  const auto dtype = x->scalar_type();
  const auto shape = last_dims(*x, arguments[GIVEN]);
  const int64_t columns = c10::multiply_integers(shape), rows = x->numel() / columns;
  if ((dtype != at::kFloat && dtype != at::kDouble) || shape.empty() || mean->dim() != x->dim())
    return elsewhere(fallback, arguments, count);
  const int64_t sizes[GIVEN] = {x->numel(), columns, columns, x->numel(), x->numel(), columns, rows, rows};
  Tensor held[GIVEN];  // contiguous
  const void* at[GIVEN];
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    for (int i = 0; i < GIVEN; ++i) {
      at[i] = nullptr;
      if (arguments[i] == Py_None) continue;
      const Tensor* tensor = plain(arguments[i]);
      if (tensor == nullptr || tensor->scalar_type() != dtype || tensor->numel() != sizes[i] ||
          (sizes[i] == x->numel() && tensor->sizes() != x->sizes()))
        return elsewhere(fallback, arguments, count);
      held[i] = tensor->contiguous();
      at[i] = held[i].const_data_ptr();
    }
  }
  bool needs[3];
  for (int i = 0; i < 3; ++i) needs[i] = PyTuple_GET_ITEM(arguments[GIVEN + 1], i) == Py_True;
  needs[0] = needs[0] && (at[X] != nullptr || at[W] != nullptr || at[B] != nullptr);
  needs[1] = needs[1] && (at[X] != nullptr || at[W] != nullptr);
  needs[2] = needs[2] && at[X] != nullptr;
  if (at[SCALE] == nullptr || (at[G] == nullptr && (needs[1] || needs[2]))) return elsewhere(fallback, arguments, count);

  const int64_t pieces = (rows + NEO_PIECE - 1) / NEO_PIECE;
  Tensor g_out, x_out, w_out;
  if (needs[0]) g_out = fresh(x->sizes(), dtype);
  if (needs[1]) x_out = fresh(x->sizes(), dtype);
  if (needs[2]) w_out = at::detail::empty_cpu({pieces, columns}, dtype);
  const auto start = [](Tensor& out) { return out.defined() ? out.data_ptr() : nullptr; };
  const NeoLayerNorm norm = {at[X], at[W], at[B], at[G], at[VALUE], at[WEIGHT], at[MEAN], at[SCALE],
                             start(g_out), start(x_out), start(w_out), rows, columns};
  const auto kernel = dtype == at::kFloat ? rows_kernels->layer_norm_of_float : rows_kernels->layer_norm_of_double;
  const auto run = [&] {
    const int64_t grain = std::max<int64_t>(1, ENTRIES / (NEO_PIECE * columns));
    at::parallel_for(0, pieces, grain, [&](int64_t first, int64_t last) { kernel(&norm, first, last); });
    if (!w_out.defined()) return;
    const at::AutoDispatchBelowADInplaceOrView below;
    w_out = (pieces == 1 ? w_out : at::sum(w_out, 0)).view(shape);
  };
  if (x->numel() < LONG) {
    run();
  } else {
    pybind11::gil_scoped_release others;
    run();
  }
  const auto wrapped = [](Tensor& out) {
    return out.defined() ? THPVariable_Wrap(std::move(out)) : Py_NewRef(Py_None);
  };
  return Py_BuildValue("(NNN)", wrapped(g_out), wrapped(x_out), wrapped(w_out));
  END_HANDLE_TH_ERRORS
}

PyObject* use_rows(PyObject*, PyObject* capsule) {
  if (capsule == Py_None) {
    rows_kernels = nullptr;
  } else {
    const void* found = PyCapsule_GetPointer(capsule, NEO_ROWS);
    if (found == nullptr) return nullptr;
    rows_kernels = static_cast<const NeoRows*>(found);
  }
  Py_RETURN_NONE;
}

}  // namespace
