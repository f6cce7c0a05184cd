// A perceptron's layers, their gradient, and its own gradient: each one call for all layers.
// neo/functions/perceptron.py has the formulas; there, too, the names of what is passed here.
//
// All tensors may have one leading dim more, the same for all: a stack of perceptrons, each with its own examples.
#pragma once
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "direct_products.h"
#include "direct_recurrence.h"
#include "direct_sums.h"
#include "direct_tensors.h"

namespace {

using Tensors = std::vector<Tensor>;  // undefined where there is none

constexpr Py_UCS1 NO_ACTIVATION = '-', RELU = 'r', TANH = 't', SIGMOID = 's';

// The layers, as the three functions are given them. Each reader is false where torch's functions are to answer.
struct Layers {
  const Tensor* x = nullptr;
  Tensors weights;
  const Py_UCS1* kinds = nullptr;
  at::ScalarType dtype = at::kFloat;
  int64_t dims = 2, n = 0;

  int64_t count() const { return static_cast<int64_t>(weights.size()); }
  int64_t inputs(int64_t i) const { return weights[i].size(-1); }
  int64_t outputs(int64_t i) const { return weights[i].size(-2); }

  bool of_shape(const Tensor& value, std::initializer_list<int64_t> last) const {
    const auto own = static_cast<int64_t>(last.size());
    return value.dim() == own + dims - 2 && value.scalar_type() == dtype &&
        std::equal(last.begin(), last.end(), value.sizes().end() - own) && (dims == 2 || value.size(0) == x->size(0));
  }

  bool read(PyObject* input, PyObject* matrices, PyObject* letters) {
    x = plain(input);
    if (x == nullptr || x->dim() < 2 || x->dim() > 3 || x->numel() == 0 || !PyTuple_CheckExact(matrices)) return false;
    if (!PyUnicode_CheckExact(letters) || PyUnicode_KIND(letters) != PyUnicode_1BYTE_KIND) return false;
    dtype = x->scalar_type();
    dims = x->dim();
    n = x->size(-2);
    kinds = PyUnicode_1BYTE_DATA(letters);
    const Py_ssize_t length = PyTuple_GET_SIZE(matrices);
    if ((dtype != at::kFloat && dtype != at::kDouble) || length < 1 || PyUnicode_GET_LENGTH(letters) != length) return false;
    int64_t size = x->size(-1);
    for (Py_ssize_t i = 0; i < length; ++i) {
      const Tensor* weight = plain(PyTuple_GET_ITEM(matrices, i));
      if (weight == nullptr || weight->dim() != dims || !of_shape(*weight, {weight->size(-2), size})) return false;
      size = weight->size(-2);
      if (size == 0 || std::strchr("-rts", kinds[i]) == nullptr) return false;
      weights.push_back(*weight);
    }
    return true;
  }

  // A tuple of tensors, or of some tensors and None, the i-th of shape (.., *shape(i)).
  template <class Shape>
  bool read(PyObject* values, Py_ssize_t length, bool all, Shape shape, Tensors& into) const {
    if (!PyTuple_CheckExact(values) || PyTuple_GET_SIZE(values) != length) return false;
    for (Py_ssize_t i = 0; i < length; ++i) {
      PyObject* value = PyTuple_GET_ITEM(values, i);
      if (value == Py_None && !all) {
        into.emplace_back();
        continue;
      }
      const Tensor* tensor = plain(value);
      if (tensor == nullptr || !shape(*tensor, i)) return false;
      into.push_back(*tensor);
    }
    return true;
  }

  // Of every layer's output, (n, size): those of all layers, or of all but the last.
  bool read_rows(PyObject* values, bool all, Tensors& into) const {
    const Py_ssize_t length = PyTuple_CheckExact(values) ? PyTuple_GET_SIZE(values) : 0;
    if (length < count() - 1 || length > count()) return false;
    const auto shape = [&](const Tensor& value, int64_t i) { return of_shape(value, {n, outputs(i)}); };
    if (!read(values, length, all, shape, into)) return false;
    for (Tensor& value : into)
      if (value.defined() && !value.is_contiguous()) return false;
    return true;
  }

  int64_t work() const {
    int64_t most = 0;
    for (int64_t i = 0; i < count(); ++i) most += x->numel() / x->size(-1) * inputs(i) * outputs(i);
    return most;
  }

