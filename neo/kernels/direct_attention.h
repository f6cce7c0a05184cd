// Attention's core on Neo's kernels (heads.h) where use_rows has named them, heads shared between torch's threads; what
// they do not take goes to the fallback. neo/kernels/attention.py says what each function is.
#pragma once
#include <ATen/Parallel.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <array>
#include <new>

#include "direct_memory.h"
#include "direct_products.h"
#include "direct_rows.h"
#include "direct_tensors.h"
#include "heads.h"

namespace {

// How queries, keys and values are given: as three stacks (sequences, heads, places, width), or side by side in the rows
// of one tensor of so many heads, (sequences, places, 3 width) or, where places come first, (places, sequences, 3 width).
struct Form {
  int64_t heads;  // 0: three stacks
  bool places_first;
  Py_ssize_t tensors() const { return heads == 0 ? 3 : 1; }
};

bool read_form(PyObject* heads, PyObject* places_first, Form& form) {
  if (!PyLong_CheckExact(heads) || !PyBool_Check(places_first)) return false;
  int overflow = 0;
  form = {PyLong_AsLongLongAndOverflow(heads, &overflow), places_first == Py_True};
  return form.heads >= 0;
}

// A stack of matrices of which each row's entries lie side by side.
NeoHeads heads_of(const Tensor& stack) {
  return {const_cast<void*>(stack.const_data_ptr()), stack.stride(0), stack.stride(1), stack.stride(2)};
}

// The part of a tensor of rows (sequences, places, parts · heads · width), or with places first.
NeoHeads heads_of(const Tensor& rows, const Form& form, int64_t width, int64_t part) {
  const int64_t skip = part * form.heads * width * static_cast<int64_t>(rows.element_size());
  return {static_cast<char*>(const_cast<void*>(rows.const_data_ptr())) + skip, rows.stride(form.places_first ? 1 : 0), width,
          rows.stride(form.places_first ? 0 : 1)};
}

// Queries, keys and values, their cotangents, or what is written for them: each is one stack of a Form.
struct Stacks {
  Tensor held[3];
  std::array<NeoHeads, 3> at{};

  // Of a tuple; entries may be None where `optional`. All of one dtype, and of the sizes of `like` where that is given.
  bool read(PyObject* values, const Form& form, bool optional, const Stacks* like) {
    if (!PyTuple_CheckExact(values) || PyTuple_GET_SIZE(values) != form.tensors()) return false;
    for (Py_ssize_t i = 0; i < form.tensors(); ++i) {
      PyObject* value = PyTuple_GET_ITEM(values, i);
      if (value == Py_None && optional) continue;
      const Tensor* tensor = plain(value);
      if (tensor == nullptr || tensor->dim() != (form.heads == 0 ? 4 : 3) || tensor->numel() == 0) return false;
      if (like != nullptr && (tensor->sizes() != like->held[i].sizes() || tensor->scalar_type() != like->held[i].scalar_type()))
        return false;
      const at::AutoDispatchBelowADInplaceOrView below;
      held[i] = tensor->stride(-1) == 1 || tensor->size(-1) == 1 ? *tensor : tensor->contiguous();
    }
    place(form);
    return true;
  }

  // New ones of the sizes of `like` and in its order of dims, where they are wanted.
  void make(const Stacks& like, const Form& form, const std::array<bool, 3>& wanted) {
    for (Py_ssize_t i = 0; i < form.tensors(); ++i)
      if (wanted[i]) held[i] = fresh_like(like.held[i]);
    place(form);
  }

  // Heads of a place side by side in memory, where those of x are.
  static Tensor fresh_like(const Tensor& x) {
    if (x.dim() != 4 || x.stride(1) > x.stride(2)) return fresh(x.sizes(), x.scalar_type());
    return fresh({x.size(0), x.size(2), x.size(1), x.size(3)}, x.scalar_type()).transpose(1, 2);
  }

  bool any() const { return held[0].defined() || held[1].defined() || held[2].defined(); }

  void place(const Form& form) {
    if (form.heads == 0) {
      for (int i = 0; i < 3; ++i)
        if (held[i].defined()) at[i] = heads_of(held[i]);
    } else if (held[0].defined()) {
      for (int i = 0; i < 3; ++i) at[i] = heads_of(held[0], form, held[0].size(2) / (3 * form.heads), i);
    }
  }

