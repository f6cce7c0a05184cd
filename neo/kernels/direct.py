"""Torch's smallest functions, called without the way to them.

A call of torch.mul with tensors of eight numbers takes a microsecond, of which the products are a hundredth; a small
network's inner loop is made of such calls. _direct.cpp takes a few of them over where their tensors are dense and on
the CPU, with the same bits (tanh's gradient, sums of rows, cross-entropy, an LSTM's gates to a rounding). Products it
hands to Neo's own kernels where `use_matrix` has named them: the bits are others, at most as far from the exact ones
as torch's, and the same on any number of threads. What it does not take, LiteTensors among it, goes to the function
that a name is bound to below; that function is the name where the extension is missing. It is built where torch is at
hand (make env), and serves that version of torch alone.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from neo.errors import CaptureError
from neo.kernels import layers

__all__ = [
    "add",
    "affine",
    "all_rows",
    "batch_product",
    "batch_product_sum",
    "bound",
    "cos",
    "cross_entropy",
    "cross_entropy_double_backward",
    "cross_entropy_gradient",
    "describe",
    "div",
    "empty",
    "exp",
    "log",
    "look",
    "lstm_double_backward",
    "lstm_gates",
    "lstm_gradient",
    "mul",
    "neg",
    "no_idle_memory",
    "on_stacks",
    "ones_like",
    "perceptron",
    "perceptron_double_backward",
    "perceptron_gradient",
    "product",
    "product_sum",
    "record",
    "relu",
    "relu_gradient",
    "scaled",
    "scaled_difference",
    "sin",
    "squared_error",
    "sub",
    "sum_of_rows",
    "tanh",
    "tanh_gradient",
    "use_groups",
    "use_matrix",
    "use_rows",
    "with_dims_of",
]


def _load() -> ModuleType | None:
    try:
        from neo.kernels import _direct
    except ImportError:
        return None
    return _direct if torch.__version__.partition("+")[0] == _direct.TORCH else None


_library: Any = _load()
_nll_forward = torch.ops.aten.nll_loss_forward.default
_nll_backward = torch.ops.aten.nll_loss_backward.default
_unsafe_view = torch.ops.aten._unsafe_view.default
_threshold_backward = torch.ops.aten.threshold_backward.default
_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def bound(name: str, fallback: Any) -> Any:
    """The function of that name in _direct.cpp, which hands the rest over to the fallback; or the fallback itself."""
    return fallback if _library is None else _library.bind(name, fallback)


def use_matrix(matrix: object) -> None:
    """Whose kernels compute all products: those of neo.kernels.library.matrix, or torch's for None."""
    if _library is not None:
        _library.use_matrix(matrix)


def use_groups(groups: object) -> None:
    """Whose kernels compute convolutions in groups: those of neo.kernels.library.groups, or torch's for None."""
    if _library is not None:
        _library.use_groups(groups)


def use_rows(rows: object) -> None:
    """Whose kernels compute what neo.kernels.rows names: those of neo.kernels.library.rows, or torch's for None."""
    if _library is not None:
        _library.use_rows(rows)


def record(recorder: Any) -> Any:
    """Who is told of this thread's calls from now on, or None; gives the one before. See direct_recording.h."""
    return None if _library is None else _library.record(recorder)


@contextmanager
def no_idle_memory() -> Iterator[None]:
    """Within, no memory of freed tensors is kept for the next ones: what is allocated is what is in use."""
    before = None if _library is None else _library.limit_idle(0)
    try:
        yield
    finally:
        if before is not None:
            _library.limit_idle(before)


def _empty(shape: Any, dtype: torch.dtype, channels_last: bool) -> torch.Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="cpu", memory_format=layout)


def all_rows(x: Any) -> Any:
    """A tensor (.., n) as the matrix of all its rows."""
    return x if x.ndim <= 2 else x.flatten(0, -2)


def with_dims_of(rows: Any, x: Any) -> Any:
    """The rows that came of those of x, in the place of those."""
    return rows if x.ndim <= 2 else _unsafe_view(rows, [*x.shape[:-1], rows.shape[1]])


def _on_stacks(call: Any, stacked: Any, *matrices: Any) -> Any:
    """call(*matrices), or under vmap stacked(...) of the stacks of which they are slices."""
    return call(*matrices) if on_stacks is None else on_stacks(call, stacked, *matrices)


