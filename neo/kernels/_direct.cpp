// Torch's smallest functions without the way to them. See direct.py, which says what each is for.
//
// torch.mul(x, y) of eight numbers takes a microsecond: parsing of arguments, dispatch, checks of layouts, a thousandth
// of it for the products. Here arguments are taken as they come. Tensors of a few numbers, both contiguous, float32 or
// float64 and of one shape, are looped over on the spot; other dense CPU tensors go to the same kernels as torch's own
// call, past autograd, which Neo's tensors never need; everything else (LiteTensors, subclasses, other devices, an open
// torch mode or transform, a tensor that requires a gradient) goes to the Python function that was given as fallback.
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/div.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "direct_attention.h"
#include "direct_buffers.h"
#include "direct_groups.h"
#include "direct_losses.h"
#include "direct_memory.h"
#include "direct_perceptron.h"
#include "direct_product_sums.h"
#include "direct_products.h"
#include "direct_recording.h"
#include "direct_recurrence.h"
#include "direct_rows.h"
#include "direct_stacks.h"
#include "direct_sums.h"
#include "direct_tensors.h"
#include "look.h"

namespace {

struct Add {
  template <class T> static T of(T x, T y) { return x + y; }
  static Tensor kernel(const Tensor& x, const Tensor& y) { return at::add(x, y); }
};
struct Sub {
  template <class T> static T of(T x, T y) { return x - y; }
  static Tensor kernel(const Tensor& x, const Tensor& y) { return at::sub(x, y); }
};
struct Mul {
  template <class T> static T of(T x, T y) { return x * y; }
  static Tensor kernel(const Tensor& x, const Tensor& y) { return at::mul(x, y); }
};
struct Div {
  template <class T> static T of(T x, T y) { return x / y; }
  static Tensor kernel(const Tensor& x, const Tensor& y) { return at::div(x, y); }
};

// Two tensors, or a tensor and a Python number.
template <class Op>
PyObject* binary(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 2 ? plain(arguments[0]) : nullptr;
  if (x == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  if (const Tensor* y = plain(arguments[1])) {
    if (few(*x) && alike(*x, *y)) return loop<Op>(*x, *y);
    return kernel(*x, [&] { return Op::kernel(*x, *y); });
  }
  double number = NAN;
  if (PyFloat_CheckExact(arguments[1])) {
    number = PyFloat_AS_DOUBLE(arguments[1]);
  } else if (PyLong_CheckExact(arguments[1])) {
    int overflow = 0;
    const long long whole = PyLong_AsLongLongAndOverflow(arguments[1], &overflow);
    if (overflow || whole > EXACT || whole < -EXACT) return elsewhere(fallback, arguments, count);
    number = static_cast<double>(whole);
  } else {
    return elsewhere(fallback, arguments, count);
  }
  if (!few(*x)) return elsewhere(fallback, arguments, count);
  return loop<Op>(*x, number);
  END_HANDLE_TH_ERRORS
}

// A function that torch's vectors are faster at, whatever the number of entries.
template <Tensor (*call)(const Tensor&)>
PyObject* vectorised(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 1 ? plain(arguments[0]) : nullptr;
  if (x == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  return kernel(*x, [&] { return call(*x); });
  END_HANDLE_TH_ERRORS
}

struct Neg {
  template <class T> static T of(T x) { return -x; }
  static Tensor kernel(const Tensor& x) { return at::neg(x); }
};
struct Relu {
  template <class T> static T of(T x) { return x < 0 ? T(0) : x; }  // nan and −0 stay
  static Tensor kernel(const Tensor& x) { return at::relu(x); }
};

template <class Op>
PyObject* unary(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 1 ? plain(arguments[0]) : nullptr;
  if (x == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  if (few(*x)) return loop<Op>(*x);
  return kernel(*x, [&] { return Op::kernel(*x); });
  END_HANDLE_TH_ERRORS
}

// scaled(tensors, factor) → a tuple of factor x for each; an optimiser's step pulled back
PyObject* scaled(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 2 || !PyTuple_CheckExact(arguments[0]) || !PyFloat_CheckExact(arguments[1]) || !unwatched())
    return elsewhere(fallback, arguments, count);
  const Py_ssize_t length = PyTuple_GET_SIZE(arguments[0]);
  for (Py_ssize_t i = 0; i < length; ++i) {
    const Tensor* x = plain(PyTuple_GET_ITEM(arguments[0], i));
    if (x == nullptr || !few(*x)) return elsewhere(fallback, arguments, count);
  }
  PyObject* out = PyTuple_New(length);
  for (Py_ssize_t i = 0; i < length; ++i)
    PyTuple_SET_ITEM(out, i, loop<Mul>(*plain(PyTuple_GET_ITEM(arguments[0], i)), PyFloat_AS_DOUBLE(arguments[1])));
  return out;
  END_HANDLE_TH_ERRORS
}

// The gradient of a function of single entries, from the cotangent g and the output y.
struct TanhGradient {
  template <class T> static T of(T g, T y) { return g * (1 - y * y); }
  static Tensor kernel(const Tensor& g, const Tensor& y) { return at::tanh_backward(g, y); }
};
struct ReluGradient {
  template <class T> static T of(T g, T y) { return y <= 0 ? T(0) : g; }  // g where y is nan, as torch has it
  static Tensor kernel(const Tensor& g, const Tensor& y) { return at::threshold_backward(g, y, 0); }
};

template <class Op>
PyObject* gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* g = count == 2 ? plain(arguments[0]) : nullptr;
  const Tensor* y = g != nullptr ? plain(arguments[1]) : nullptr;
  if (y == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  if (few(*g) && alike(*g, *y)) return loop<Op>(*g, *y);
  return kernel(*g, [&] { return Op::kernel(*g, *y); });
  END_HANDLE_TH_ERRORS
}

// empty(shape, dtype, channels_last), a CPU tensor; without letting go of the GIL, which another thread would take up
PyObject* empty(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 3 || !PyTuple_Check(arguments[0]) || !THPDtype_Check(arguments[1]) || !PyBool_Check(arguments[2]) ||
      !unwatched())
    return elsewhere(fallback, arguments, count);
  const Py_ssize_t dims = PyTuple_GET_SIZE(arguments[0]);
  c10::SmallVector<int64_t, 5> shape;
  for (Py_ssize_t i = 0; i < dims; ++i) {
    PyObject* size = PyTuple_GET_ITEM(arguments[0], i);
    if (!PyLong_CheckExact(size)) return elsewhere(fallback, arguments, count);
    int overflow = 0;
    shape.push_back(PyLong_AsLongLongAndOverflow(size, &overflow));  // -1 where it overflows
    if (shape.back() < 0) return elsewhere(fallback, arguments, count);  // torch says what is wrong with it
  }
  const auto layout = arguments[2] == Py_True ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const auto dtype = reinterpret_cast<THPDtype*>(arguments[1])->scalar_type;
  return THPVariable_Wrap(fresh(shape, dtype, layout));
  END_HANDLE_TH_ERRORS
}

Tensor cos_of(const Tensor& x) { return at::cos(x); }
Tensor exp_of(const Tensor& x) { return at::exp(x); }
Tensor log_of(const Tensor& x) { return at::log(x); }
Tensor sin_of(const Tensor& x) { return at::sin(x); }
Tensor tanh_of(const Tensor& x) { return at::tanh(x); }

#define PLAIN(function) reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL
#define FAST(...) PLAIN(&direct<__VA_ARGS__>)  // of which a recording is told

PyMethodDef functions[] = {
    {"add", FAST(binary<Add>), nullptr},
    {"affine", FAST(affine), nullptr},
    {"attention", FAST(attention), nullptr},
    {"attention_gradient", FAST(attention_gradient), nullptr},
    {"attention_second_order", FAST(attention_second_order), nullptr},
    {"batch_product", FAST(batch_product), nullptr},
    {"batch_product_sum", FAST(batch_product_sum), nullptr},
    {"cross_entropy", FAST(cross_entropy), nullptr},
    {"cross_entropy_gradient", FAST(cross_entropy_gradient), nullptr},
    {"cross_entropy_double_backward", FAST(cross_entropy_double_backward), nullptr},
    {"cos", FAST(vectorised<cos_of>), nullptr},
    {"div", FAST(binary<Div>), nullptr},
    {"empty", FAST(empty), nullptr},
    {"exp", FAST(vectorised<exp_of>), nullptr},
    {"log", FAST(vectorised<log_of>), nullptr},
    {"gelu_bend", FAST(gelu_bend), nullptr},
    {"gelu_gradient", FAST(gelu_gradient), nullptr},
    {"group_convolution", FAST(group_convolution), nullptr},
    {"group_input_gradient", FAST(group_input_gradient), nullptr},
    {"group_weight_gradient", FAST(group_weight_gradient), nullptr},
    {"layer_norm_second_order", FAST(layer_norm_second_order), nullptr},
    {"lstm_double_backward", FAST(lstm_double_backward), nullptr},
    {"lstm_gates", FAST(lstm_gates), nullptr},
    {"lstm_gradient", FAST(lstm_gradient), nullptr},
    {"mul", FAST(binary<Mul>), nullptr},
    {"neg", FAST(unary<Neg>), nullptr},
    {"ones_like", FAST(ones_like), nullptr},
    {"perceptron", FAST(perceptron), nullptr},
    {"perceptron_double_backward", FAST(perceptron_double_backward), nullptr},
    {"perceptron_gradient", FAST(perceptron_gradient), nullptr},
    {"product", FAST(product), nullptr},
    {"product_sum", FAST(product_sum), nullptr},
    {"relu", FAST(unary<Relu>), nullptr},
    {"relu_gradient", FAST(gradient<ReluGradient>), nullptr},
    {"scaled", FAST(scaled), nullptr},
    {"scaled_difference", FAST(scaled_difference), nullptr},
    {"sin", FAST(vectorised<sin_of>), nullptr},
    {"squared_error", FAST(squared_error), nullptr},
    {"sub", FAST(binary<Sub>), nullptr},
    {"sum_of_rows", FAST(sum_of_rows), nullptr},
    {"tanh", FAST(vectorised<tanh_of>), nullptr},
    {"tanh_gradient", FAST(gradient<TanhGradient>), nullptr},
};

const char* name_of(PyCFunction function) {
  for (const auto& entry : functions)
    if (entry.ml_meth == function) return entry.ml_name;
  return "?";
}

int64_t version(PyObject* value) {
  if (!THPVariable_CheckExact(value)) return -1;
  const Tensor& tensor = THPVariable_Unpack(value);
  return tensor.defined() && !tensor.is_inference() ? tensor._version() : -1;
}

int same_layout(PyObject* one, PyObject* other) {
  if (!THPVariable_CheckExact(one) || !THPVariable_CheckExact(other)) return -1;
  const Tensor &x = THPVariable_Unpack(one), &y = THPVariable_Unpack(other);
  for (const Tensor* tensor : {&x, &y})
    if (!tensor->defined() || tensor->layout() != at::kStrided ||
        tensor->unsafeGetTensorImpl()->has_symbolic_sizes_strides())
      return -1;
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() && (x.dim() > 0 || x.device() == y.device());
}

int grad_enabled() { return at::GradMode::is_enabled(); }

int one_storage(PyObject* one, PyObject* other) {
  if (!THPVariable_CheckExact(one) || !THPVariable_CheckExact(other)) return -1;
  const Tensor &x = behind_slices(THPVariable_Unpack(one)), &y = behind_slices(THPVariable_Unpack(other));
  if (!x.defined() || !y.defined() || !x.has_storage() || !y.has_storage()) return -1;
  return x.unsafeGetTensorImpl()->unsafe_storage().is_alias_of(y.unsafeGetTensorImpl()->unsafe_storage());
}

int alone(PyObject* value) {
  if (!THPVariable_CheckExact(value)) return 0;
  const Tensor* tensor = &THPVariable_Unpack(value);
  while (const auto* slice = tensor->defined() ? at::functorch::maybeGetBatchedImpl(*tensor) : nullptr) {
    tensor = &slice->value();
    if (tensor->use_count() != 1) return 0;
  }
  return tensor->defined() && tensor->has_storage() && tensor->unsafeGetTensorImpl()->unsafe_storage().use_count() == 1;
}

int torch_functions(int disabled) {
  using at::impl::PythonTorchFunctionTLS;
  const int before = PythonTorchFunctionTLS::get_disabled_state();
  PythonTorchFunctionTLS::set_disabled_state(static_cast<at::impl::TorchFunctionDisabledState>(disabled));
  return before;
}

int mixed(PyObject* tensors) {
  auto found = at::kInt;  // of the floating-point ones so far; none yet
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); ++i) {
    PyObject* value = PyTuple_GET_ITEM(tensors, i);
    if (!THPVariable_CheckExact(value)) return -1;
    const auto dtype = THPVariable_Unpack(value).scalar_type();
    if (!at::isFloatingType(dtype)) continue;
    if (found != at::kInt && found != dtype) return 1;
    found = dtype;
  }
  return 0;
}