  PyObject* given_back(const Form& form) {
    PyObject* out = PyTuple_New(form.tensors());
    for (Py_ssize_t i = 0; i < form.tensors(); ++i)
      PyTuple_SET_ITEM(out, i, held[i].defined() ? THPVariable_Wrap(std::move(held[i])) : Py_NewRef(Py_None));
    return out;
  }
};

// A call of one of the kernels.
struct Attention {
  Form form{};
  Stacks given;  // q, k and v
  NeoAttention of{};
  int64_t sequences = 0;

  bool read(PyObject* tensors, PyObject* heads, PyObject* places_first, PyObject* scale) {
    if (rows_kernels == nullptr || !unwatched() || !PyFloat_CheckExact(scale)) return false;
    if (!read_form(heads, places_first, form) || !given.read(tensors, form, false, nullptr)) return false;
    const auto& [q, k, v] = given.held;
    if (dtype() != at::kFloat && dtype() != at::kDouble) return false;
    if (form.heads == 0) {
      if (k.scalar_type() != dtype() || v.scalar_type() != dtype()) return false;
      for (const int dim : {0, 1})
        if (k.size(dim) != q.size(dim) || v.size(dim) != q.size(dim)) return false;
      if (k.size(3) != q.size(3) || v.size(2) != k.size(2)) return false;
      sequences = q.size(0);
      of.heads = q.size(1), of.places = q.size(2), of.others = k.size(2), of.width = q.size(3), of.value_width = v.size(3);
    } else {
      if (q.size(2) % (3 * form.heads) != 0) return false;
      sequences = q.size(form.places_first ? 1 : 0);
      of.heads = form.heads, of.places = of.others = q.size(form.places_first ? 0 : 1);
      of.width = of.value_width = q.size(2) / (3 * form.heads);
    }
    of.q = given.at[0], of.k = given.at[1], of.v = given.at[2];
    of.scale = PyFloat_AS_DOUBLE(scale);
    return true;
  }

  at::ScalarType dtype() const { return given.held[0].scalar_type(); }

  // Of the output and its cotangent: rows of all heads' values side by side, or a stack.
  at::DimVector shape() const {
    const Tensor& q = given.held[0];
    if (form.heads == 0) return {sequences, of.heads, of.places, of.value_width};
    return {q.size(0), q.size(1), q.size(2) / 3};
  }
  NeoHeads place(const Tensor& x) const { return form.heads == 0 ? heads_of(x) : heads_of(x, form, of.value_width, 0); }

  // A new output, in memory as (sequences, places, heads, width): what joins the heads is a view then.
  Tensor new_output() const {
    if (form.heads != 0) return fresh(shape(), dtype());
    return fresh({sequences, of.places, of.heads, of.value_width}, dtype()).transpose(1, 2);
  }

  // g and the weights, as forward gave them.
  bool read_rest(PyObject* g, PyObject* weights, Tensor held[2]) {
    if (g != Py_None) {
      const Tensor* x = plain(g);
      if (x == nullptr || x->sizes() != at::IntArrayRef(shape()) || x->scalar_type() != dtype()) return false;
      const at::AutoDispatchBelowADInplaceOrView below;
      held[0] = x->stride(-1) == 1 || x->size(-1) == 1 ? *x : x->contiguous();
      of.g = place(held[0]);
    }
    const Tensor* p = plain(weights);
    if (p == nullptr || p->scalar_type() != dtype() || !p->is_contiguous() ||
        p->sizes() != at::IntArrayRef({sequences, of.heads, of.places, of.others}))
      return false;
    held[1] = *p;
    of.weights = const_cast<void*>(p->const_data_ptr());
    return true;
  }