  // `run`, below autograd; other Python threads go on meanwhile where it takes long.
  template <class Run>
  void apart(Run run) const {
    at::AutoDispatchBelowADInplaceOrView below;
    if (work() < SHARE) return run();
    pybind11::gil_scoped_release others;
    run();
  }
};

bool short_enough(const Tensor& x) { return x.numel() <= FEW; }

void activate(Tensor& h, Py_UCS1 kind) {
  if (kind == TANH) {
    at::tanh_(h);
  } else if (kind == SIGMOID) {
    at::sigmoid_(h);
  } else if (kind == RELU && short_enough(h)) {
    by_dtype(h.scalar_type(), [&]<class T>(T) {
      T* entry = start_of<T>(h);
      for (int64_t i = 0, n = h.numel(); i < n; ++i) entry[i] = entry[i] < 0 ? T(0) : entry[i];  // nan and −0 stay
    });
  } else if (kind == RELU) {
    at::relu_(h);
  }
}

template <class Of>
Tensor mapped(const Tensor& x, const Tensor& y, Of of) {
  Tensor out = fresh(x.sizes(), x.scalar_type());
  by_dtype(x.scalar_type(), [&]<class T>(T) {
    const T *u = entries<T>(x), *v = entries<T>(y);
    T* __restrict to = start_of<T>(out);
    for (int64_t i = 0, n = x.numel(); i < n; ++i) to[i] = of(u[i], v[i]);
  });
  return out;
}

// u φ′, of h = φ(a)
Tensor sloped(const Tensor& u, const Tensor& h, Py_UCS1 kind) {
  if (kind == RELU)
    return short_enough(u) ? mapped(u, h, [](auto g, auto y) { return y <= 0 ? decltype(g)(0) : g; })
                           : at::threshold_backward(u, h, 0);
  if (kind == TANH)
    return short_enough(u) ? mapped(u, h, [](auto g, auto y) { return g * (1 - y * y); }) : at::tanh_backward(u, h);
  if (kind == SIGMOID)
    return short_enough(u) ? mapped(u, h, [](auto g, auto y) { return g * (y * (1 - y)); }) : at::sigmoid_backward(u, h);
  return u;
}

// u φ′ where u lies, which nobody else reads
void slope(Tensor& u, const Tensor& h, Py_UCS1 kind) {
  const auto each = [&](auto of) {
    by_dtype(u.scalar_type(), [&]<class T>(T) {
      T* to = start_of<T>(u);
      const T* y = entries<T>(h);
      for (int64_t i = 0, n = u.numel(); i < n; ++i) to[i] = of(to[i], y[i]);
    });
  };
  if (kind == RELU) {
    if (short_enough(u)) each([](auto g, auto y) { return y <= 0 ? decltype(g)(0) : g; });
    else at::threshold_backward_out(u, u, h, 0);
  } else if (kind == TANH) {
    if (short_enough(u)) each([](auto g, auto y) { return g * (1 - y * y); });
    else at::tanh_backward_out(u, u, h);
  } else if (kind == SIGMOID) {
    if (short_enough(u)) each([](auto g, auto y) { return g * (y * (1 - y)); });
    else at::sigmoid_backward_out(u, u, h);
  }
}

// z u dφ′/dh, of h = φ(a); undefined where that is zero
Tensor bent(const Tensor& z, const Tensor& u, const Tensor& h, Py_UCS1 kind) {
  if (kind != TANH && kind != SIGMOID) return {};
  Tensor out = mapped(z, u, [](auto a, auto b) { return a * b; });
  by_dtype(z.scalar_type(), [&]<class T>(T) {
    const T* y = entries<T>(h);
    T* to = start_of<T>(out);
    const int64_t n = out.numel();
    if (kind == TANH)
      for (int64_t i = 0; i < n; ++i) to[i] *= -2 * y[i];
    else
      for (int64_t i = 0; i < n; ++i) to[i] *= 1 - 2 * y[i];
  });
  return out;
}

// x + y onto x; y where x is undefined
void add_to(Tensor& x, Tensor y) {
  if (!x.defined()) {
    x = std::move(y);
  } else if (y.defined()) {
    by_dtype(x.scalar_type(), [&]<class T>(T) {
      T* to = start_of<T>(x);
      const T* from = entries<T>(y);
      for (int64_t i = 0, n = x.numel(); i < n; ++i) to[i] += from[i];
    });
  }
}

// x (.., n, columns) → (.., columns)
Tensor over_rows(const Tensor& x) {
  const int64_t rows = x.size(-2), columns = x.size(-1);
  if (!sums_rows(rows, columns)) return at::sum(x, -2);
  auto shape = x.sizes().vec();
  shape.erase(shape.end() - 2);
  Tensor out = fresh(shape, x.scalar_type());
  by_dtype(x.scalar_type(), [&]<class T>(T) {
    for (int64_t i = 0; i < x.numel(); i += rows * columns)
      sum_rows(entries<T>(x) + i, rows, columns, start_of<T>(out) + i / rows);
  });
  return out;
}

PyObject* given_back(Tensor tensor) {
  if (!tensor.defined()) Py_RETURN_NONE;
  return THPVariable_Wrap(std::move(tensor));
}

PyObject* given_back(Tensors& tensors) {
  PyObject* out = PyTuple_New(static_cast<Py_ssize_t>(tensors.size()));
  for (size_t i = 0; i < tensors.size(); ++i)
    PyTuple_SET_ITEM(out, static_cast<Py_ssize_t>(i), given_back(std::move(tensors[i])));
  return out;
}

std::optional<std::vector<bool>> flags(PyObject* values, int64_t length) {
  if (!PyTuple_CheckExact(values) || PyTuple_GET_SIZE(values) != length) return std::nullopt;
  std::vector<bool> found;
  for (Py_ssize_t i = 0; i < length; ++i) found.push_back(PyTuple_GET_ITEM(values, i) == Py_True);
  return found;
}

// perceptron(x, weights, biases, kinds, all) → the outputs of all layers, or a tuple of the last alone
PyObject* perceptron(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Layers layers;
  Tensors biases, out;
  if (count != 5 || !unwatched() || !layers.read(arguments[0], arguments[1], arguments[3]))
    return elsewhere(fallback, arguments, count);
  const auto one_a_unit = [&](const Tensor& bias, int64_t i) { return layers.of_shape(bias, {layers.outputs(i)}); };
  if (!layers.read(arguments[2], layers.count(), true, one_a_unit, biases)) return elsewhere(fallback, arguments, count);
  const bool all = arguments[4] == Py_True;
  layers.apart([&] {
    const Tensor* below = layers.x;
    for (int64_t i = 0; i < layers.count(); ++i) {
      Tensor h = times({*below, false}, {layers.weights[i], true}, &biases[i]);
      activate(h, layers.kinds[i]);
      if (!all) out.clear();
      out.push_back(std::move(h));
      below = &out.back();
    }
  });
  return given_back(out);
  END_HANDLE_TH_ERRORS
}

// perceptron_gradient(bars of the layers, x, weights, outputs, kinds, mask, keep) → the gradients that mask asks for,
// and, to keep, the u of every layer but the last (of a ReLU its δ, which is as good)
PyObject* perceptron_gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Layers layers;
  Tensors bars, outputs, x_bar(1), found;
  if (count != 7 || !unwatched() || !layers.read(arguments[1], arguments[2], arguments[4]) ||
      !layers.read_rows(arguments[0], false, bars) || !layers.read_rows(arguments[3], true, outputs))
    return elsewhere(fallback, arguments, count);
  const int64_t last = layers.count() - 1;
  const auto mask = flags(arguments[5], 2 * layers.count() + 1);
  if (!mask || static_cast<int64_t>(bars.size()) <= last || !bars[last].defined() ||
      (static_cast<int64_t>(outputs.size()) <= last && layers.kinds[last] != NO_ACTIVATION))
    return elsewhere(fallback, arguments, count);
  const auto of_weight = [&](int64_t i) { return (*mask)[1 + i]; };
  const auto of_bias = [&](int64_t i) { return (*mask)[2 + last + i]; };
  int64_t lowest = 0;  // the first layer whose gradient, or whose input's, somebody asks for
  while (!(*mask)[0] && lowest < last && !of_weight(lowest) && !of_bias(lowest)) ++lowest;
  const bool keep = arguments[6] == Py_True;
  Tensors weights(layers.count()), biases(layers.count()), kept(keep ? last : 0);
  layers.apart([&] {
    Tensor u = bars[last];
    for (int64_t i = last; i >= lowest; --i) {
      const Tensor& below = i == 0 ? *layers.x : outputs[i - 1];
      Tensor delta = u;
      if (i == last) {  // the caller's
        if (i < static_cast<int64_t>(outputs.size())) delta = sloped(u, outputs[i], layers.kinds[i]);
      } else if (keep && layers.kinds[i] != RELU) {
        delta = sloped(u, outputs[i], layers.kinds[i]);
      } else {  // a u of a ReLU is kept as δ, of which the same δ comes
        slope(delta, outputs[i], layers.kinds[i]);
      }
      if (of_weight(i)) weights[i] = times({delta, true}, {below, false}, nullptr);
      if (of_bias(i)) biases[i] = over_rows(delta);
      if (i == lowest && !(*mask)[0]) break;
      u = times({delta, false}, {layers.weights[i], false}, nullptr);
      if (i == 0) {
        x_bar[0] = u;
      } else {
        add_to(u, bars[i - 1]);
        if (keep) kept[i - 1] = u;
      }
    }
  });
  for (auto* some : {&x_bar, &weights, &biases})
    for (Tensor& bar : *some) {
      const bool wanted = (*mask)[some == &x_bar ? 0 : (&bar - some->data()) + (some == &weights ? 1 : 2 + last)];
      if (wanted) found.push_back(std::move(bar));
    }
  return Py_BuildValue("(NN)", given_back(found), given_back(kept));
  END_HANDLE_TH_ERRORS
}

