"""neo.kernels.direct: torch's functions by a shorter way, with the same bits, and out of the way where it must be."""

from __future__ import annotations

import itertools
import math
import operator
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import neo
from neo import kernels
from neo.kernels import direct, layers
from tests.helpers.built import expect_direct


@pytest.fixture
def built():
    """Skips where the extension is missing, or fails where NEO_REQUIRE_DIRECT is set, as in continuous integration."""
    expect_direct()


UNARY = {
    direct.neg: operator.neg,
    direct.exp: torch.exp,
    direct.log: torch.log,
    direct.sin: torch.sin,
    direct.cos: torch.cos,
    direct.tanh: torch.tanh,
    direct.relu: torch.relu,
}
BINARY = {
    direct.add: torch.add,
    direct.sub: torch.sub,
    direct.mul: torch.mul,
    direct.div: torch.div,
}
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 1e38]

dtypes = st.sampled_from([torch.float32, torch.float64])
shapes = st.sampled_from([(), (1,), (0,), (0, 3), (7,), (3, 5), (2, 3, 4), (4096,), (4097,), (130, 130)])
layouts = st.sampled_from(["contiguous", "transposed", "every other", "expanded"])


def tensor(shape, dtype, layout="contiguous", seed=0):
    generator = torch.Generator().manual_seed(seed)
    if layout == "every other" and shape:
        return torch.randn(*shape[:-1], 2 * shape[-1], generator=generator, dtype=dtype)[..., ::2]
    if layout == "transposed":
        x = torch.randn(tuple(reversed(shape)), generator=generator, dtype=dtype)
        return x.permute(tuple(reversed(range(len(shape)))))
    if layout == "expanded" and shape:
        return torch.randn(*shape[:-1], 1, generator=generator, dtype=dtype).expand(shape)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    x.view(-1)[: len(SPECIAL)] = torch.tensor(SPECIAL, dtype=dtype)[: x.numel()]
    return x


def assert_same_bits(found, expected):
    assert type(found) is torch.Tensor
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert found._version == 0
    assert not found.requires_grad
    if expected.dtype.is_floating_point:
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.signbit(found)[found == 0], torch.signbit(expected)[found == 0])
    else:
        assert torch.equal(found, expected)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(list(UNARY)), shapes, dtypes, layouts)
def test_functions_of_one_tensor(function, shape, dtype, layout):
    x = tensor(shape, dtype, layout)
    assert_same_bits(function(x), UNARY[function](x))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(list(BINARY)), shapes, dtypes, layouts, dtypes, layouts)
def test_functions_of_two_tensors(function, shape, dtype, layout, other_dtype, other_layout):
    x, y = tensor(shape, dtype, layout), tensor(shape, other_dtype, other_layout, seed=1)
    assert_same_bits(function(x, y), BINARY[function](x, y))


@settings(deadline=None, max_examples=200)
@given(shapes, dtypes, layouts, layouts)
def test_gradient_of_relu(shape, dtype, layout, other_layout):
    g, y = tensor(shape, dtype, layout), tensor(shape, dtype, other_layout, seed=1)
    assert_same_bits(direct.relu_gradient(g, y), torch.ops.aten.threshold_backward(g, y, 0))


@settings(deadline=None, max_examples=200)
@given(shapes, dtypes, layouts, layouts)
def test_gradient_of_tanh(shape, dtype, layout, other_layout):
    g = torch.nan_to_num(tensor(shape, dtype, layout), posinf=1.0, neginf=-1.0)
    y = torch.tanh(tensor(shape, dtype, other_layout, seed=1))
    found, expected = direct.tanh_gradient(g, y), torch.ops.aten.tanh_backward(g, y)
    # Not the same bits: 1 − y² has one rounding where a compiler makes one instruction of it.
    error = torch.nan_to_num((found - expected).abs())
    assert bool((error <= torch.finfo(dtype).eps * g.abs()).all())
    assert torch.equal(found.isnan(), expected.isnan())


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([(0, 3), (1, 1), (3, 0), (17, 5), (64, 256), (300, 7), (2000, 3)]), dtypes, layouts)
def test_sum_of_rows(shape, dtype, layout):
    x = torch.nan_to_num(tensor(shape, dtype, layout), posinf=1.0, neginf=-1.0)
    found, exact = direct.sum_of_rows(x), x.double().sum(0)
    assert found.dtype is dtype
    assert found.shape == exact.shape
    allowed = 16 * torch.finfo(dtype).eps * x.double().abs().sum(0)
    assert bool(((found - exact).abs() <= allowed).all())


