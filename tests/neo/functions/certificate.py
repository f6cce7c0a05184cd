"""The certificate: torch's own operator database asks, Neo answers, torch's double backward judges.

Every entry of `op_db` that supports autograd is called on LiteTensors made of its sample inputs. An entry may refuse
a sample by name (rule 10); what it answers must agree with torch in value, in gradient, and in gradient of gradient;
and forward mode must agree with reverse (forward_mode.py).
`python -m tests.neo.functions.certificate` runs all samples in float64 and writes what it found to docs/ops.md.
"""

from __future__ import annotations

import argparse
import itertools
import operator
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import optree
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.common_methods_invocations import op_db

import neo.functions
from neo import LiteTensor
from neo.autograd import session
from neo.errors import InPlaceError
from tests.neo.functions import forward_mode
from tests.neo.functions.ops_page import PAGE, cell, page
from tests.neo.functions.orders import close, scalar, tensors

__all__ = ["ENTRIES", "WITH_DERIVATIVES", "Row", "answered_though_wrong", "examine", "full_name", "sampled"]

WITH_DERIVATIVES = [op for op in op_db if op.supports_autograd and torch.float64 in op.dtypes]

# The database calls torch.Tensor.__radd__ and its like, which Python reaches through an operator.
REFLECTED: dict[str, Callable[..., Any]] = {
    "__radd__": lambda x, y: y + x,
    "__rmul__": lambda x, y: y * x,
    "__rsub__": lambda x, y: y - x,
    "__rdiv__": lambda x, y: y / x,
    "__rpow__": lambda x, y: y**x,
    "__rmod__": lambda x, y: y % x,
    "__rmatmul__": lambda x, y: y @ x,
    "__getitem__": operator.getitem,
    "cdouble": lambda x, **kwargs: x.cdouble(**kwargs),
    "cfloat": lambda x, **kwargs: x.cfloat(**kwargs),
}
UNDEFINED_VALUES = {"empty_like", "new_empty", "new_empty_strided", "empty_strided", "empty"}
# Their chunked kernel has no second order (op_db says so beside them) and no gradient by class weights.
TORCH_IS_OFF = {
    "nn.functional.linear_cross_entropy-chunked",
    "nn.functional.linear_cross_entropy-chunked_none",
}
# What torch says of a gradient that it cannot differentiate.
NO_SECOND_ORDER = "derivative for .* is not implemented|support automatic differentiation"
# Several values are written to one place: one of them stands there, and the gradient goes to all of them, as in torch.
WRITTEN_TWICE = {"nn.functional.max_unpool1d", "nn.functional.max_unpool2d", "nn.functional.max_unpool3d"}
RANDOM = {"bernoulli", "multinomial", "rand_like", "randn_like", "randint_like"}  # drawn without a seed


def full_name(op: Any) -> str:
    return f"{op.name}-{op.variant_test_name}" if op.variant_test_name else op.name


def sampled(ops: Iterable[Any], every: int = 6) -> list[Any]:
    """For parametrize: one in so many of the entries among the slow tests, and the rest among the exhaustive ones."""
    return [
        pytest.param(op, id=full_name(op), marks=pytest.mark.exhaustive if at % every else pytest.mark.slow)
        for at, op in enumerate(ops)
    ]


def _answered_constants() -> list[Any]:
    """Entries without a derivative whose values Neo gives: they are compared, and appear in no table."""
    supported = neo.functions.supported()
    return [
        op
        for op in op_db
        if not op.supports_autograd
        and torch.float64 in op.dtypes
        and (op.op in supported or op.method_variant in supported)
        and op.name not in UNDEFINED_VALUES | RANDOM
    ]


ENTRIES = [*WITH_DERIVATIVES, *_answered_constants()]


class Row(NamedTuple):
    """What became of the samples of one entry."""

    name: str
    first: int = 0  # samples that agree in value and gradient
    second: int = 0  # of those, samples that agree in the gradient of the gradient too
    differences: int = (
        0  # of those, samples judged by differences of torch's gradient, for want of its second order
    )
    unchecked: int = 0  # samples at a kink, where there is no second order
    forward: int = 0  # samples whose tangents agree with their gradients
    forward_over_reverse: int = 0  # of the second ones, those whose gradient's tangents agree too
    reverse_over_forward: int = 0  # and those whose tangents' gradient does
    refusals: tuple[tuple[str, int], ...] = ()  # what was said, and how often
    wrong: tuple[str, ...] = ()

    @property
    def refused(self) -> int:
        return sum(count for _, count in self.refusals)

    @property
    def covered(self) -> bool:
        """Right at every order that torch can check, on at least one sample, and wrong on none."""
        return not self.wrong and self.second > 0

    def __str__(self) -> str:
        second = f"{self.second or '-'}" + f" (d: {self.differences})" * bool(self.differences)
        said = "; ".join(f"{count} × {cell(text)}" for text, count in self.refusals)
        if self.wrong:
            said = f"WRONG: {cell(self.wrong[0])}"
        counts = [self.forward, self.forward_over_reverse, self.reverse_over_forward]
        numbers = [str(self.first or ""), second if self.first else ""]
        numbers += [str(count or ("-" if self.first else "")) for count in counts]
        return f"| {self.name} | {' | '.join(numbers)} | {said} |"