// perceptron_double_backward(X, Ws, Bs, bars, x, weights, outputs, us, kinds, needs) → the cotangents of the bars, of x,
// of the weights, and of the outputs; None for zero
PyObject* perceptron_double_backward(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Layers layers;
  Tensors of_weights, of_biases, bars, outputs, us;
  if (count != 10 || !unwatched() || !layers.read(arguments[4], arguments[5], arguments[8]) ||
      !layers.read_rows(arguments[3], false, bars) || !layers.read_rows(arguments[6], true, outputs))
    return elsewhere(fallback, arguments, count);
  const int64_t size = layers.count(), last = size - 1, given = static_cast<int64_t>(outputs.size());
  const auto like_weight = [&](const Tensor& value, int64_t i) { return value.sizes() == layers.weights[i].sizes() && value.scalar_type() == layers.dtype; };
  const auto like_bias = [&](const Tensor& value, int64_t i) { return layers.of_shape(value, {layers.outputs(i)}) && value.is_contiguous(); };
  const auto like_rows = [&](const Tensor& value, int64_t i) { return layers.of_shape(value, {layers.n, layers.outputs(i)}) && value.is_contiguous(); };
  const auto needs = flags(arguments[9], 1 + size + given);
  const Tensor* of_x = arguments[0] == Py_None ? nullptr : plain(arguments[0]);
  if (!needs || !layers.read(arguments[1], size, false, like_weight, of_weights) ||
      !layers.read(arguments[2], size, false, like_bias, of_biases) || !layers.read(arguments[7], last, false, like_rows, us) ||
      static_cast<int64_t>(bars.size()) <= last || !bars[last].defined() ||
      (given <= last && layers.kinds[last] != NO_ACTIVATION) ||
      (arguments[0] != Py_None && (of_x == nullptr || of_x->sizes() != layers.x->sizes() || of_x->scalar_type() != layers.dtype)))
    return elsewhere(fallback, arguments, count);
  us.push_back(bars[last]);
  Tensors bars_out(size), x_out(1), weights_out(size), outputs_out(given);
  layers.apart([&] {
    Tensor through;  // the cotangent of the layer's u: at first that of x̄
    if (of_x != nullptr) through = of_x->contiguous();
    for (int64_t i = 0; i < size; ++i) {
      const Tensor& below = i == 0 ? *layers.x : outputs[i - 1];
      const bool curved = i < given;
      Tensor of_delta;
      if (of_weights[i].defined()) {
        of_delta = times({below, false}, {of_weights[i], true}, of_biases[i].defined() ? &of_biases[i] : nullptr);
      } else if (of_biases[i].defined()) {
        auto shape = layers.x->sizes().vec();
        shape.back() = layers.outputs(i);
        of_delta = of_biases[i].unsqueeze(-2).expand(shape).contiguous();
        if (of_delta.is_alias_of(of_biases[i])) of_delta = of_delta.clone();  // a single row
      }
      if (through.defined()) add_to(of_delta, times({through, false}, {layers.weights[i], true}, nullptr));
      const bool of_weight = through.defined() && (*needs)[1 + i];
      const bool of_below = of_weights[i].defined() && (i == 0 ? (*needs)[0] : (*needs)[size + i]);
      if (us[i].defined() && (of_weight || of_below)) {
        const bool done = !curved || (layers.kinds[i] == RELU && i < last);  // see perceptron_gradient
        const Tensor delta = done ? us[i] : sloped(us[i], outputs[i], layers.kinds[i]);
        if (of_weight) weights_out[i] = times({delta, true}, {through, false}, nullptr);
        if (of_below) add_to(i == 0 ? x_out[0] : outputs_out[i - 1], times({delta, false}, {of_weights[i], false}, nullptr));
      }
      if (!of_delta.defined()) {
        through.reset();
        continue;
      }
      if (curved && us[i].defined() && (*needs)[1 + size + i])
        outputs_out[i] = bent(of_delta, us[i], outputs[i], layers.kinds[i]);
      if (curved) slope(of_delta, outputs[i], layers.kinds[i]);
      through = of_delta;
      if (bars[i].defined()) bars_out[i] = through;
    }
  });
  return Py_BuildValue("(NNNN)", given_back(bars_out), given_back(std::move(x_out[0])), given_back(weights_out),
                       given_back(outputs_out));
  END_HANDLE_TH_ERRORS
}

}  // namespace
