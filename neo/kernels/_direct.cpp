// Torch's smallest functions without the way to them. See direct.py, which says what each is for.
//
// torch.mul(x, y) of eight numbers takes a microsecond: parsing of arguments, dispatch, checks of layouts, a thousandth
// of it for the products. Here arguments are taken as they come. Tensors of a few numbers, both contiguous, float32 or
// float64 and of one shape, are looped over on the spot; other dense CPU tensors go to the same kernels as torch's own
// call, past autograd, which Neo's tensors never need; everything else (LiteTensors, subclasses, other devices, an open
// torch mode or transform, a tensor that requires a gradient) goes to the Python function that was given as fallback.
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/div.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/t.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "look.h"
#include "matrix.h"

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

// `fallback`, bound to each function as its self, with the same arguments.
PyObject* elsewhere(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  return PyObject_Vectorcall(fallback, arguments, count, nullptr);
}

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

// --- products of matrices, on Neo's kernels where those are said to be faster (use_matrix) ---------------------------

const NeoMatrix* matrix = nullptr;

constexpr int64_t SHARE = 1 << 17;  // products that are worth another thread: a few microseconds of them
constexpr int64_t ROWS = 6, COLUMNS = 64;  // as the kernels take them at a time

// A matrix as the product reads it: transposed, or as it is.
struct Side {
  const Tensor& tensor;
  bool turned;
  int64_t rows() const { return tensor.size(turned ? 1 : 0); }
  int64_t columns() const { return tensor.size(turned ? 0 : 1); }
  int64_t row() const { return tensor.stride(turned ? 1 : 0); }
  int64_t column() const { return tensor.stride(turned ? 0 : 1); }
  bool dense() const { return row() == 1 || column() == 1; }
};

