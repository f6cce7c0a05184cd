"""No rule goes unexamined: every Policy's own methods and every composition run while samples.py's table, the fused
Policies' or torch's own database is walked."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Sequence
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest
import torch

import neo.functions
from neo import LiteTensor, kernels
from neo.autograd import check_composition, session
from neo.functions import registry
from tests.neo.functions import certificate
from tests.neo.functions.fused_samples import composed_samples
from tests.neo.functions.orders import neo_orders, scalar, tensors
from tests.neo.functions.samples import SAMPLES
from tests.neo.functions.test_tangents import disagreement

# Answered, but without a derivative to examine here, or examined by a test of its own (test_rules.py).
ELSEWHERE = {
    "dropout", "dropout1d", "dropout2d", "cuda", "empty", "max_pool2d_with_indices", "max_pool1d_with_indices",
    "gumbel_softmax", "cartesian_prod", "chain_matmul",
}  # fmt: skip

BY_THEIR_OWN_TESTS = tuple(
    f"neo.functions.{name}."
    for name in (
        "foreach", "queries", "sampling", "filling", "_kinks",
        *(() if kernels.available() else ("fused", "blocks", "first_block", "norm_relu_pool.NormReLUPool")),
    )
)  # fmt: skip


def code_run_by(walk: Callable[[], None]) -> set[CodeType]:
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        walk()
    finally:
        sys.setprofile(before)
    return seen


def walk_the_table() -> None:
    for case in SAMPLES:
        neo_orders(case.fn, case.args, case.orders)
        push(case.fn, case.args)


def walk_the_fused_policies() -> None:
    for policy, samples in composed_samples().items():
        for args in samples():
            check_composition(policy, args, order=2)
            assert disagreement(policy, args) is None


def push(fn: Callable[..., Any], args: Sequence[torch.Tensor]) -> None:
    """Tangents through fn and its gradient, of all arguments at once."""
    given = tuple(LiteTensor(x) for x in args)
    session.jvp(lambda *xs: tensors(fn(*xs)), given, tuple(args))
    session.jvp(
        session.grad(lambda *xs: scalar(fn(*xs)), argnums=tuple(range(len(args)))), given, tuple(args)
    )


def walk_the_database(left: set[str]) -> None:
    """The entries that go through what is left, or that wrap a torch function, so that nobody knows."""
    for op in certificate.WITH_DERIVATIVES:
        handler = registry._handlers.get(op.op)
        if handler is None or name_of(handler) in left:
            certificate.answer(op, samples=4)


def name_of(handler: Any) -> str:
    rule = (
        handler.policy if isinstance(handler, registry.Function) else getattr(handler, "__wrapped__", handler)
    )
    return f"{rule.__module__}.{rule.__qualname__}"


def rules() -> dict[str, list[FunctionType]]:
    """Name of each answered op and of each inner rule -> the Python functions that make it up."""
    found: dict[str, list[FunctionType]] = {}
    modules: list[ModuleType] = [
        sys.modules[f"neo.functions.{info.name}"] for info in pkgutil.iter_modules(neo.functions.__path__)
    ]
    functions = [
        value for module in modules for value in vars(module).values() if isinstance(value, registry.Function)
    ]
    handlers = set(registry._handlers.values())
    for function in {*functions, *(h for h in handlers if isinstance(h, registry.Function))}:
        own = [value for value in vars(function.policy).values() if isinstance(value, FunctionType)]
        found[f"{function.policy.__module__}.{function.policy.__qualname__}"] = own
    for handler in handlers:
        implementation = getattr(handler, "__wrapped__", None)
        if isinstance(implementation, FunctionType) and implementation.__name__ not in ELSEWHERE:
            found[f"{implementation.__module__}.{implementation.__name__}"] = [implementation]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_samples_run_every_rule_of_the_library():
    library = {
        name: parts
        for name, parts in rules().items()
        if name.startswith("neo.functions.") and not name.startswith(BY_THEIR_OWN_TESTS)
    }
    assert len(library) > 200
    seen = code_run_by(walk_the_table) | code_run_by(walk_the_fused_policies)
    left = {name for name, parts in library.items() if any(part.__code__ not in seen for part in parts)}
    seen |= code_run_by(lambda: walk_the_database(left))
    missed = {
        f"{name}.{part.__name__}"
        for name, parts in library.items()
        for part in parts
        if part.__code__ not in seen
    }
    assert not {name for name in missed if "Dropout" not in name}, sorted(missed)