# --- one entry -----------------------------------------------------------------------------------------------


def examine(
    op: Any,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    samples: int | None = None,
    largest: int | None = None,
) -> Row:
    """Compare Neo with torch on the sample inputs of an entry: all, or the first `samples` of them.

    largest: leave samples with more floating-point numbers out. In float64 forward mode is compared with reverse.
    """
    counts, refusals, wrong = Counter[str](), Counter[str](), []
    torch.manual_seed(0)
    given = op.sample_inputs(device, dtype, requires_grad=op.supports_autograd)
    for i, sample in enumerate(itertools.islice(given, samples)):
        call, args = _as_function(op, sample)
        if not args or (largest is not None and sum(x.numel() for x in args) > largest):
            continue
        try:
            call(*[LiteTensor(x) for x in args])
        except (NotImplementedError, InPlaceError) as refusal:
            refusals[_reason(refusal)] += 1
            continue
        except Exception as error:
            wrong.append(f"sample {i}: {type(error).__name__}: {error}")
            continue
        try:
            agreed = _compare(op, call, args, dtype)
            counts.update(agreed)
            if dtype is torch.float64:
                counts.update(_compare_forward(op, call, args, "second" in agreed))
        except NotImplementedError as refusal:  # of a derivative
            refusals[_reason(refusal)] += 1
        except Exception as error:
            wrong.append(f"sample {i}: {type(error).__name__}: {error}")
    return Row(
        full_name(op),
        counts["first"],
        counts["second"],
        counts["by differences"],
        counts["unchecked"],
        *(counts[what] for what in ("forward", "forward over reverse", "reverse over forward")),
        tuple(sorted(refusals.items())),
        tuple(wrong),
    )


def answer(op: Any, samples: int) -> None:
    """Neo's side alone: the first samples to second order, in both modes, those that it refuses passed over."""
    torch.manual_seed(0)
    for sample in itertools.islice(op.sample_inputs("cpu", torch.float64, requires_grad=True), samples):
        call, args = _as_function(op, sample)
        try:
            if args and tensors(call(*args)):
                _by_neo(call, args, again=True)
                _compare_forward(op, call, args, second=True)
        except (NotImplementedError, InPlaceError):
            continue


def _reason(refusal: Exception) -> str:
    """What a refusal says, without the numbers of the sample: only its first sentence."""
    return re.split(r"; |\. |, got ", str(refusal), maxsplit=1)[0]


def _as_function(op: Any, sample: Any) -> tuple[Callable[..., Any], list[torch.Tensor]]:
    """A sample as a function of its floating-point tensors, and those, as torch's own gradient tests take it."""
    fn = REFLECTED.get(op.name, op.op)
    leaves, spec = optree.tree_flatten((sample.input, tuple(sample.args), sample.kwargs), none_is_leaf=True)
    leaves = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    places = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.layout is torch.strided
    ]

    def call(*xs: Any) -> Any:
        filled = list(leaves)
        for place, x in zip(places, xs, strict=False):
            filled[place] = x
        first, args, kwargs = optree.tree_unflatten(spec, filled)
        return sample.output_process_fn_grad(op.gradcheck_wrapper(fn, first, *args, **kwargs))

    return call, [leaves[i] for i in places]