  void run(NeoAttentionHeads NeoAttentionKernels::*kernel) const {
    const NeoAttentionHeads heads =
        (dtype() == at::kDouble ? rows_kernels->attention_of_double : rows_kernels->attention_of_float).*kernel;
    const int64_t count = sequences * of.heads, work = of.places * of.others * (of.width + of.value_width);
    const size_t room = NEO_WORK(of) * c10::elementSize(dtype());
    const auto go = [&] {
      at::parallel_for(0, count, std::max<int64_t>(1, SHARE / work), [&](int64_t first, int64_t last) {
        const c10::DataPtr memory = blocks->allocate(room);
        if (heads(&of, memory.get(), first, last) != 0) throw std::bad_alloc();
      });
    };
    if (count * work < SHARE) return go();
    pybind11::gil_scoped_release others;
    go();
  }
};

PyObject* wrapped(Tensor out) { return out.defined() ? THPVariable_Wrap(std::move(out)) : Py_NewRef(Py_None); }

// attention(tensors, heads, places_first, causal, scale) → (out, weights)
PyObject* attention(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Attention call;
  if (count != 5 || !PyBool_Check(arguments[3]) || !call.read(arguments[0], arguments[1], arguments[2], arguments[4]))
    return elsewhere(fallback, arguments, count);
  Tensor out = call.new_output();
  Tensor weights = fresh({call.sequences, call.of.heads, call.of.places, call.of.others}, call.dtype());
  call.of.causal = arguments[3] == Py_True;
  call.of.out = call.place(out);
  call.of.weights = weights.data_ptr();
  call.run(&NeoAttentionKernels::forward);
  return Py_BuildValue("(NN)", wrapped(std::move(out)), wrapped(std::move(weights)));
  END_HANDLE_TH_ERRORS
}

bool read_needs(PyObject* values, Py_ssize_t length, bool* needs) {
  if (!PyTuple_CheckExact(values) || PyTuple_GET_SIZE(values) != length) return false;
  for (Py_ssize_t i = 0; i < length; ++i) needs[i] = PyTuple_GET_ITEM(values, i) == Py_True;
  return true;
}

// attention_gradient(g, tensors, weights, heads, places_first, scale, needs) → a tuple of a gradient, or None, for each
// tensor
PyObject* attention_gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Attention call;
  Tensor held[2];
  std::array<bool, 3> needs{};
  if (count != 7 || !call.read(arguments[1], arguments[3], arguments[4], arguments[5]) || arguments[0] == Py_None ||
      !call.read_rest(arguments[0], arguments[2], held) || !read_needs(arguments[6], call.form.tensors(), needs.data()))
    return elsewhere(fallback, arguments, count);
  Stacks out;
  out.make(call.given, call.form, needs);
  call.of.q_out = out.at[0], call.of.k_out = out.at[1], call.of.v_out = out.at[2];
  call.run(&NeoAttentionKernels::gradient);
  return out.given_back(call.form);
  END_HANDLE_TH_ERRORS
}

// attention_second_order(cotangents, g, tensors, weights, heads, places_first, scale, (need that of g, of each tensor)) →
// that of g, a tuple of those of the tensors; None where they are zero or not needed
PyObject* attention_second_order(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Attention call;
  Tensor held[2], out;
  Stacks of, tensors_out;
  bool needs[4] = {};
  if (count != 8 || !call.read(arguments[2], arguments[4], arguments[5], arguments[6]) ||
      !call.read_rest(arguments[1], arguments[3], held) || !of.read(arguments[0], call.form, true, &call.given) ||
      !of.any() || !read_needs(arguments[7], 1 + call.form.tensors(), needs) ||
      (!held[0].defined() && (needs[1] || needs[2] || needs[3])))
    return elsewhere(fallback, arguments, count);
  call.of.of_q = of.at[0], call.of.of_k = of.at[1], call.of.of_v = of.at[2];
  if (needs[0]) {
    out = call.new_output();
    call.of.out = call.place(out);
  }
  const bool to_values = call.form.heads != 0 || of.held[0].defined() || of.held[1].defined();  // else theirs is zero
  tensors_out.make(call.given, call.form, {needs[1], needs[2], needs[3] && to_values});
  call.of.q_out = tensors_out.at[0], call.of.k_out = tensors_out.at[1], call.of.v_out = tensors_out.at[2];
  call.run(&NeoAttentionKernels::second_order);
  return Py_BuildValue("(NN)", wrapped(std::move(out)), tensors_out.given_back(call.form));
  END_HANDLE_TH_ERRORS
}

}  // namespace