def test_what_is_no_number_spreads_in_sums_of_rows():
    x = torch.tensor([[math.inf, 1.0, math.nan], [-math.inf, math.inf, 0.0]])
    assert_same_bits(direct.sum_of_rows(x), x.sum(0))


# Class scores of few classes and of many, of rows that are ignored, infinite or no numbers.
SCORES = [(1, 1), (5, 5), (75, 5), (64, 10), (3, 16), (2, 40), (100, 20)]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(SCORES), dtypes, layouts, st.sampled_from([0, 1, 2]), st.sampled_from([-100, 0, 2]))
def test_cross_entropy_and_its_gradient(shape, dtype, layout, reduction, ignored):
    generator = torch.Generator().manual_seed(shape[0])
    x, target = tensor(shape, dtype, layout), torch.randint(0, shape[1], shape[:1], generator=generator)
    if ignored < 0:
        target[::3] = ignored
    found, expected = (
        f(x, target, reduction, ignored) for f in (direct.cross_entropy, direct._cross_entropy)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype is dtype
        torch.testing.assert_close(ours, theirs, rtol=20 * torch.finfo(dtype).eps, atol=1e-37, equal_nan=True)
    g = torch.randn(expected[0].shape, generator=generator, dtype=dtype)
    given_back = (g, expected[1], target, expected[2], reduction, ignored)
    pulled, theirs = direct.cross_entropy_gradient(*given_back), direct._cross_entropy_gradient(*given_back)
    scale = torch.nan_to_num(g).abs().max() if g.ndim else torch.ones(())
    torch.testing.assert_close(
        pulled, theirs, rtol=0, atol=20 * torch.finfo(dtype).eps * float(scale) + 1e-37, equal_nan=True
    )
    z = torch.randn(shape, generator=generator, dtype=dtype)
    back = direct.cross_entropy_double_backward(z, *given_back)
    theirs = direct._cross_entropy_double_backward(z, *given_back)
    allowed = 100 * torch.finfo(dtype).eps * float(scale) * z.abs().max().item() + 1e-37
    torch.testing.assert_close(back, theirs, rtol=0, atol=allowed, equal_nan=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropys_second_derivative_is_torchs(reduction):
    x, z = torch.randn(2, 6, 4, dtype=torch.float64)
    target = torch.tensor([0, 3, -100, 1, 1, 2])
    weights = torch.linspace(1, 2, 6, dtype=torch.float64) if reduction == "none" else 1.5

    def loss(x):
        return (F.cross_entropy(x, target, reduction=reduction) * weights).sum()

    found = neo.hvp(loss, neo.LiteTensor(x), neo.LiteTensor(z))
    torch.testing.assert_close(
        found.data, torch.autograd.functional.hvp(loss, x, z)[1], rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (torch.tensor([0, 3]), "out of bounds"),
        (torch.tensor([0, -1]), "out of bounds"),
        (torch.tensor([0]), "size mismatch"),
        (torch.tensor([0.0, 1.0]), "to be Long or Byte"),
    ],
)
def test_cross_entropy_refuses_what_torch_refuses(target, match):
    with pytest.raises((IndexError, RuntimeError, ValueError), match=match):
        direct.cross_entropy(torch.randn(2, 3), target, 1, -100)


@pytest.mark.parametrize("wrong", [4, 10**9, -5])
def test_cross_entropys_gradients_write_at_no_place_but_a_class(wrong):
    log_p, target = torch.log_softmax(torch.randn(3, 4), 1), torch.tensor([0, wrong, 1])
    for gradient in (direct.cross_entropy_gradient, direct._cross_entropy_gradient):
        with pytest.raises(IndexError, match="out of bounds"):
            gradient(torch.ones(()), log_p, target, torch.tensor(3.0), 1, -100)


def test_cross_entropy_reads_no_memory_but_the_cpus():
    x, elsewhere = torch.randn(2, 3), torch.zeros(2, dtype=torch.int64, device="meta")
    with pytest.raises(RuntimeError):
        direct.cross_entropy(x, elsewhere, 1, -100)
    with pytest.raises(RuntimeError):
        direct.cross_entropy_gradient(torch.ones(()), x, elsewhere, torch.ones(()), 1, -100)
    with pytest.raises(RuntimeError):
        direct.cross_entropy_double_backward(x, torch.ones(()), x, elsewhere, torch.ones(()), 1, -100)
    rows = torch.vmap(lambda x, t: direct.cross_entropy(x, t, 1, -100)[0])
    many, targets = torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5))
    each = [torch.nn.functional.cross_entropy(x, t) for x, t in zip(many, targets, strict=True)]
    torch.testing.assert_close(rows(many, targets), torch.stack(each))