def _product(a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> Any:
    x, y = all_rows(a), all_rows(b)
    c = _on_stacks(torch.mm, batch_product, x.t() if transpose_a else x, y.t() if transpose_b else y)
    return c if transpose_a else with_dims_of(c, a)


def _product_sum(a: Any, b: Any, c: Any, d: Any, bias: Any, transpose_a: bool, transpose_b: bool) -> Any:
    w, x, y, z = (all_rows(t) for t in (a, b, c, d))
    w, y = (w.t(), y.t()) if transpose_a else (w, y)
    x, z = (x.t(), z.t()) if transpose_b else (x, z)
    if bias is None:
        e = _on_stacks(_matrix_product_sum, batch_product_sum, w, x, y, z)
    else:
        e = torch.addmm(torch.addmm(bias, w, x), y, z)
    return e if transpose_a else with_dims_of(e, a)


def _matrix_product_sum(a: Any, b: Any, c: Any, d: Any) -> Any:
    return torch.addmm(torch.mm(a, b), c, d)


def _batch_product_sum(a: Any, b: Any, c: Any, d: Any) -> Any:
    return torch.matmul(a, b) + torch.matmul(c, d)


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    return with_dims_of(_on_stacks(torch.addmm, _batch_affine, bias, all_rows(x), weight.t()), x)


def _batch_affine(bias: Any, x: Any, weight: Any) -> Any:
    return batch_product(x, weight) + bias.unsqueeze(-2)


def _cross_entropy(x: Any, target: Any, reduction: int, ignored: int) -> Any:
    log_p = torch._log_softmax(x, 1, False)
    loss, count = _nll_forward(log_p, target, None, reduction, ignored)
    return loss, log_p, count


def _expect_classes(log_p: Any, target: Any, ignored: int) -> None:
    """IndexError for a target that is no class: torch's backward kernel writes there without asking, on a CPU."""
    if type(target) is not torch.Tensor or not target.is_cpu or log_p.ndim != 2 or _wrapped(target):
        return
    right = ((target == ignored) | ((target >= 0) & (target < log_p.shape[1]))).all()
    words = f"cross_entropy: a target is out of bounds of {log_p.shape[1]} classes"
    try:
        if not right.tolist():
            raise IndexError(words)
    except CaptureError:  # the condition is recorded, too
        torch._assert_async(right, words)


def _cross_entropy_gradient(g: Any, log_p: Any, target: Any, count: Any, reduction: int, ignored: int) -> Any:
    _expect_classes(log_p, target, ignored)
    pulled = _nll_backward(g, log_p, target, None, reduction, ignored, count)
    return torch._log_softmax_backward_data(pulled, log_p, 1, log_p.dtype)


def _cross_entropy_double_backward(
    z: Any, g: Any, log_p: Any, target: Any, count: Any, reduction: int, ignored: int
) -> Any:
    factor = torch.where(target == ignored, 0.0, g / count if reduction == 1 else g)
    p = torch.exp(log_p)
    return factor.unsqueeze(1) * p * (z - (z * p).sum(1, True))


def _scaled(tensors: Any, factor: float) -> Any:
    if len({(x.dtype, x.device.type) for x in tensors}) == 1 and tensors[0].device.type == "cpu":
        # a number would be made a tensor for each
        return tuple(torch._foreach_mul(tensors, torch.tensor(factor, dtype=tensors[0].dtype, device="cpu")))
    return tuple(torch._foreach_mul(tensors, factor))


def _squared_error(x: Any, target: Any, factor: float) -> Any:
    away = x - target
    return torch.sum(away * away) * (0.5 * factor)


def _scaled_difference(g: Any, x: Any, target: Any, factor: float) -> Any:
    return (x if target is None else x - target) * (g * factor)


def _sum_of_rows(x: Any) -> Any:
    return all_rows(x).sum(0)


def _relu_gradient(g: Any, y: Any) -> Any:
    return _threshold_backward(g, y, 0)


def _tanh_gradient(g: Any, y: Any) -> Any:
    return torch.addcmul(g, g * y, y, value=-1)  # g − (g y) y, a kernel less than g (1 − y²)


def _lstm_gates(a: Any, c: Any) -> Any:
    i, f, g, o = torch.chunk(a, 4, -1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = torch.addcmul(f * c, i, g)
    tau = torch.tanh(c)
    return o * tau, c, torch.cat((i, f, g, o), -1), tau


def _lstm_gradient(h_bar: Any, c_bar: Any, c: Any, gates: Any, tau: Any) -> Any:
    i, f, g, o = torch.chunk(gates, 4, -1)
    d = h_bar * o * (1 - tau * tau)
    d = d if c_bar is None else d + c_bar
    parts = (d * g * i * (1 - i), d * c * f * (1 - f), d * i * (1 - g * g), h_bar * tau * o * (1 - o))
    return torch.cat(parts, -1), d * f


def _lstm_double_backward(A: Any, C: Any, h_bar: Any, c_bar: Any, c: Any, gates: Any, tau: Any) -> Any:
    i, f, g, o = torch.chunk(gates, 4, -1)
    of_i, of_f, of_g, of_o = torch.chunk(A, 4, -1)
    C = torch.zeros_like(c) if C is None else C
    i1, f1, g1, o1, tau1 = i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o), 1 - tau * tau
    d = h_bar * o * tau1
    d = d if c_bar is None else d + c_bar
    D = of_i * g * i1 + of_f * c * f1 + of_g * i * g1 + C * f
    through = h_bar * tau1 * (of_o * o1 - 2 * tau * o * D)
    of_a = (
        i1 * (d * (of_i * g * (1 - 2 * i) + of_g * g1) + through * g),
        f1 * (d * (of_f * c * (1 - 2 * f) + C) + through * c),
        g1 * (d * (of_i * i1 - 2 * g * i * of_g) + through * i),
        h_bar * o1 * (D * tau1 + of_o * tau * (1 - 2 * o)),
    )
    return D * o * tau1 + of_o * tau * o1, D, torch.cat(of_a, -1), of_f * d * f1 + through * f


on_stacks = None if _library is None else _library.on_stacks
"""Of neo/functions/_stacks.py."""
look = None if _library is None else _library.look
"""What look.h declares, for the tape."""
describe = None if _library is None else _library.describe
"""What buffer.h declares, for the kernels."""
add = bound("add", operator.add)
sub = bound("sub", operator.sub)
mul = bound("mul", operator.mul)
div = bound("div", operator.truediv)
neg = bound("neg", operator.neg)
exp = bound("exp", torch.exp)
log = bound("log", torch.log)
sin = bound("sin", torch.sin)
cos = bound("cos", torch.cos)
tanh = bound("tanh", torch.tanh)
ones_like = bound("ones_like", torch.ones_like)
empty = bound("empty", _empty)
"""(shape, dtype, channels_last) → a tensor on the CPU, its entries whatever they are; a thread keeps the GIL for it."""
product = bound("product", _product)
"""(a, b, transpose_a, transpose_b) → a b for matrices, each transposed first where its flag says so. A tensor (.., n)
is the matrix of all its rows; what comes back has a's leading dims, unless a is transposed."""
product_sum = bound("product_sum", _product_sum)
"""(a, b, c, d, bias or None, transpose_a, transpose_b) → a b + c d + bias, as product; flags are of both products."""
batch_product = bound("batch_product", torch.matmul)
"""(a (.., m, k), b (.., k, n)) → (.., m, n); leading dims that are not the same broadcast."""
batch_product_sum = bound("batch_product_sum", _batch_product_sum)
"""(a, b, c, d) → a b + c d, of stacks."""
affine = bound("affine", _affine)
"""(x (.., in), weight, bias) → x weightᵀ + bias."""
sum_of_rows = bound("sum_of_rows", _sum_of_rows)
"""(.., columns) → (columns,)."""
scaled = bound("scaled", _scaled)
"""(a tuple of tensors, factor) → a tuple of factor · x for each."""
squared_error = bound("squared_error", _squared_error)
"""(x, target, factor) → factor / 2 · Σ (x − target)²."""
scaled_difference = bound("scaled_difference", _scaled_difference)
"""(g, x, target, factor) → factor · g · (x − target), g a scalar; target may be None, for zero."""
cross_entropy = bound("cross_entropy", _cross_entropy)
"""(x (n, classes), target (n,), reduction 0 none, 1 mean, 2 sum, ignored) → loss, log softmax(x), rows that count."""
cross_entropy_gradient = bound("cross_entropy_gradient", _cross_entropy_gradient)
"""(g, log_p, target, count, reduction, ignored) → m g (e^log_p − onehot(target)), m = 1 / count for the mean."""
cross_entropy_double_backward = bound("cross_entropy_double_backward", _cross_entropy_double_backward)
"""(z, g, log_p, target, count, reduction, ignored) → m g p (z − Σ z p), p = e^log_p: the gradient's own, for x."""
lstm_gates = bound("lstm_gates", _lstm_gates)
"""(a (n, 4 size), c (n, size)) → h and c of the next step, the gates (n, 4 size), tanh of the next c."""
lstm_gradient = bound("lstm_gradient", _lstm_gradient)
"""(h̄, c̄ or None, c, gates, tanh of the next c) → ā and the cotangent of c."""
lstm_double_backward = bound("lstm_double_backward", _lstm_double_backward)
"""(A, C or None of what lstm_gradient gives, then its arguments) → the cotangents of h̄, c̄, a and c."""
perceptron = bound("perceptron", layers.perceptron)
"""(x, weights, biases, kinds, every) → the outputs of all layers, or a tuple of the last (functions/perceptron.py)."""
perceptron_gradient = bound("perceptron_gradient", layers.perceptron_gradient)
"""(bars, x, weights, outputs, kinds, mask, keep) → the gradients that mask asks for, the u of all layers but one."""
perceptron_double_backward = bound("perceptron_double_backward", layers.perceptron_double_backward)
"""(X, Ws, Bs, bars, x, weights, outputs, us, kinds, needs) → cotangents of the bars, x, the weights, the outputs."""
relu = bound("relu", torch.relu)
relu_gradient = bound("relu_gradient", _relu_gradient)
"""(g, y = relu x) → g where y > 0, else 0."""
tanh_gradient = bound("tanh_gradient", _tanh_gradient)
"""(g, y = tanh x) → g (1 − y²)."""
