"""Every function of _direct with tensors of any shape, stride, dtype and device: torch's result, or an error."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neo.kernels import attention, direct, rows

pytestmark = pytest.mark.usefixtures("own_kernels")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 4e-3}
CLEAN = (
    RuntimeError,
    TypeError,
    IndexError,
    ValueError,
    OverflowError,
    AssertionError,
)  # the last of torch's meta kernels


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The numbers of x in another layout; but for "expanded", its first row again and again."""
    if layout == "sliced" and x.ndim:
        return x.repeat_interleave(2, dim=0)[::2]
    if layout == "columns sliced" and x.ndim:
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "transposed" and x.ndim > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "offset":
        return x.new_zeros(x.numel() + 3)[3:].view(x.shape).copy_(x)
    if layout == "expanded" and x.ndim and x.shape[0]:
        return x[:1].expand(x.shape)
    if layout == "channels-last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "negative bit" and x.is_floating_point():
        return torch._neg_view(-x)
    if layout == "meta":
        return x.to("meta")
    return x


LAYOUTS = [
    "plain", "sliced", "columns sliced", "transposed", "offset", "expanded", "channels-last", "negative bit", "meta"
]  # fmt: skip
dims = st.sampled_from([0, 1, 2, 3, 5, 16, 17, 65])
shapes = st.one_of(
    st.just(()), st.tuples(dims), st.tuples(dims, dims), st.tuples(dims, dims),
    st.sampled_from([(2, 3, 4), (2, 8, 3, 3), (4097,), (1, 1)]),
)  # fmt: skip
layouts = st.one_of(st.just("plain"), st.sampled_from(LAYOUTS))
dtypes = st.one_of(st.sampled_from(DTYPES[:2]), st.sampled_from(DTYPES))