def test_cross_entropy_of_ignored_rows_alone():
    x, target = torch.randn(3, 4), torch.full((3,), -100)
    loss, log_p, count = direct.cross_entropy(x, target, 1, -100)
    assert math.isnan(loss)
    assert count == 0
    nothing = torch.zeros(3, 4)
    assert torch.equal(direct.cross_entropy_gradient(torch.ones(()), log_p, target, count, 1, -100), nothing)
    for back in (direct.cross_entropy_double_backward, direct._cross_entropy_double_backward):
        assert torch.equal(back(torch.ones(3, 4), torch.ones(()), log_p, target, count, 1, -100), nothing)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(list(BINARY)),
    shapes,
    dtypes,
    st.one_of(
        st.floats(),
        st.integers(-5, 5),
        st.sampled_from([2**24, 2**24 + 1, -(2**53) - 1, 10**18]),
    ),
)
def test_a_tensor_and_a_number(function, shape, dtype, number):
    x = tensor(shape, dtype)
    assert_same_bits(function(x, number), BINARY[function](x, number))


@pytest.mark.parametrize("function", list(BINARY))
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.ones(3, 1), torch.ones(4)),  # broadcast
        (torch.ones(3), torch.tensor(2.0, dtype=torch.float64)),  # a 0-dim tensor does not promote
        (torch.ones(3, dtype=torch.int64), torch.ones(3)),
        (torch.arange(1, 4), torch.arange(2, 5)),
        (torch.ones(3, dtype=torch.bfloat16), torch.full((3,), 0.1, dtype=torch.bfloat16)),
        (torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.ones(2, 3, 4, 4)),
    ],
)
def test_what_is_not_alike_is_as_torch_has_it(function, one, other):
    assert_same_bits(function(one, other), BINARY[function](one, other))


def test_products():
    with kernels.switched_off():  # on torch's; on Neo's own: kernels/test_product.py
        check_products()


def check_products():
    a, b, bias = torch.randn(5, 3), torch.randn(3, 4), torch.randn(4)
    for at in (False, True):
        for bt in (False, True):
            left, right = a.t().contiguous() if at else a, b.t().contiguous() if bt else b
            expected = (left.t() if at else left) @ (right.t() if bt else right)
            assert torch.equal(direct.product(left, right, at, bt), expected)
    assert torch.equal(direct.affine(a, b.t(), bias), torch.addmm(bias, a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        ((), False),
        ((0,), False),
        ((3, 4), False),
        ((2, 3, 4, 5), False),
        ((2, 3, 4, 5), True),
        ((1, 8, 1, 1), True),
    ],
)
def test_empty_has_torchs_layout(shape, channels_last, dtype):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    expected = torch.empty(shape, dtype=dtype, memory_format=layout)
    for size in (shape, torch.Size(shape)):
        found = direct.empty(size, dtype, channels_last)
        assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), dtype)
        assert found.device.type == "cpu"
        assert not found.requires_grad
        found.zero_()  # its memory is there


