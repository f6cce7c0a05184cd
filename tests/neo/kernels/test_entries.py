"""No entry of the compiled kernels touches memory that it was not given: what it gives is torch's, or it refuses.

Each entry is called as it should be, and with each of its tensors replaced by one that it was not written for: strided,
expanded, transposed, offset, of another count, dtype, layout or device, on memory let go or shared with an output.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import neo
from neo import kernels
from neo.errors import KernelArgumentError
from neo.kernels import direct
from tests.neo.kernels.entries import ENTRIES, Call, Case, moments_of, spread_of

HELPERS = {"Kernel", "readable", "record", "takes", "use_describe"}  # which read no memory of a tensor
ERROR = {torch.float64: 1e-9, torch.float32: 3e-3}  # of the norm of what torch gives in float64


@pytest.fixture(params=["torch's fields", "attributes"])
def described(request: pytest.FixtureRequest, variant: str) -> Iterator[None]:
    """Both ways in which a kernel learns of a tensor: from _direct, and without it."""
    if request.param == "attributes":
        if variant != "_baseline":
            pytest.skip("the same text in every variant: tried once")
        kernels.library.use_describe(None)
    elif direct.describe is None:
        pytest.skip("neo.kernels._direct is not built for this torch; make env builds it")
    yield
    kernels.library.use_describe(direct.describe)


def test_every_entry_of_the_compiled_kernels_is_tried_here() -> None:
    found = {
        name
        for name, value in vars(kernels.library).items()
        if isinstance(value, kernels.library.Kernel)
        or (callable(value) and getattr(value, "__module__", None) == kernels.library.__name__)
    }
    assert found == set(ENTRIES) | HELPERS


def lanes(dtype: torch.dtype) -> int:
    return kernels.library.BYTES // dtype.itemsize


def assert_right(call: Call, arguments: dict[str, Any], dtype: torch.dtype) -> None:
    for name, right in call.expected.items():
        got = arguments[name]
        if got is None:
            continue
        error = (got.double() - right.detach()).norm()
        assert error <= ERROR[dtype] * (right.detach().norm() + 1), f"{name} is off by {error}"


cases = st.builds(
    Case,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    n=st.integers(1, 4),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    planes=st.integers(1, 4),
    h=st.integers(4, 13),
    w=st.integers(4, 13),
    stride=st.sampled_from([1, 2]),
    window=st.sampled_from([1, 2]),
    slope=st.sampled_from([0.0, 0.1, 1.0]),
    optional=st.booleans(),
)


@pytest.mark.parametrize("entry", ENTRIES)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases, data=st.data())
def test_entry_of_any_sizes_and_layouts_equals_torch(entry: str, case: Case, data: st.DataObject) -> None:
    case = Case(**{**vars(case), "lanes": lanes(case.dtype)})
    call = ENTRIES[entry](case)
    arguments = dict(call.arguments)
    tensors = [name for name, value in arguments.items() if isinstance(value, torch.Tensor)]
    for name in data.draw(st.lists(st.sampled_from(tensors), max_size=2, unique=True)):
        arguments[name] = data.draw(st.sampled_from(sorted(RELAID)))  # shown by name where it fails
        arguments[name] = RELAID[arguments[name]](call.arguments[name])
    try:
        getattr(kernels.library, entry)(**arguments)
    except KernelArgumentError:
        assert any(arguments[name] is not call.arguments[name] for name in tensors)
        return
    assert_right(call, arguments, case.dtype)


# --- one argument at a time -----------------------------------------------------------------------------------------

# The same numbers elsewhere or laid out otherwise: taken and computed with rightly, or refused.


def sliced(x: torch.Tensor) -> torch.Tensor:
    wide = x.repeat_interleave(2, dim=0)
    return wide[::2]


def columns_sliced(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, dim=-1)[..., ::2]


def transposed(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def offset(x: torch.Tensor) -> torch.Tensor:
    room = x.new_zeros(x.numel() + 3)
    return room[3:].as_strided(x.shape, x.stride(), 3).copy_(x)


def at_an_odd_address(x: torch.Tensor) -> torch.Tensor:
    room = torch.zeros(x.nbytes + 1, dtype=torch.uint8)
    moved = torch.frombuffer(room.numpy(), dtype=x.dtype, offset=1, count=x.numel())
    return moved.as_strided(x.shape, x.stride()).copy_(x)


def negated_view(x: torch.Tensor) -> torch.Tensor:
    return torch._neg_view(-x) if x.is_floating_point() else x


def expanded(x: torch.Tensor) -> torch.Tensor:
    return x[:1].expand(x.shape)  # other numbers where there is more than one row: to be refused


RELAID: dict[str, Callable[[torch.Tensor], Any]] = {
    "sliced": sliced,
    "columns sliced": columns_sliced,
    "transposed": transposed,
    "contiguous": lambda x: x.contiguous().clone(),
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
    "offset": offset,
    "odd address": at_an_odd_address,
    "negative bit": negated_view,
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=False),
}

# What no kernel may compute with.


def let_go(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def cut_off(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.untyped_storage().resize_(x.nbytes - x.element_size())
    return x


def fake(x: torch.Tensor) -> torch.Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


OTHER: dict[str, Callable[[torch.Tensor], Any]] = {
    "one less": lambda x: x[:-1].clone(),
    "one more": lambda x: torch.cat([x, x[:1]]),
    "twice as many": lambda x: torch.cat([x, x]),
    "one": lambda x: x[:1].clone() if x.shape[0] > 1 else x[:0],
    "empty": lambda x: x[:0],
    "last dim less": lambda x: x[..., :-1].clone(),
    "first dim alone": lambda x: x.select(-1, 0).clone(),
    "one dim more": lambda x: x[None].clone(),
    "flat": lambda x: x.reshape(-1).clone() if x.ndim > 1 else x[:, None].clone(),
    "second dim halved": lambda x: x[:, : x.shape[1] // 2].clone() if x.ndim > 1 else x[:-1].clone(),
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "the other float": lambda x: x.float() if x.dtype is not torch.float32 else x.double(),
    "int64": lambda x: x.long(),
    "complex": lambda x: x.to(torch.complex64),
    "boolean": lambda x: x.bool(),
    "meta": lambda x: x.to("meta"),
    "fake": fake,
    "sparse": lambda x: x.to_sparse(),
    "expanded": lambda x: x[:1].expand(x.shape) if x.shape[0] > 1 else x.expand(2, *x.shape[1:]),
    "memory let go": let_go,
    "memory cut off": cut_off,
    "lite": lambda x: neo.LiteTensor(x),
    "numpy": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "number": lambda x: 1.0,
    "string": lambda x: "x",
}


# Where nothing else says how many images there are, and how large.
SUMMARIES: dict[tuple[str, str], Callable[[dict[str, Any]], Call]] = {
    ("convolution_bias", "z_bar"): lambda a: Call(a, {"b_bar": a["z_bar"].double().sum((0, 2, 3))}),
    ("pixel_means", "z"): lambda a: Call(a, {"means": a["z"].double().mean((2, 3))}),
    ("spread_means", "z"): lambda a: Call(a, {"z": spread_of(a["means"].double(), a["z"])}),
    ("moments", "x"): lambda a: Call(a, moments_of(a["x"].double(), a["stride"])),
}


@pytest.fixture(scope="module")
def calls() -> dict[Any, Call]:
    """Right calls, made once: their references take longer than the kernels."""
    return {}


def right_call(calls: dict[Any, Call], entry: str, dtype: torch.dtype, window: int) -> Call:
    key = entry, dtype, window, lanes(dtype)
    if key not in calls:
        calls[key] = ENTRIES[entry](Case(dtype=dtype, lanes=lanes(dtype), window=window))
    return calls[key]


def copies(call: Call) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in call.arguments.items()
    }


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize("entry", ENTRIES)
def test_each_argument_of_an_entry_laid_out_otherwise_gives_the_same_or_is_refused(entry, calls) -> None:
    for dtype, window in itertools.product((torch.float64, torch.float32), (1, 2)):
        call = right_call(calls, entry, dtype, window)
        for name, value in call.arguments.items():
            for relay in RELAID.values() if isinstance(value, torch.Tensor) else ():
                arguments = copies(call)
                arguments[name] = relay(arguments[name])
                try:
                    getattr(kernels.library, entry)(**arguments)
                except KernelArgumentError as error:
                    assert f"{entry}: {name} must be" in str(error)  # noqa: PT017
                else:
                    assert_right(call, arguments, dtype)


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize("entry", ENTRIES)
def test_each_argument_of_an_entry_that_does_not_fit_is_refused_by_its_name(entry, calls) -> None:
    for window in (1, 2):
        call = right_call(calls, entry, torch.float64, window)
        for name, value in call.arguments.items():
            for what, change in OTHER.items() if isinstance(value, torch.Tensor) else ():
                arguments = copies(call)
                arguments[name] = change(arguments[name])
                try:
                    getattr(kernels.library, entry)(**arguments)
                except KernelArgumentError as error:
                    said = str(error)
                    assert f"neo.kernels {entry}: " in said
                    assert " must " in said
                    assert ", got " in said
                else:  # other images alone
                    assert (entry, name) in SUMMARIES, f"took {name}, {what}"
                    assert_right(SUMMARIES[entry, name](arguments), arguments, torch.float32)


@pytest.mark.parametrize("entry", ENTRIES)
def test_numbers_that_an_entry_does_not_know_are_refused(entry, calls) -> None:
    call = right_call(calls, entry, torch.float64, 2)
    for name, value in call.arguments.items():
        if not isinstance(value, int):
            continue
        for number in (-1, 0, 3, 16, 2**31, 2**62):
            with pytest.raises(KernelArgumentError, match="must be"):
                getattr(kernels.library, entry)(**{**copies(call), name: number})
        for number in (None, "1", 2**70):
            with pytest.raises((TypeError, OverflowError)):
                getattr(kernels.library, entry)(**{**copies(call), name: number})


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_output_on_the_memory_of_another_tensor_is_refused(entry, calls) -> None:
    call = right_call(calls, entry, torch.float64, 1)
    tensors = [name for name, value in call.arguments.items() if isinstance(value, torch.Tensor)]
    for output, other in itertools.product(call.expected, tensors):
        arguments = copies(call)
        if output == other or arguments[output].nbytes > arguments[other].nbytes:
            continue
        shape, strides = arguments[output].shape, arguments[output].stride()
        arguments[output] = arguments[other].as_strided(shape, strides)
        with pytest.raises(KernelArgumentError, match="memory of its own"):
            getattr(kernels.library, entry)(**arguments)


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_may_be_none_and_what_may_not(entry, calls) -> None:
    for window in (1, 2):
        call = right_call(calls, entry, torch.float64, window)
        for name, value in call.arguments.items():
            if not isinstance(value, torch.Tensor):
                continue
            arguments = {**copies(call), name: None}
            try:
                getattr(kernels.library, entry)(**arguments)
            except KernelArgumentError as error:
                assert f"{entry}: " in str(error)  # noqa: PT017
                continue
            if name in call.expected:  # an output that nobody asked for; the others stay as they are
                assert_right(call, arguments, torch.float64)


@pytest.mark.parametrize("planes", [5, 64])
def test_more_planes_than_the_first_blocks_kernels_have_room_for_are_refused(planes) -> None:
    for entry in ("moments", "first", "first_backward", "first_double_backward", "correlate", "spread"):
        call = ENTRIES[entry](Case(lanes=lanes(torch.float64), planes=planes))
        with pytest.raises(KernelArgumentError, match="1 to 4 planes"):
            getattr(kernels.library, entry)(**call.arguments)


@pytest.mark.usefixtures("described")
def test_tensors_of_a_transform_have_no_memory_to_read() -> None:
    x = torch.randn(3, 2, 16, 4, 4)
    sums = torch.zeros(16)

    def inside(x: torch.Tensor) -> torch.Tensor:
        assert not kernels.library.takes(x)
        assert not kernels.library.readable(x)
        with pytest.raises(KernelArgumentError, match="on the CPU"):
            kernels.library.convolution_bias(z_bar=x, b_bar=sums)
        return x.sum()

    torch.vmap(inside)(x)
    assert not sums.any()


@pytest.mark.usefixtures("described")
def test_what_the_kernels_can_take_is_what_they_do_take() -> None:
    x = torch.randn(2, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    assert kernels.library.takes(x)
    with torch.inference_mode():
        assert kernels.library.takes(x.clone())
    for change in (*OTHER.values(), negated_view, at_an_odd_address, lambda x: x[:, :15], lambda x: None):
        other = change(x)
        if not kernels.library.takes(other):
            with pytest.raises(KernelArgumentError):
                kernels.library.convolution_bias(z_bar=other, b_bar=torch.zeros(16))


@pytest.mark.parametrize("slope", [-0.1, float("nan"), float("inf")])
def test_a_slope_under_which_maxima_move_is_refused(slope: float) -> None:
    """A rectifier that falls below 0 does not commute with the maximum of a window."""
    for entry in ("norm", "block", "first", "spread"):
        call = ENTRIES[entry](Case(lanes=lanes(torch.float64)))
        with pytest.raises(KernelArgumentError, match=f"{entry}: slope must be 0 or more, got"):
            getattr(kernels.library, entry)(**{**call.arguments, "slope": slope})