bool takes(const Side& a, const Side& b, const Tensor* bias) {
  const Tensor &x = a.tensor, &y = b.tensor;
  const auto dtype = x.scalar_type();
  if (matrix == nullptr || x.dim() != 2 || y.dim() != 2) return false;
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

// a b + bias, of sides that the kernels take. They spread the left side's entries over vectors of the right side's
// columns; where those do not lie side by side, the product may be computed turned round, bᵀ aᵀ.
PyObject* own(const Side& a, const Side& b, const Tensor* bias) {
  const int64_t m = a.rows(), n = b.columns(), k = a.columns();
  const Tensor &x = a.tensor, &y = b.tensor;
  Tensor out(at::detail::empty_cpu({m, n}, x.scalar_type()));
  const void* added = bias == nullptr ? nullptr : bias->const_data_ptr();
  NeoProduct whole;
  if (b.column() != 1 && a.dense() && (a.row() == 1 || m < n || !b.dense())) {
    whole = {y.const_data_ptr(), b.column(), b.row(), x.const_data_ptr(), a.column(), a.row(), added, 1, 0,
             out.data_ptr(), 1, n, n, m, k};
  } else {
    whole = {x.const_data_ptr(), a.row(), a.column(), y.const_data_ptr(), b.row(), b.column(), added, 0, 1,
             out.data_ptr(), n, 1, m, n, k};
  }
  const bool wide = x.scalar_type() == at::kDouble;
  const auto go = [&] { compute(whole, wide ? matrix->of_double : matrix->of_float, wide ? 8 : 4); };
  if (m * n * k < SHARE) {
    go();
  } else {
    pybind11::gil_scoped_release others;
    go();
  }
  return THPVariable_Wrap(std::move(out));
}

// product(a, b, transpose_a, transpose_b), of matrices
PyObject* product(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* a = count == 4 ? plain(arguments[0]) : nullptr;
  const Tensor* b = a != nullptr ? plain(arguments[1]) : nullptr;
  if (b == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  const Side left{*a, arguments[2] == Py_True}, right{*b, arguments[3] == Py_True};
  if (takes(left, right, nullptr)) return own(left, right, nullptr);
  const Tensor& larger = a->numel() > b->numel() ? *a : *b;
  return kernel(larger, [&] { return at::mm(left.turned ? a->t() : *a, right.turned ? b->t() : *b); });
  END_HANDLE_TH_ERRORS
}

// affine(x, weight, bias) = x weightᵀ + bias
PyObject* affine(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 3 ? plain(arguments[0]) : nullptr;
  const Tensor* weight = x != nullptr ? plain(arguments[1]) : nullptr;
  const Tensor* bias = weight != nullptr ? plain(arguments[2]) : nullptr;
  if (bias == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  const Side left{*x, false}, right{*weight, true};
  if (takes(left, right, bias)) return own(left, right, bias);
  const Tensor& larger = x->numel() > weight->numel() ? *x : *weight;
  return kernel(larger, [&] { return at::addmm(*bias, *x, weight->t()); });
  END_HANDLE_TH_ERRORS
}

// sum_of_rows(x), x (n, columns) → (columns,): in pieces, for one sum of many rows loses digits
PyObject* sum_of_rows(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  constexpr int64_t PIECE = 16;
  const Tensor* x = count == 1 ? plain(arguments[0]) : nullptr;
  if (x == nullptr || x->dim() != 2 || x->numel() > LONG || x->size(0) > 4 * PIECE * PIECE || !x->is_contiguous() ||
      (x->size(1) < VECTOR && x->numel() > FEW / 2) ||
      (x->scalar_type() != at::kFloat && x->scalar_type() != at::kDouble) || !unwatched())
    return elsewhere(fallback, arguments, count);
  const int64_t rows = x->size(0), columns = x->size(1);
  return filled({columns}, x->scalar_type(), [&]<class T>(T* __restrict total, int64_t) {
    std::vector<T> piece(columns);
    T* __restrict sum = piece.data();
    const T* row = entries<T>(*x);
    std::fill(total, total + columns, T(0));
    for (int64_t first = 0; first < rows; first += PIECE) {
      std::fill(sum, sum + columns, T(0));
      for (int64_t i = first; i < std::min(first + PIECE, rows); ++i, row += columns)
        for (int64_t j = 0; j < columns; ++j) sum[j] += row[j];
      for (int64_t j = 0; j < columns; ++j) total[j] += sum[j];
    }
  });
  END_HANDLE_TH_ERRORS
}

// --- cross-entropy of a few rows -------------------------------------------------------------------------------------

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

// cross_entropy(x, target, reduction, ignored) → (loss, log softmax(x), rows that count)
PyObject* cross_entropy(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* x = count == 4 ? plain(arguments[0]) : nullptr;
  const Tensor* given = x != nullptr ? plain(arguments[1]) : nullptr;
  if (given == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  const long reduction = PyLong_AsLong(arguments[2]), ignored = PyLong_AsLong(arguments[3]);
  if (PyErr_Occurred()) return nullptr;
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

// cross_entropy_gradient(g, log_p, target, count, reduction, ignored) → m g (e^log_p − onehot(target)) of each row
PyObject* cross_entropy_gradient(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const Tensor* g = count == 6 ? plain(arguments[0]) : nullptr;
  const Tensor* log_p = g != nullptr ? plain(arguments[1]) : nullptr;
  const Tensor* given = log_p != nullptr ? plain(arguments[2]) : nullptr;
  const Tensor* counted = given != nullptr ? plain(arguments[3]) : nullptr;
  if (counted == nullptr || !unwatched()) return elsewhere(fallback, arguments, count);
  const long reduction = PyLong_AsLong(arguments[4]), ignored = PyLong_AsLong(arguments[5]);
  if (PyErr_Occurred()) return nullptr;
  const int64_t* target = classes_of(*log_p, *given, ignored);
  if (target == nullptr || g->scalar_type() != log_p->scalar_type() || counted->scalar_type() != g->scalar_type() ||
      counted->numel() != 1 || !g->is_contiguous() || g->numel() != (reduction == NONE ? given->numel() : 1))
    return elsewhere(fallback, arguments, count);
  const int64_t rows = log_p->size(0), classes = log_p->size(1);
  return filled(*log_p, [&]<class T>(T* out, int64_t) {
    const T *row = entries<T>(*log_p), *of_loss = entries<T>(*g);
    for (int64_t i = 0; i < rows; ++i, row += classes, out += classes) {
      T factor = reduction == NONE ? of_loss[i] : *of_loss;
      if (reduction == MEAN) factor /= *entries<T>(*counted);
      if (target[i] == ignored) factor = 0;
      for (int64_t j = 0; j < classes; ++j) out[j] = factor * std::exp(row[j]);
      if (target[i] != ignored) out[target[i]] -= factor;
    }
  });
  END_HANDLE_TH_ERRORS
}

// empty(shape, dtype, channels_last), a CPU tensor; without letting go of the GIL, which another thread would take up
PyObject* empty(PyObject* fallback, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 3 || !PyTuple_Check(arguments[0]) || !THPDtype_Check(arguments[1]) || !unwatched())
    return elsewhere(fallback, arguments, count);
  const Py_ssize_t dims = PyTuple_GET_SIZE(arguments[0]);
  c10::SmallVector<int64_t, 5> shape;
  for (Py_ssize_t i = 0; i < dims; ++i) {
    PyObject* size = PyTuple_GET_ITEM(arguments[0], i);
    if (!PyLong_CheckExact(size)) return elsewhere(fallback, arguments, count);
    shape.push_back(PyLong_AsLongLong(size));
    if (shape.back() < 0) return elsewhere(fallback, arguments, count);  // torch says what is wrong with it
  }
  const auto layout = arguments[2] == Py_True ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const auto dtype = reinterpret_cast<THPDtype*>(arguments[1])->scalar_type;
  return THPVariable_Wrap(at::detail::empty_cpu(shape, dtype, false, layout));
  END_HANDLE_TH_ERRORS
}

Tensor cos_of(const Tensor& x) { return at::cos(x); }
Tensor exp_of(const Tensor& x) { return at::exp(x); }
Tensor log_of(const Tensor& x) { return at::log(x); }
Tensor sin_of(const Tensor& x) { return at::sin(x); }
Tensor tanh_of(const Tensor& x) { return at::tanh(x); }

#define FAST(function) reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL

PyMethodDef functions[] = {
    {"add", FAST(binary<Add>), nullptr},
    {"affine", FAST(affine), nullptr},
    {"cross_entropy", FAST(cross_entropy), nullptr},
    {"cross_entropy_gradient", FAST(cross_entropy_gradient), nullptr},
    {"cos", FAST(vectorised<cos_of>), nullptr},
    {"div", FAST(binary<Div>), nullptr},
    {"empty", FAST(empty), nullptr},
    {"exp", FAST(vectorised<exp_of>), nullptr},
    {"log", FAST(vectorised<log_of>), nullptr},
    {"mul", FAST(binary<Mul>), nullptr},
    {"neg", FAST(unary<Neg>), nullptr},
    {"product", FAST(product), nullptr},
    {"relu", FAST(unary<Relu>), nullptr},
    {"relu_gradient", FAST(gradient<ReluGradient>), nullptr},
    {"sin", FAST(vectorised<sin_of>), nullptr},
    {"sub", FAST(binary<Sub>), nullptr},
    {"sum_of_rows", FAST(sum_of_rows), nullptr},
    {"tanh", FAST(vectorised<tanh_of>), nullptr},
    {"tanh_gradient", FAST(gradient<TanhGradient>), nullptr},
};

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

NeoLook look = {version, same_layout};

PyObject* bind(PyObject*, PyObject* arguments) {
  const char* name;
  PyObject* fallback;
  if (!PyArg_ParseTuple(arguments, "sO", &name, &fallback)) return nullptr;
  for (auto& function : functions)
    if (std::strcmp(function.ml_name, name) == 0) return PyCFunction_New(&function, fallback);
  return PyErr_Format(PyExc_KeyError, "no direct function %s", name);
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

PyMethodDef methods[] = {
    {"use_matrix", use_matrix, METH_O, "use_matrix(kernels.library.matrix): products on Neo's kernels; None: on torch's."},
    {"bind", bind, METH_VARARGS, "bind(name, fallback): the function of that name; fallback answers what it does not."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_direct", nullptr, -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit__direct() {
  PyObject* made = PyModule_Create(&module);
  if (made == nullptr) return nullptr;
  dense = at::detail::empty_cpu({0}, at::kFloat).key_set();
  PyModule_AddStringConstant(made, "TORCH", TORCH_VERSION);
  PyModule_AddObject(made, "look", PyCapsule_New(&look, NEO_LOOK, nullptr));
  return made;
}