def test_errors_are_torchs_own():
    with pytest.raises(RuntimeError, match="negative dimension"):
        direct.empty((2, -1), torch.float32, False)
    with pytest.raises(RuntimeError, match="size of tensor a"):
        direct.mul(torch.ones(3), torch.ones(4))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        direct.product(torch.ones(3, 2), torch.ones(3, 2), False, False)
    with pytest.raises(TypeError):
        direct.add(torch.ones(3), None)
    with pytest.raises(TypeError):
        direct.sin(torch.ones(3), torch.ones(3), torch.ones(3))


# --- what it leaves to torch, or to Neo's own functions ------------------------------------------------------------


def test_lite_tensors_are_recorded():
    gradient = neo.grad(
        lambda x: (direct.mul(direct.sin(x), x) + direct.tanh_gradient(x, x)).sum(), argnums=0
    )
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    expected = torch.cos(x) * x + torch.sin(x) + 1 - 3 * x * x
    torch.testing.assert_close(gradient(neo.LiteTensor(x)).data, expected)


def test_tensors_that_require_a_gradient_get_one():
    x = torch.nn.Parameter(torch.ones(3))
    direct.mul(direct.exp(x), x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 2 * math.e))


def test_transforms_of_torch_see_each_row():
    x = torch.randn(4, 3)
    torch.testing.assert_close(torch.vmap(lambda row: direct.mul(row, row).sum())(x), (x * x).sum(1))
    torch.testing.assert_close(torch.func.grad(lambda x: direct.sin(x).sum())(x), x.cos())


def test_inference_mode_gives_inference_tensors():
    with torch.inference_mode():
        assert direct.mul(torch.ones(3), torch.ones(3)).is_inference()


def test_subclasses_keep_their_class():
    class Named(torch.Tensor):
        pass

    assert type(direct.mul(torch.ones(3).as_subclass(Named), torch.ones(3))) is Named


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Functions, Dispatches])
def test_open_modes_see_every_call(mode):
    x = torch.ones(3)
    with mode() as watching:
        direct.mul(x, x)
        direct.tanh(x)
    assert len(watching.seen) == 2


def test_profilers_see_every_call():
    x = torch.ones(3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        direct.mul(x, x)
    assert "aten::mul" in {event.name for event in profile.events()}


def test_autocast_is_heeded():
    a = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert direct.product(a, a, False, False).dtype is torch.bfloat16


SHORT = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "neg": 1, "exp": 1, "log": 1, "sin": 1, "cos": 1, "tanh": 1, "relu": 1,
    "tanh_gradient": 2, "relu_gradient": 2, "affine": 3, "sum_of_rows": 1,
}  # fmt: skip


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("name", SHORT)
def test_plain_tensors_take_the_short_way(name):
    def long_way(*arguments):
        raise AssertionError("the long way")

    function = direct._library.bind(name, long_way)
    tensors = [torch.ones(3, 3)] * SHORT[name]
    assert function(*tensors).shape == ((3,) if name == "sum_of_rows" else (3, 3))
    with pytest.raises(AssertionError, match="the long way"):
        function(*[neo.LiteTensor(x) for x in tensors])