def _compare(op: Any, call: Callable[..., Any], args: list[torch.Tensor], dtype: torch.dtype) -> list[str]:
    """Value and gradients of one sample, by Neo and by torch; gives what could be compared."""
    if not op.supports_autograd or not tensors(call(*args)):
        _agree(call(*[LiteTensor(x) for x in args]), call(*args), "value")
        return ["first", "second"] if op.supports_autograd else []
    if full_name(op) in TORCH_IS_OFF:
        args = args[:2]
    kink = op.variant_test_name == "subgradients_at_zero"
    again = op.supports_gradgrad and full_name(op) not in TORCH_IS_OFF and not kink
    value, first, xs, args = _by_torch(call, args, again)
    got = _by_neo(call, args, again=not kink)
    second = None
    if again:
        try:
            second = _pulled(first, xs)
        except RuntimeError as error:  # torch knows no derivative of its own derivative
            if not re.search(
                "derivative for .* is not implemented|support automatic differentiation", str(error)
            ):
                raise
    if dtype is not torch.float64:
        _as_exact_as_torch(call, args, got, (value, first, second))
        return ["first", "second"]
    _agree(got[0], value, "value")
    _agree(got[1], first, "gradient")
    if kink:
        return ["first", "unchecked"]
    if second is not None:
        _agree(got[2], second, "gradient of gradient")
        return ["first", "second"]
    _agree_with_differences(call, args, got[2])
    return ["first", "second", "by differences"]


def _compare_forward(op: Any, call: Callable[..., Any], args: list[torch.Tensor], second: bool) -> list[str]:
    """Forward mode of one sample that is right in reverse."""
    if full_name(op) in WRITTEN_TWICE:
        return []
    if not op.supports_autograd or not tensors(call(*args)):
        return ["forward", "forward over reverse", "reverse over forward"] if op.supports_autograd else []
    return forward_mode.compare(call, args, second)


def _by_torch(
    call: Callable[..., Any], args: list[torch.Tensor], again: bool = True
) -> tuple[Any, Any, Any, Any]:
    """(value, gradients of Σ w (v + v²/2) at leaves, those leaves, args without what torch has no derivative by)."""
    with sdpa_kernel(SDPBackend.MATH):  # the one kernel of attention that torch can differentiate twice
        xs = [x.detach().requires_grad_() for x in args]
        try:
            value = call(*xs)
        except RuntimeError as error:
            if "not differentiable with respect to argument" not in str(error):
                raise
            return _by_torch(call, args[:1], again)  # torch differentiates by the first alone
        try:
            return value, _pulled(value, xs, again), xs, args
        except RuntimeError as error:
            if "not differentiable with respect to argument" not in str(error):
                raise
            return _by_torch(call, args[:1], again)


def _pulled(out: Any, xs: list[torch.Tensor], again: bool = False) -> tuple[torch.Tensor, ...]:
    total = scalar(out)
    if total is None or not total.requires_grad:
        return tuple(torch.zeros_like(x) for x in xs)
    return torch.autograd.grad(total, xs, create_graph=again, allow_unused=True, materialize_grads=True)


def _by_neo(call: Callable[..., Any], args: list[torch.Tensor], again: bool) -> tuple[Any, Any, Any]:
    """The same by nested sessions."""
    places = tuple(range(len(args)))

    def total(*xs: Any) -> Any:
        value = call(*xs)
        return scalar(value), value

    def gradients(*xs: Any) -> Any:
        (_, value), found = session.value_and_grad(total, argnums=places, has_aux=True)(*xs)
        return value, found

    def total_of_gradients(*xs: Any) -> Any:
        value, found = gradients(*xs)
        return scalar(found), (value, found)

    xs = [LiteTensor(x) for x in args]
    if not again:
        return *gradients(*xs), None
    (_, (value, first)), second = session.value_and_grad(total_of_gradients, argnums=places, has_aux=True)(
        *xs
    )
    return value, first, second