@st.composite
def tensors(draw: Any, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    shape = draw(shapes) if shape is None or draw(st.integers(0, 9)) == 0 else shape
    generator = torch.Generator().manual_seed(draw(st.integers(0, 3)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    return laid_out(x.to(draw(dtypes)), draw(layouts))


@st.composite
def alike(draw: Any, count: int) -> tuple[Any, ...]:
    """Tensors that are mostly of one shape and dtype."""
    first = draw(tensors())
    rest = []
    for _ in range(count - 1):
        other = draw(tensors(tuple(first.shape)))
        rest.append(other.to(first.dtype) if draw(st.booleans()) else other)
    return (first, *rest)


numbers = st.sampled_from([0, 1, -2, 0.5, True, None, 2**24 + 1, 2**70, float("nan"), "x"])


@st.composite
def with_number(draw: Any) -> tuple[Any, ...]:
    return draw(tensors()), draw(numbers)


@st.composite
def matrices(draw: Any, bias: bool) -> tuple[Any, ...]:
    m, k, n = draw(dims), draw(dims), draw(dims)
    at, bt = draw(st.booleans()), draw(st.booleans())
    if bias:
        x, weight, b = draw(tensors((m, k))), draw(tensors((n, k))), draw(tensors((n,)))
        return (x, weight.to(x.dtype), b.to(x.dtype)) if draw(st.booleans()) else (x, weight, b)
    a, b = draw(tensors((k, m) if at else (m, k))), draw(tensors((n, k) if bt else (k, n)))
    flags = (at, bt) if draw(st.integers(0, 4)) else (int(at), int(bt))
    return (a, b.to(a.dtype) if draw(st.booleans()) else b, *flags)


@st.composite
def stacks(draw: Any) -> tuple[torch.Tensor, ...]:
    m, k, n = draw(dims), draw(dims), draw(dims)
    leading = draw(st.sampled_from([(), (1,), (3,), (0,), (2, 3), (2, 1)]))
    other = leading if draw(st.integers(0, 3)) else draw(st.sampled_from([(), (1,), (3,), (2, 3)]))
    a, b = draw(tensors((*leading, m, k))), draw(tensors((*other, k, n)))
    return a, b.to(a.dtype) if draw(st.booleans()) else b


@st.composite
def sums_of_products(draw: Any) -> tuple[Any, ...]:
    """Two products of one shape, of which the second may have terms of its own, or be in another dtype."""
    m, n, terms = draw(dims), draw(dims), (draw(dims), draw(dims))
    at, bt, same = (draw(st.booleans()) for _ in range(3))
    pairs = [
        draw(tensors(shape))
        for k in (terms[0], terms[0] if same else terms[1])
        for shape in ((k, m) if at else (m, k), (n, k) if bt else (k, n))
    ]
    if draw(st.integers(0, 4)):
        pairs = [x.to(pairs[0].dtype) for x in pairs]
    bias = draw(tensors((n,))).to(pairs[0].dtype) if draw(st.booleans()) else None
    return *pairs, bias, *((at, bt) if draw(st.integers(0, 4)) else (int(at), int(bt)))


@st.composite
def sums_of_stacks(draw: Any) -> tuple[torch.Tensor, ...]:
    a, b = draw(stacks())
    same = a.ndim < 2 or b.ndim < 2 or draw(st.integers(0, 3))
    c = draw(tensors(tuple(a.shape) if same else (*a.shape[:-1], 3)))
    d = draw(tensors(tuple(b.shape) if same else (*b.shape[:-2], 3, b.shape[-1])))
    return tuple(x.to(a.dtype) for x in (a, b, c, d)) if draw(st.integers(0, 4)) else (a, b, c, d)


@st.composite
def losses(draw: Any, kind: str) -> tuple[Any, ...]:
    n, classes = draw(st.sampled_from([0, 1, 2, 7, 33])), draw(st.sampled_from([0, 1, 3, 16, 20]))
    dtype = draw(st.sampled_from(DTYPES[:2]))
    reduction = draw(st.sampled_from([0, 1, 2, 3, -1]))
    ignored = draw(st.sampled_from([-100, 0, 1]))
    index = st.integers(0, max(0, classes - 1))
    target = [
        draw(index) if draw(st.integers(0, 30)) else draw(st.sampled_from([-1, classes, ignored]))
        for _ in range(n)
    ]
    kept = sum(i != ignored for i in target)
    target = laid_out(
        torch.tensor(target, dtype=torch.int64), draw(st.sampled_from(["plain", "sliced", "expanded"]))
    )
    x = draw(tensors((n, classes))).to(dtype)
    if kind == "cross_entropy":
        return x, target, reduction, ignored
    log_p = torch.log_softmax(x, -1) if x.ndim and not x.is_sparse else x
    g = draw(tensors((n,) if reduction == 0 else ())).to(dtype)
    given = (g, log_p, target, torch.tensor(float(kept), dtype=dtype), reduction, ignored)
    return given if kind == "cross_entropy_gradient" else (draw(tensors((n, classes))).to(dtype), *given)


@st.composite
def recurrences(draw: Any, kind: str) -> tuple[Any, ...]:
    n, size = draw(st.sampled_from([0, 1, 3, 17])), draw(st.sampled_from([0, 1, 2, 16]))
    dtype = draw(st.sampled_from(DTYPES[:2]))

    def one(columns: int) -> torch.Tensor:
        x = draw(tensors((n, columns)))
        return x.to(dtype) if draw(st.integers(0, 9)) else x

    def or_none() -> torch.Tensor | None:
        return one(size) if draw(st.booleans()) else None

    if kind == "lstm_gates":
        return one(4 * size), one(size)
    given = (one(size), or_none(), one(size), one(4 * size), one(size))
    return given if kind == "lstm_gradient" else (one(4 * size), or_none(), *given)


@st.composite
def layer_norms(draw: Any) -> tuple[Any, ...]:
    """X, W, B, g, x, weight, mean, scale, shape, needs, mostly as a layer norm has them.

    mean and scale are contiguous, as torch's forward gives them: its backward reads past the end of others.
    """
    rows, columns = (
        draw(st.sampled_from([(1,), (3,), (2, 3), (65,), (0,)])),
        draw(st.sampled_from([1, 3, 16, 37])),
    )
    shape = draw(
        st.sampled_from([(columns,), (columns,), (rows[-1], columns), (), (columns + 1,), (1.5,), None])
    )
    kept = rows[: len(rows) + 1 - len(shape)] if shape else rows
    dtype = draw(st.sampled_from(DTYPES[:2]))

    def one(*size: int) -> torch.Tensor:
        x = draw(tensors(size))
        return x.to(dtype) if draw(st.integers(0, 9)) else x

    def or_none(*size: int) -> torch.Tensor | None:
        return one(*size) if draw(st.booleans()) else None

    last = shape if shape and shape != (1.5,) else (columns,)
    ones = (1,) * len(last)
    return (
        or_none(*rows, columns), or_none(*last), or_none(*last), or_none(*rows, columns), one(*rows, columns),
        or_none(*last), one(*kept, *ones).contiguous(), one(*kept, *ones).contiguous(), shape,
        tuple(draw(st.booleans()) for _ in range(draw(st.sampled_from([3, 3, 3, 2])))),
    )  # fmt: skip


@st.composite
def perceptrons(draw: Any, kind: str) -> tuple[Any, ...]:
    dtype, n = draw(st.sampled_from(DTYPES[:2])), draw(st.sampled_from([0, 1, 3, 17]))
    stack = draw(st.sampled_from([(), (), (1,), (3,)]))
    widths = draw(st.lists(st.sampled_from([1, 2, 5, 16, 70]), min_size=2, max_size=4))
    count = len(widths) - 1
    kinds = "".join(draw(st.sampled_from("-rts")) for _ in range(count))
    shared = draw(st.booleans())  # one net for the whole stack

    def one(*shape: int) -> torch.Tensor:
        x = draw(tensors((*stack, *shape)))
        return x.to(dtype) if draw(st.integers(0, 19)) else x

    def layer(*shape: int) -> torch.Tensor:
        return (
            one(*shape)[:1].expand(*stack, *shape)
            if stack and shared and draw(st.integers(0, 3))
            else one(*shape)
        )

    def some(values: Any) -> tuple[Any, ...]:
        return tuple(value if draw(st.integers(0, 3)) else None for value in values)

    x = one(n, widths[0])
    try:
        weights = tuple(layer(b, a) for a, b in itertools.pairwise(widths))
        biases = tuple(layer(b) for b in widths[1:])
    except (RuntimeError, IndexError):  # of another shape than was asked for, which does not expand
        weights, biases = (
            tuple(one(*shape) for shape in shapes)
            for shapes in ([(b, a) for a, b in itertools.pairwise(widths)], [(b,) for b in widths[1:]])
        )
    if kind == "perceptron":
        return x, weights, biases, kinds, draw(st.booleans())
    rows = [one(n, width) for width in widths[1:]]
    outputs = tuple(rows[:-1] if kinds[-1] == "-" and draw(st.booleans()) else rows)
    bars = (*some([one(n, width) for width in widths[1:-1]]), one(n, widths[-1]))
    mask = tuple(draw(st.booleans()) for _ in range(1 + 2 * count))
    if kind == "perceptron_gradient":
        return bars, x, weights, outputs, kinds, mask, draw(st.booleans())
    of_weights, of_biases = (
        some([one(b, a) for a, b in itertools.pairwise(widths)]),
        some([one(b) for b in widths[1:]]),
    )
    of_x = one(n, widths[0]) if draw(st.booleans()) else None
    us = some([one(n, width) for width in widths[1:-1]])
    needs = tuple(draw(st.booleans()) for _ in range(1 + count + len(outputs)))
    return of_x, of_weights, of_biases, bars, x, weights, outputs, us, kinds, needs


@st.composite
def squared_errors(draw: Any, gradient: bool) -> tuple[Any, ...]:
    x, target = draw(alike(2))
    factor = draw(st.sampled_from([2.0, 0.25, 2, None]))
    if not gradient:
        return x, target, factor
    return draw(tensors(())).to(x.dtype), x, target if draw(st.integers(0, 3)) else None, factor


@st.composite
def attentions(draw: Any, kind: str) -> tuple[Any, ...]:
    """Queries, keys and values as stacks, or in one tensor of rows; a cotangent for each, or None."""
    heads, places_first = draw(st.sampled_from([0, 0, 1, 3])), draw(st.booleans())
    n, h, places, others = draw(dims), draw(dims) % 4, draw(dims), draw(dims)
    width, value_width = draw(dims), draw(dims)
    dtype = draw(st.sampled_from(DTYPES[:2]))

    def one(*size: int) -> torch.Tensor:
        x = draw(tensors(size))
        return x.to(dtype) if draw(st.integers(0, 15)) else x

    if heads:
        shapes = [(n, places, 3 * heads * (width % 20) + (not draw(st.integers(0, 15))))]
        weights, out = (places if places_first else n, heads, *[n if places_first else places] * 2), None
        out = (*shapes[0][:2], shapes[0][2] // 3)
    else:
        shapes = [(n, h, places, width), (n, h, others, width), (n, h, others, value_width)]
        weights, out = (n, h, places, others), (n, h, places, value_width)
    given = tuple(one(*shape) for shape in shapes)
    scale = draw(st.sampled_from([0.5, -2.0, 1]))
    if kind == "attention":
        return given, heads, places_first, draw(st.booleans()), scale
    g, weights = one(*out), torch.softmax(one(*weights).float(), -1).to(dtype)
    needs = tuple(draw(st.booleans()) for _ in shapes)
    if kind == "attention_gradient":
        return g, given, weights, heads, places_first, scale, needs
    of = tuple(one(*shape) if draw(st.integers(0, 2)) else None for shape in shapes)
    if draw(st.integers(0, 3)) == 0:
        g, needs = None, tuple(False for _ in shapes)
    return of, g, given, weights, heads, places_first, scale, (draw(st.booleans()), *needs)


sizes = st.lists(st.sampled_from([0, 1, 3, 8, -1, 2**31, 2**62, 2**70, "x", 1.5]), max_size=5).map(tuple)
ATTENTION = ["attention", "attention_gradient", "attention_second_order"]
ARGUMENTS: dict[str, Any] = {
    **{name: st.one_of(alike(2), with_number()) for name in ("add", "sub", "mul", "div")},
    **{
        name: alike(1)
        for name in ("neg", "exp", "log", "sin", "cos", "tanh", "relu", "ones_like", "sum_of_rows")
    },
    **{name: alike(2) for name in ("relu_gradient", "tanh_gradient")},
    "product": matrices(False),
    "affine": matrices(True),
    "product_sum": sums_of_products(),
    "batch_product": stacks(),
    "batch_product_sum": sums_of_stacks(),
    **{
        name: losses(name)
        for name in ("cross_entropy", "cross_entropy_gradient", "cross_entropy_double_backward")
    },
    **{name: recurrences(name) for name in ("lstm_double_backward", "lstm_gates", "lstm_gradient")},
    "gelu_gradient": alike(2),
    "gelu_bend": alike(3),
    "layer_norm_second_order": layer_norms(),
    **{name: attentions(name) for name in ATTENTION},
    **{
        name: perceptrons(name)
        for name in ("perceptron", "perceptron_double_backward", "perceptron_gradient")
    },
    "scaled": st.tuples(st.one_of(alike(1), alike(2), alike(3)), st.sampled_from([0.5, -2.0, 3])),
    "scaled_difference": squared_errors(True),
    "squared_error": squared_errors(False),
    "empty": st.tuples(sizes, st.sampled_from(DTYPES), st.sampled_from([True, False, 1, None])),
}


OF_VARIANTS = [
    "product", "product_sum", "affine", "batch_product", "batch_product_sum",
    "perceptron", "perceptron_double_backward", "perceptron_gradient",
    "gelu_gradient", "gelu_bend", "layer_norm_second_order", *ATTENTION,
]  # fmt: skip


def flat(values: Any) -> list[Any]:
    return (
        [leaf for value in values for leaf in flat(value)] if isinstance(values, tuple | list) else [values]
    )


# Their fallback gives None, so that torch serves: nothing to compare with here. test_group_convolution.py does the same
# with them, operands of any layout, dtype and device included.
IN_GROUPS = {"group_convolution", "group_input_gradient", "group_weight_gradient"}


def test_every_function_of_direct_is_tried_here() -> None:
    assert set(direct._library.NAMES) == set(ARGUMENTS) | IN_GROUPS


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except CLEAN as error:
        return error


def fallback(name: str) -> Callable[..., Any]:
    """What the function is bound to where the extension is missing."""
    return entry(name).__self__


def entry(name: str) -> Any:
    return next(getattr(module, name) for module in (direct, rows, attention) if hasattr(module, name))


@pytest.mark.parametrize("name", ARGUMENTS)
@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_function_equals_its_fallback_or_refuses_as_that_does(
    name: str, variant: str, data: st.DataObject
) -> None:
    if variant != "_baseline" and name not in OF_VARIANTS:
        return  # which know nothing of the variant
    arguments = data.draw(ARGUMENTS[name])
    got, right = outcome(entry(name), arguments), outcome(fallback(name), arguments)
    if len({x.device for x in flat(arguments) if isinstance(x, torch.Tensor)}) > 1:
        return  # for some, torch gives what lay in memory: all that is asked is that nothing is overrun
    if isinstance(right, Exception):
        assert isinstance(got, Exception), f"took what torch refuses: {right}"
        return
    if isinstance(got, Exception):
        assert name == "tanh_gradient", (
            f"refused what torch takes: {got}"
        )  # its fallback is made of other kernels
        return
    if name == "empty":
        assert (got.shape, got.stride(), got.dtype) == (right.shape, right.stride(), right.dtype)
        return
    for one, other in zip(flat(got), flat(right), strict=True):
        if one is None or other is None:
            assert one is None, "a gradient that nobody asked for"
            assert other is None, "a gradient is missing"
        else:
            assert_same(one, other, arguments)


def assert_same(got: torch.Tensor, right: torch.Tensor, arguments: tuple[Any, ...]) -> None:
    assert (got.shape, got.dtype, got.device, got.layout) == (
        right.shape,
        right.dtype,
        right.device,
        right.layout,
    )
    if got.is_meta:
        return
    got, right = (x.to_dense() if x.is_sparse else x for x in (got, right))
    bound = TOLERANCE.get(got.dtype, 0.0)
    largest = max([1.0, *(float(x.abs().nan_to_num().max()) for x in (right.double(),) if x.numel())])
    torch.testing.assert_close(got, right, rtol=bound, atol=20 * bound * largest, equal_nan=True)