@pytest.mark.usefixtures("built")
def test_cross_entropy_takes_the_short_way():
    def long_way(*arguments):
        raise AssertionError("the long way")

    x, target = torch.zeros(2, 3), torch.tensor([0, 2])
    _, log_p, count = direct._library.bind("cross_entropy", long_way)(x, target, 1, -100)
    gradient = direct._library.bind("cross_entropy_gradient", long_way)
    back = direct._library.bind("cross_entropy_double_backward", long_way)
    assert gradient(torch.ones(()), log_p, target, count, 1, -100).shape == (2, 3)
    assert back(log_p, torch.ones(()), log_p, target, count, 1, -100).shape == (2, 3)
    for changed in (log_p.double(), log_p.t(), neo.LiteTensor(log_p)):
        with pytest.raises(AssertionError, match="the long way"):
            back(changed, torch.ones(()), log_p, target, count, 1, -100)
    with pytest.raises(AssertionError, match="the long way"):
        gradient(neo.LiteTensor(torch.ones(())), log_p, target, count, 1, -100)


@pytest.mark.usefixtures("built")
def test_results_belong_to_nobody_else():
    x = torch.ones(3)
    for y in (direct.mul(x, 1), direct.add(x, 0.0), direct.relu(x), direct.neg(torch.empty(0))):
        assert y is not x
        assert y.numel() == 0 or y.data_ptr() != x.data_ptr()


def test_without_the_extension_torch_serves():
    script = (
        "import sys; sys.modules['neo.kernels._direct'] = None\n"
        "import operator, torch, neo\n"
        "from neo.kernels import direct\n"
        "assert direct.look is None and direct.mul is operator.mul\n"
        "x = neo.LiteTensor(torch.linspace(-1, 1, 6, dtype=torch.float64))\n"
        "f = lambda x: (torch.tanh(x) * torch.sin(x) / 2 - torch.relu(x)).sum()\n"
        "neo.gradcheck(f, x, order=2)\n"
        "w = neo.ones((2, 5), dtype=torch.float64)\n"
        "neo.gradcheck(lambda w: (torch.nn.functional.linear(w, w, w[:, 0]) ** 2).sum(), w, order=2)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# --- where large tensors lie ------------------------------------------------------------------------------------

LARGE = 1 << 18  # entries of float32: a megabyte


@pytest.mark.usefixtures("built")
def test_a_large_tensor_takes_the_block_of_the_last_one_of_its_size():
    def new(entries):
        return direct.empty((entries,), torch.float32, False)

    first, second, other = new(LARGE), new(LARGE), new(LARGE + 64)
    places = [x.data_ptr() for x in (first, second, other)]
    assert len(set(places)) == 3
    view = first[7:9]
    del first
    assert new(LARGE).data_ptr() not in places  # the view holds the memory
    del view, second
    assert new(LARGE).data_ptr() == places[1]  # freed last, taken first
    del other
    assert new(LARGE + 64).data_ptr() == places[2]


@pytest.mark.usefixtures("built")
def test_idle_memory_has_a_limit_and_what_is_longest_unused_goes_first():
    limit = 32 << 20
    for entries in range(LARGE, 41 * LARGE, LARGE):  # up to 40 MB, each of another size
        direct.empty((entries,), torch.float32, False)
        assert 0 < direct._library.idle_bytes() <= limit
    x = direct.empty((4 * LARGE,), torch.float32, False)
    place = x.data_ptr()
    del x
    small = [direct.empty((LARGE,), torch.float32, False) for _ in range(20)]
    del small
    assert direct._library.idle_bytes() <= limit
    assert direct.empty((4 * LARGE,), torch.float32, False).data_ptr() == place


@pytest.mark.usefixtures("built")
def test_large_tensors_of_many_threads_are_never_in_one_place():
    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        held = []
        for step in range(200):
            entries = LARGE // 8 * int(torch.randint(1, 4, (), generator=generator))
            x = direct.empty((entries,), torch.float32, False).fill_(1000 * seed + step)
            held.append((x, 1000 * seed + step))
            if len(held) > 5:
                index = int(torch.randint(0, len(held), (), generator=generator))
                y, value = held.pop(index)
                if not bool((y == value).all()):
                    return False
        return all(bool((y == value).all()) for y, value in held)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(1, 9)))


