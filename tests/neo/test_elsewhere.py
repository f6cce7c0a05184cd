"""torch's words for graphs, storage and transforms on a LiteTensor: no attributes, and errors that say what to do."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import _elsewhere
from neo.errors import InPlaceError
from neo.functions import registry

X = neo.LiteTensor([0.5, 0.25, 0.75], dtype=torch.float64)


@pytest.mark.parametrize("name", _elsewhere.ATTRIBUTES)
def test_what_hangs_on_graphs_is_no_attribute_and_says_how_it_is_done(name: str) -> None:
    assert hasattr(torch.Tensor, name)
    assert not hasattr(X, name)
    assert not hasattr(neo.LiteTensor, name)
    with pytest.raises(AttributeError, match=f"LiteTensor has no attribute '{name}': .+"):
        getattr(X, name)
    with pytest.raises(NotImplementedError, match=rf"torch\.Tensor\.{name}: ") as caught:
        raise registry._unsupported(_callable_named(name))
    assert "implements" not in str(caught.value)


def _callable_named(name: str) -> Any:
    method = getattr(torch.Tensor, name)
    if callable(method):
        return method

    def stand_in() -> None:
        """An attribute of torch.Tensor is no callable; its words are looked up all the same."""

    stand_in.__name__ = name
    vars(stand_in)["__objclass__"] = torch.Tensor
    return stand_in


WORDS = {
    "backward": (lambda: X.backward(), AttributeError, r"neo\.value_and_grad\(f\)\(x\)"),
    "register_hook": (lambda: X.register_hook(print), AttributeError, "a Policy here: identity in forward"),
    "requires_grad_": (lambda: X.requires_grad_(), AttributeError, r"neo\.grad\(f, argnums=\.\.\.\)"),
    "retain_grad": (lambda: X.retain_grad(), AttributeError, r"neo\.grad\(h\)"),
    "autograd.grad": (lambda: torch.autograd.grad(X.sum(), X), NotImplementedError, r"neo\.grad\(f\)\(x\)"),
    "autograd.grad of lists": (lambda: torch.autograd.grad([X.sum()], [X]), NotImplementedError, r"neo\.grad"),
    "autograd.grad, one torch": (
        lambda: torch.autograd.grad(X.sum(), torch.ones(1, requires_grad=True)),
        NotImplementedError,
        r"neo\.grad",
    ),
    "autograd.backward": (lambda: torch.autograd.backward(X.sum()), NotImplementedError, r"value_and_grad"),
    "Tensor.backward": (lambda: torch.Tensor.backward(X.sum()), NotImplementedError, r"value_and_grad"),
    "functional.jacobian": (lambda: torch.autograd.functional.jacobian(torch.sin, X), TypeError, r"neo\.jacobian"),
    "functional.hessian": (lambda: torch.autograd.functional.hessian(torch.sum, X), TypeError, r"neo\.hessian"),
    "functional.vjp": (lambda: torch.autograd.functional.vjp(torch.sin, X, X), TypeError, r"neo\.vjp"),
    "functional.jvp": (lambda: torch.autograd.functional.jvp(torch.sin, (X,), (X,)), TypeError, r"neo\.jvp"),
    "functional.hvp": (lambda: torch.autograd.functional.hvp(torch.sum, X, X), TypeError, r"neo\.hvp"),
    "func.grad": (lambda: torch.func.grad(torch.sum)(X), TypeError, r"neo\.grad"),
    "func.grad of a tree": (lambda: torch.func.grad(lambda t: t["a"].sum())({"a": X}), TypeError, r"neo\.grad"),
    "func.grad_and_value": (lambda: torch.func.grad_and_value(torch.sum)(X), TypeError, r"neo\.value_and_grad"),
    "func.vjp": (lambda: torch.func.vjp(torch.sin, X), TypeError, r"neo\.vjp"),
    "func.jvp": (lambda: torch.func.jvp(torch.sin, (X,), (X,)), TypeError, r"neo\.jvp"),
    "func.linearize": (lambda: torch.func.linearize(torch.sin, X), NotImplementedError, r"neo\.linearize"),
    "func.jacrev": (lambda: torch.func.jacrev(torch.sin)(X), TypeError, r"neo\.jacobian"),
    "func.jacfwd": (lambda: torch.func.jacfwd(torch.sin)(X), TypeError, r"neo\.jacobian"),
    "func.hessian": (lambda: torch.func.hessian(torch.sum)(X), TypeError, r"neo\.hessian"),
    "func.vmap": (lambda: torch.func.vmap(torch.sin)(X), TypeError, r"neo\.vmap"),
    "vmap in chunks": (lambda: torch.vmap(torch.sin, chunk_size=2)(X), TypeError, r"neo\.vmap"),
    "gradcheck": (lambda: torch.autograd.gradcheck(torch.sin, (X,)), TypeError, r"neo\.gradcheck"),
    "grad = None": (lambda: setattr(X, "grad", None), AttributeError, r"grad cannot be set: gradients are what"),
    "requires_grad = True": (lambda: setattr(X, "requires_grad", True), AttributeError, r"said by a session"),
    "data =": (lambda: setattr(X, "data", torch.ones(3)), AttributeError, "make a new one"),
    "shape =": (lambda: setattr(X, "shape", (3,)), AttributeError, "make a new one"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own decompositions
@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a session"])
def test_torchs_way_is_answered_with_neos(name: str, inside: bool) -> None:
    work, error, words = WORDS[name]
    with pytest.raises(error, match=words):
        neo.grad(lambda x: work() or x)(X) if inside else work()


def test_torchs_own_transforms_work_as_before_on_torchs_tensors() -> None:
    x = X.data.clone()
    assert torch.equal(torch.func.grad(lambda x: (x * x).sum())(x), 2 * x)
    assert torch.equal(torch.func.vmap(lambda x: x * 2)(x), 2 * x)
    assert torch.equal(torch.vmap(lambda x: x * 2, chunk_size=2)(x), 2 * x)
    assert torch.equal(torch.autograd.functional.jacobian(lambda x: x * x, x), torch.diag(2 * x))
    assert torch.autograd.gradcheck(torch.sin, (x.requires_grad_(),))
    linear = torch.nn.Linear(2, 1)
    weights = {name: p.detach() * 2 for name, p in linear.named_parameters()}
    ones = torch.ones(1, 2)
    assert torch.equal(torch.func.functional_call(linear, weights, (ones,)), 2 * linear(ones))


def test_lite_tensor_is_no_torch_tensor_and_says_so() -> None:
    assert not isinstance(X, torch.Tensor)
    assert not torch.is_tensor(X)
    assert "isinstance(x, torch.Tensor) is False" in (neo.LiteTensor.__doc__ or "")


def test_copies_pickles_and_subclasses_are_not_in_the_way_of_setattr() -> None:
    for again in (pickle.loads(pickle.dumps(X)), copy.deepcopy(X)):
        assert torch.equal(again.data, X.data)

    class Named(neo.LiteTensor):
        pass

    named = Named([1.0])
    named.label = "mine"
    assert named.label == "mine"
    with pytest.raises(AttributeError, match="gradients are what a session returns"):
        named.grad = None


# --- in-place advice -------------------------------------------------------------------------------------------------

METHODS = [m for m in dir(torch.Tensor) if m.endswith("_") and not m.endswith("__") and not m.startswith("_")]
INDEX, MASK = torch.tensor([0, 2]), torch.tensor([True, False, True])
M = torch.tensor([[0.5, 0.25, 0.75], [1.5, 2.0, 0.1], [0.3, 0.2, 0.9]], dtype=torch.float64)
V = M[0].clone()
ARGUMENTS: list[tuple] = [
    (), (V,), (2,), (V, V), (V, 0.5), (0,), (0, 1), (0.1, 0.6), (1,), (2, 0, 1.0),
    (M, M), (M, V), (V, M), (V[None, :, None].expand(2, 3, 1), V[None, None].expand(2, 1, 3)),
    (0, INDEX, V[:2]), (0, INDEX, 2.0), ((INDEX,), V[:2]), (MASK, 2.0), (MASK, V), (INDEX, V[:2]),
    (M[None].expand(1, 3, 3), M[None].expand(1, 3, 3)), ((3,), (1,)),
    (0, INDEX, V), (0, INDEX, V, "sum"), (0, INDEX, V[:2], "prod"), (V > 0.3,), (torch.tensor([1, 2, 3]),),
]  # fmt: skip
WITHOUT = {  # torch's own, of which Neo has no functional form: the advice says so
    "bitwise_left_shift_", "bitwise_right_shift_", "gcd_", "lcm_", "igamma_", "igammac_", "nextafter_",
    "resize_as_sparse_", "sparse_resize_", "sparse_resize_and_clear_",
}  # fmt: skip


def advice(method: str) -> str:
    return str(registry._unsupported(getattr(torch.Tensor, method)))


@pytest.mark.filterwarnings("ignore:index_reduce")  # torch's own, that it is in beta
@pytest.mark.parametrize("method", [m for m in METHODS if m not in _elsewhere.ATTRIBUTES])
def test_functional_form_that_in_place_advice_names_exists_and_takes_the_same_arguments(method: str) -> None:
    with pytest.raises(InPlaceError, match=rf"{method} works in place"):
        getattr(X, method)()
    words = advice(method)
    if method in _elsewhere.IN_PLACE:
        assert _elsewhere.IN_PLACE[method] in words
        return
    if "no functional form" in words:
        assert method in WITHOUT
        return
    spelled = words.partition("functional form, ")[2].partition(":")[0].rstrip(".")
    home = F if spelled.startswith("torch.nn.functional") else torch
    function = getattr(home, spelled.rpartition(".")[2], None)
    for args in ARGUMENTS:
        for start in (V, M, torch.tensor([1, 2, 3]), MASK, M[None].clone()):
            theirs = start.clone()
            try:
                getattr(theirs, method)(*args)
            except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
                continue
            ours = function(neo.LiteTensor(start), *args)
            torch.testing.assert_close(ours.data.to(theirs.dtype), theirs, equal_nan=True)
            return
    pytest.fail(f"no arguments here that {method} takes; add some to ARGUMENTS")


def test_forms_that_have_another_name_run() -> None:
    names: dict[str, Any] = {
        "torch": torch, "neo": neo, "math": math, "x": neo.LiteTensor(M), "other": neo.LiteTensor(M), "p": 0.3,
        "lambd": 2.0, "mean": 1.0, "std": 2.0, "median": 0.0, "sigma": 1.0, "low": 1, "high": 5, "value": 3.0, "n": 3,
        "source": neo.LiteTensor(M), "shape": (9,),
    }  # fmt: skip
    prose = {"apply_", "map_", "map2_", "__setitem__"}
    for method, form in _elsewhere.IN_PLACE.items():
        if method in prose:
            continue
        expression = "source" + form.partition(", source")[2] if ", source" in form else form
        for end in (", which", ", or"):
            expression = expression.partition(end)[0]
        got = eval(expression, names)
        assert isinstance(got, neo.LiteTensor | torch.Tensor), method
        if method not in ("resize_",):
            assert got.shape == M.shape, method


def test_writing_into_a_torch_tensor_names_what_to_write() -> None:
    t = torch.ones(3, dtype=torch.float64)
    with pytest.raises(InPlaceError, match=r"torch\.stack|torch\.index_put"):
        t[0] = X[0]
    assert t.tolist() == [1.0, 1.0, 1.0]