// Outside torch.autocast every device's autocast key is excluded.
int autocast() { return !(c10::autocast_dispatch_keyset - c10::impl::tls_local_dispatch_key_set().excluded_).empty(); }

NeoLook look = {version, same_layout, grad_enabled, one_storage, alone, torch_functions, mixed, autocast};

PyObject* bind(PyObject*, PyObject* arguments) {
  const char* name;
  PyObject* fallback;
  if (!PyArg_ParseTuple(arguments, "sO", &name, &fallback)) return nullptr;
  for (auto& function : functions)
    if (std::strcmp(function.ml_name, name) == 0) return PyCFunction_New(&function, fallback);
  return PyErr_Format(PyExc_KeyError, "no direct function %s", name);
}

PyObject* idle_bytes(PyObject*, PyObject*) { return PyLong_FromSize_t(blocks->idle()); }

PyObject* limit_idle(PyObject*, PyObject* bytes) {
  const size_t limit = PyLong_AsSize_t(bytes);
  if (limit == static_cast<size_t>(-1) && PyErr_Occurred()) return nullptr;
  return PyLong_FromSize_t(blocks->limit(limit));
}

PyMethodDef methods[] = {
    {"use_groups", use_groups, METH_O,
     "use_groups(kernels.library.groups): convolutions in groups on Neo's kernels; None: on torch's."},
    {"use_matrix", use_matrix, METH_O, "use_matrix(kernels.library.matrix): products on Neo's kernels; None: on torch's."},
    {"use_rows", use_rows, METH_O, "use_rows(kernels.library.rows): passes over rows on Neo's kernels; None: on torch's."},
    {"on_stacks", PLAIN(on_stacks), "on_stacks(call, stacked, *arguments): see neo/functions/_stacks.py."},
    {"bind", bind, METH_VARARGS, "bind(name, fallback): the function of that name; fallback answers what it does not."},
    {"idle_bytes", idle_bytes, METH_NOARGS, "idle_bytes(): of freed tensors, kept for the next ones (direct_memory.h)."},
    {"record", record, METH_O, "record(recorder or None): who is told of this thread's calls; gives the one before."},
    {"limit_idle", limit_idle, METH_O, "limit_idle(bytes): keep at most so many from now on; gives the number before."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_direct", nullptr, -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit__direct() {
  PyObject* made = PyModule_Create(&module);
  if (made == nullptr) return nullptr;
  dense = at::detail::empty_cpu({0}, at::kFloat).key_set();
  PyModule_AddStringConstant(made, "TORCH", TORCH_VERSION);
  PyObject* names = PyTuple_New(std::size(functions));
  if (names == nullptr) return nullptr;
  for (size_t i = 0; i < std::size(functions); ++i)
    PyTuple_SET_ITEM(names, i, PyUnicode_FromString(functions[i].ml_name));
  PyModule_AddObject(made, "NAMES", names);
  PyModule_AddObject(made, "look", PyCapsule_New(&look, NEO_LOOK, nullptr));
  PyModule_AddObject(made, "describe", PyCapsule_New(&describes, NEO_DESCRIBE, nullptr));
  return made;
}