@pytest.mark.usefixtures("built")
def test_a_large_tensor_may_grow_and_be_shared_as_any_other():
    x = direct.empty((LARGE,), torch.float32, False).fill_(3)
    x.resize_(4 * LARGE)
    assert bool((x[:LARGE] == 3).all())
    x = direct.empty((LARGE,), torch.float32, False).fill_(2)
    x.share_memory_()
    assert bool((x == 2).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "size"), [(1, 1), (3, 5), (70, 64)])
@pytest.mark.parametrize("given", [True, False], ids=["all", "no cotangent of c"])
def test_the_gates_of_an_lstm_are_torch_s_to_a_rounding(built, dtype, n, size, given) -> None:
    a, A = (tensor((n, 4 * size), dtype, "every other", seed).contiguous() for seed in (1, 2))
    c, h_bar, c_bar, C = (tensor((n, size), dtype, "every other", seed).contiguous() for seed in (3, 4, 5, 6))
    c_bar, C = (c_bar, C) if given else (None, None)
    *_, gates, tau = direct.lstm_gates(a, c)
    calls = [
        (direct.lstm_gates, direct._lstm_gates, (a, c)),
        (direct.lstm_gradient, direct._lstm_gradient, (h_bar, c_bar, c, gates, tau)),
        (direct.lstm_double_backward, direct._lstm_double_backward, (A, C, h_bar, c_bar, c, gates, tau)),
    ]
    for own, plain, args in calls:
        for got, right in zip(own(*args), plain(*args), strict=True):
            torch.testing.assert_close(got, right)
    strided = tensor((n, size), dtype, "every other")
    for got, right in zip(direct.lstm_gates(a, strided), direct.lstm_gates(a, strided.clone()), strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize("kinds", ["rst-", "sr", "tss", "--r"])
@pytest.mark.parametrize("stack", [(), (3,)])
def test_a_perceptron_of_many_entries_is_its_fallback_s(built, kinds, stack) -> None:
    """Beyond FEW entries the activations are torch's vectors, and sums of rows torch's too."""
    n, widths = 90, [7, 64, 80, 50, 70][: len(kinds) + 1]
    generator = torch.Generator().manual_seed(0)

    def one(*shape):
        return torch.randn((*stack, *shape), generator=generator, dtype=torch.float64)

    x, count = one(n, widths[0]), len(kinds)
    weights = tuple(one(b, a) / a for a, b in itertools.pairwise(widths))
    biases, bars = tuple(one(b) for b in widths[1:]), tuple(one(n, b) for b in widths[1:])
    outputs = layers.perceptron(x, weights, biases, kinds, True)
    mask, needs = (True,) * (2 * count + 1), (True,) * (2 * count + 1)
    found, us = layers.perceptron_gradient(bars, x, weights, outputs, kinds, mask, True)
    cotangents = (
        one(n, widths[0]),
        tuple(one(*w.shape[-2:]) for w in weights),
        tuple(one(b) for b in widths[1:]),
    )
    second = (*cotangents, bars, x, weights, outputs, us, kinds, needs)
    untouched = [value.clone() for value in (*bars, *outputs, *us)]
    calls = [
        (direct.perceptron(x, weights, biases, kinds, True), outputs),
        (direct.perceptron_gradient(bars, x, weights, outputs, kinds, mask, True)[0], found),
        (direct.perceptron_gradient(bars, x, weights, outputs, kinds, mask, True)[1], us),
        (direct.perceptron_gradient(bars, x, weights, outputs, kinds, mask, False)[0], found),
        *zip(
            direct.perceptron_double_backward(*second),
            layers.perceptron_double_backward(*second),
            strict=True,
        ),
    ]
    for got, right in calls:
        pairs = zip(got, right, strict=True) if isinstance(got, tuple) else [(got, right)]
        for one_of, other in pairs:
            torch.testing.assert_close(one_of, other, rtol=1e-11, atol=1e-11)
    for value, before in zip((*bars, *outputs, *us), untouched, strict=True):
        assert torch.equal(value, before)