def _agree_with_differences(call: Callable[..., Any], args: list[torch.Tensor], got: Any) -> None:
    """The gradient of the gradient against central differences of torch's gradient, at up to 24 entries."""

    def total(position: int, entry: int, step: float) -> torch.Tensor:
        moved = [x.detach().clone() for x in args]
        moved[position].view(-1)[entry] += step
        result = scalar(_by_torch(call, moved, again=False)[1])
        assert result is not None
        return result.detach()

    for position, x in enumerate(args):
        flat = got[position].data.reshape(-1)
        scale = 1 + float(flat.abs().nan_to_num().max()) if x.numel() else 1.0
        for entry in range(0, x.numel(), max(1, x.numel() * len(args) // 24)):
            eps = 1e-6
            expected = float(total(position, entry, eps) - total(position, entry, -eps)) / (2 * eps)
            found = float(flat[entry])
            assert abs(found - expected) <= 1e-4 * scale, (
                f"gradient of gradient, input {position}, entry {entry}: {found}, expected {expected} by differences"
            )


def _agree(got: Any, expected: Any, what: str, tolerance: float = 1e-7) -> None:
    flat, wanted = optree.tree_leaves(got), optree.tree_leaves(expected)
    assert len(flat) == len(wanted), f"{what}: {len(flat)} leaves, expected {len(wanted)}"
    largest = max([1.0, *(_largest(b) for b in wanted if isinstance(b, torch.Tensor))])
    for i, (a, b) in enumerate(zip(flat, wanted, strict=True)):
        if isinstance(b, torch.Tensor):
            assert isinstance(a, LiteTensor), f"{what} {i}: a plain {type(a).__name__} of LiteTensors"
            bound = 1e-5 if b.dtype in (torch.float32, torch.float16, torch.bfloat16) else tolerance
            close(a, b.detach(), f"{what} {i}", bound, bound * largest)
        else:
            assert a == b, f"{what} {i}: {a!r}, expected {b!r}"


def _as_exact_as_torch(call: Callable[..., Any], args: list[torch.Tensor], got: Any, expected: Any) -> None:
    """In float32: no further from what float64 gives than ten times as far as torch is, and a ten-thousandth."""
    try:
        value, first, xs, _ = _by_torch(call, [x.double() for x in args], again=expected[2] is not None)
        exact = (value, first, None if expected[2] is None else _pulled(first, xs))
    except (
        RuntimeError
    ):  # float32 numbers that are no arguments, or places in memory: torch itself is the measure
        exact = expected
    for found, torchs, truth, what in zip(got, expected, exact, ("value", "gradient", "second"), strict=True):
        if torchs is None:
            continue
        for a, b, c in zip(tensors(found), tensors(torchs), tensors(truth), strict=True):
            assert a.dtype == b.dtype, f"{what}: {a.dtype}, expected {b.dtype}"
            assert a.shape == b.shape, f"{what}: shape {tuple(a.shape)}, expected {tuple(b.shape)}"
            c = c.detach()
            finite = torch.isfinite(b) & torch.isfinite(c)
            ours, theirs = (_largest(torch.where(finite, t.double() - c, 0.0)) for t in (a.data, b.detach()))
            bound = 10 * theirs + 1e-4 * max(1.0, _largest(torch.where(finite, c, 0.0)))
            assert ours <= bound, f"{what}: off by {ours}, torch by {theirs}"


def _largest(x: torch.Tensor) -> float:
    """The largest finite size of an entry: sums that cancel are no more exact than their terms."""
    if not x.numel() or not x.is_floating_point():
        return 0.0
    return float(x.detach().abs().nan_to_num(nan=0.0, posinf=0.0).max())


# --- wrong input ---------------------------------------------------------------------------------------------


def answered_though_wrong() -> list[str]:
    """The wrong inputs that the database keeps for its entries, which torch refuses and Neo answers."""
    answered = []
    for op in WITH_DERIVATIVES:
        if op.error_inputs_func is None:
            continue
        for case in op.error_inputs("cpu"):
            sample = case.sample_input
            given: Any = (sample.input, tuple(sample.args), sample.kwargs)
            if not tensors(list(optree.tree_leaves(given))) or not _refused(op.op, given):
                continue
            lite = optree.tree_map(
                lambda x: LiteTensor(x) if isinstance(x, torch.Tensor) and x.is_floating_point() else x,
                given,
                none_is_leaf=True,
            )
            if not _refused(op.op, lite):
                answered.append(f"{full_name(op)}: {case.error_regex}")
    return answered


def _refused(fn: Callable[..., Any], given: Any) -> bool:
    first, args, kwargs = given
    try:
        fn(first, *args, **kwargs)
    except Exception:
        return True
    return False


# --- the command ---------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Examine Neo's ops by torch's operator database.")
    parser.add_argument("-k", default="", help="only entries whose name contains this; nothing is written")
    parser.add_argument("-n", type=int, help="only so many samples of each; nothing is written")
    parser.add_argument("--wrong", action="store_true", help="say nothing of the entries that are right")
    asked = parser.parse_args(argv)
    found = []
    for row in _examined(asked.k, asked.n):
        found.append(row)
        if row.wrong or not asked.wrong:
            print(row, flush=True)
            for text in row.wrong[:3]:
                print("    ", " ".join(text.split())[:700])
    if not asked.k and asked.n is None:
        PAGE.write_text(page(found))
    else:
        print(
            *itertools.takewhile(bool, page(found).partition("| | entries |")[2].splitlines()[1:]), sep="\n"
        )
    return 1 if any(row.wrong for row in found) else 0


def _examined(key: str, samples: int | None) -> Iterator[Row]:
    for op in WITH_DERIVATIVES:
        if re.search(key, full_name(op)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield examine(op, samples=samples)


if __name__ == "__main__":
    sys.exit(main())
