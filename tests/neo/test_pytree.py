"""Dataclasses as pytrees, and objects that are none: through every transform, frozen ones too, and never silently."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import threading
from collections import OrderedDict, UserDict
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest
import torch
from torch.utils import _pytree as torch_pytree

import neo
from neo import pytree
from neo.autograd import session


def number(value: Any) -> neo.LiteTensor:
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


X, V = number([0.5, -1.0, 2.0]), number([1.0, 2.0, -3.0])


@dataclasses.dataclass
class Plain:
    w: Any
    b: Any
    name: str = "plain"


@dataclasses.dataclass(frozen=True)
class Frozen:
    w: Any
    b: Any
    name: str = "frozen"

    def __post_init__(self) -> None:
        if self.w is None or self.w.shape != self.b.shape:
            raise ValueError("w and b must agree")  # gradients come back without asking


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slotted:
    w: Any
    b: Any
    name: str = "slotted"


@dataclasses.dataclass
class Child(Plain):
    more: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Weights:
    w: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class FrozenWeights:
    w: Any
    b: Any


@dataclasses.dataclass(eq=False)
class ByIdentity:
    w: Any
    b: Any


MAKERS = {
    "plain": lambda w, b: Plain(w, b),
    "frozen": lambda w, b: Frozen(w, b),
    "slots": lambda w, b: Slotted(w=w, b=b),
    "subclass": lambda w, b: Child(w, b, more=[1, "two"]),
    "by identity": lambda w, b: ByIdentity(w, b),
}


def fn(tree: Any) -> Any:
    return (tree.w**2 * tree.b).sum()


def close(got: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.data, expected)


@pytest.mark.parametrize("kind", MAKERS)
def test_dataclass_is_differentiated_and_mirrored(kind: str) -> None:
    tree = MAKERS[kind](X, V)
    g = session.grad(fn, argnums=0)(tree)
    assert type(g) is type(tree)
    close(g.w, 2 * X.data * V.data)
    close(g.b, X.data**2)
    assert getattr(g, "name", None) is None
    keyed = session.grad(fn)(tree)
    assert list(keyed) == [X, V] or {id(k) for k in keyed} == {id(X), id(V)}
    assert tree.w is X


@pytest.mark.parametrize("kind", MAKERS)
def test_dataclass_goes_through_every_transform(kind: str) -> None:
    make = MAKERS[kind]
    tree, dots = make(X, V), make(V, X)
    if hasattr(dots, "name"):
        object.__setattr__(dots, "name", None)
    if hasattr(dots, "more"):
        dots.more = [None, None]
    expected = (2 * X.data * V.data * V.data + X.data**2 * X.data).sum()
    close(session.jvp(fn, (tree,), (dots,))[1], expected)
    close(session.linearize(fn, tree)[1](dots), expected)


def test_output_with_numbers_in_it_is_refused_as_in_a_dict() -> None:
    for out in (lambda x: Plain(x, x), lambda x: {"b": x, "name": "plain", "w": x}):
        with pytest.raises(TypeError, match=r"or a pytree of them, got .* with str 'plain' at .*name"):
            session.vjp(out, X)


@pytest.mark.parametrize("kind", ["weights", "frozen"])
def test_dataclass_is_an_output_and_its_cotangent_another(kind: str) -> None:
    make = {"weights": Weights, "frozen": FrozenWeights}[kind]
    out, pullback = session.vjp(lambda x: make(x * 2, x * 3), X)
    assert type(out) is make
    close(pullback(make(V, X))[0], 2 * V.data + 3 * X.data)
    for other in ({"w": V, "b": X}, (V, X), Plain(V, X)):
        with pytest.raises(ValueError, match=r"the cotangent .*expected the structure.*Weights"):
            pullback(other)
    out, g = session.value_and_grad(lambda x: make(x * 2, x * 3), cotangent=make(V, X))(X)
    close(g[X], 2 * V.data + 3 * X.data)


def test_weights_go_through_jacobian_hessian_hvp_checkpoint_and_stop_gradient() -> None:
    tree = Weights(X, V)
    for mode in ("reverse", "forward"):
        j = session.jacobian(lambda t: t.w * t.b, mode=mode)(tree)
        close(j.w, torch.diag(V.data))
        close(j.b, torch.diag(X.data))
    h = session.hessian(fn)(tree)
    close(h.w.w, torch.diag(2 * V.data))
    close(h.w.b, torch.diag(2 * X.data))
    product = session.hvp(fn, tree, Weights(V, X))
    close(product.b, 2 * X.data * V.data)
    kept = session.checkpoint(lambda t: Weights(t.w * 2, torch.sin(t.b)))
    g = session.grad(lambda t: (kept(t).w * kept(t).b).sum(), argnums=0)(tree)
    close(g.w, 2 * V.data.sin())
    stopped = session.stop_gradient(tree)
    assert isinstance(stopped, Weights)
    g = session.grad(lambda t: (session.stop_gradient(t).w * t.b).sum(), argnums=0)(tree)
    assert g.w.tolist() == [0.0, 0.0, 0.0]
    assert session.gradcheck(fn, (tree,), order=2)


def test_dataclass_is_mapped_over_by_vmap() -> None:
    batch = Weights(number(torch.arange(6.0).reshape(2, 3)), number([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    out = neo.vmap(lambda t: FrozenWeights(t.w * t.b, t.b.sum()))(batch)
    assert isinstance(out, FrozenWeights)
    close(out.w, batch.w.data * batch.b.data)
    close(out.b, batch.b.data.sum(1))
    shared = neo.vmap(lambda t: t.w * t.b, in_dims=(Weights(0, None),))(Weights(batch.w, batch.b[0]))
    close(shared, batch.w.data * batch.b.data[0])
    g = neo.vmap(session.grad(fn, argnums=0))(batch)
    close(g.b, batch.w.data**2)
    g = session.grad(lambda t: neo.vmap(fn)(t).sum(), argnums=0)(batch)
    close(g.w, 2 * batch.w.data * batch.b.data)


@pytest.mark.parametrize("dims", [True, (True,), "0", 0.0])
def test_dims_that_are_no_integers_are_refused(dims: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="in_dims"):
        neo.vmap(lambda x: x, in_dims=dims)(X)
    with pytest.raises((ValueError, TypeError), match="out_dims"):
        neo.vmap(lambda x: x, out_dims=dims)(X)


def test_dataclass_in_containers_and_in_dataclasses() -> None:
    tree = {"a": [Weights(X, Weights(V, X))], "n": 3}
    g = session.grad(lambda t: (t["a"][0].w * t["a"][0].b.w * t["a"][0].b.b).sum(), argnums=0)(tree)
    close(g["a"][0].b.w, X.data**2)
    close(g["a"][0].w, V.data * X.data)


def test_dataclass_parameters_go_through_optimisers_and_clipping() -> None:
    params = Weights(X, V)
    for optimizer in (
        neo.optim.sgd(0.1),
        neo.optim.momentum(0.1),
        neo.optim.adam(0.1),
        neo.optim.rmsprop(0.1),
    ):
        state = optimizer.init(params)
        new, state = optimizer.step(params, neo.optim.clip_by_global_norm(Weights(V, X), 1.0), state)
        assert isinstance(new, Weights)
        assert new.w.shape == (3,)


def test_constant_dataclass_stays_what_it_is() -> None:
    @dataclasses.dataclass
    class Settings:
        scale: float = 2.0

    settings = Settings()
    seen = []
    session.grad(lambda x, s: seen.append(s) or x * s.scale)(X, settings)
    assert seen == [settings]
    assert seen[0] is settings


def test_static_fields_and_attributes_travel_and_get_no_gradient() -> None:
    @dataclasses.dataclass
    class Layer:
        w: Any
        activation: Any = dataclasses.field(default=torch.tanh, metadata={"static": True})
        width: int = dataclasses.field(default=3, metadata={"pytree_node": False})

        def __post_init__(self) -> None:
            self.label = "layer"

        @functools.cached_property
        def twice(self) -> Any:
            return self.w * 2

    layer = Layer(X)
    assert torch.equal(layer.twice.data, 2 * X.data)  # cached: of the old w
    g = session.grad(lambda t: (t.activation(t.twice) * t.width * len(t.label)).sum(), argnums=0)(layer)
    close(g.w, 15 * 2 * (1 - (2 * X.data).tanh() ** 2))


def test_tensor_in_an_attribute_that_is_no_field_is_named() -> None:
    @dataclasses.dataclass
    class Derived:
        w: Any

        def __post_init__(self) -> None:
            self.norm = (self.w * self.w).sum()

    with pytest.raises(TypeError, match=r"Derived\.norm is a LiteTensor and belongs to no field"):
        session.grad(lambda t: (t.w / t.norm).sum(), argnums=0)(Derived(X))


def test_classes_registered_with_torch_or_optree_are_taken_as_they_are() -> None:
    class Output(OrderedDict):  # as transformers' ModelOutput
        def __getattr__(self, name: str) -> Any:
            return self[name]

    torch_pytree.register_pytree_node(
        Output, lambda o: (list(o.values()), list(o)), lambda v, keys: Output(zip(keys, v, strict=True))
    )
    g = session.grad(lambda o: (o.logits * o.logits * o["scale"]).sum(), argnums=0)(
        Output(logits=X, scale=2.0)
    )
    assert type(g) is Output
    close(g.logits, 4 * X.data)

    class Boxed:
        def __init__(self, w: Any):
            self.w = w

    optree.register_pytree_node(Boxed, lambda b: ((b.w,), None), lambda _, c: Boxed(*c), namespace="neo")
    close(session.grad(lambda b: (b.w**2).sum(), argnums=0)(Boxed(X)).w, 2 * X.data)


def test_mapping_that_is_a_dataclass_too_is_its_fields() -> None:
    @dataclasses.dataclass
    class Output(OrderedDict):
        loss: Any = None
        logits: Any = None

        def __post_init__(self) -> None:
            self.update({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    out, pullback = session.vjp(lambda x: Output(loss=x.sum(), logits=x * 2), X)
    assert torch.equal(out["logits"].data, 2 * X.data)
    (g,) = pullback(Output(loss=1.0, logits=V))
    close(g, 1 + 2 * V.data)


# --- objects that are no pytree --------------------------------------------------------------------------------------


class Model:
    """As equinox and others have it: weights in attributes, and a call."""

    def __init__(self, w: Any):
        self.layers = [{"w": w}]
        self.name = "model"

    def __call__(self, x: Any) -> Any:
        return (self.layers[0]["w"] * x).sum()


class Slots:
    __slots__ = ("w",)

    def __init__(self, w: Any):
        self.w = w


class Names(dict):
    pass


class Row(list):
    pass


HIDDEN = {
    "object": (lambda: Model(X), r"Model, which is no pytree.* at \.layers\[0\]\['w'\]"),
    "nested object": (lambda: {"m": [Model(X)]}, r"argument 0\['m'\]\[0\] is a Model"),
    "slots": (lambda: Slots(X), r"Slots.* at \.w"),
    "dict subclass": (lambda: Names(w=X), r"Names.* at \['w'\]"),
    "list subclass": (lambda: Row([1, X]), r"Row.* at \[1\]"),
    "set": (lambda: {X}, r"set.* at \[0\]"),
    "array of objects": (lambda: np.array([X, None], dtype=object), r"ndarray.* at \[0\]"),
    "mapping": (lambda: UserDict(w=X), r"UserDict.* at \.data\['w'\]"),
    "object in a dataclass": (lambda: Weights(X, Model(V)), r"argument 0\.b is a Model"),
    "dict views": (lambda: Slots({"a": (X,)}), r"at \.w\['a'\]\[0\]"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_tensor_in_an_object_that_is_no_pytree_is_named(name: str) -> None:
    make, message = HIDDEN[name]
    for call in (
        lambda: session.grad(lambda m, x: x * 2)(make(), X),
        lambda: session.grad(lambda m, x: x * 2, argnums=(0, 1))(make(), X),
        lambda: session.vjp(lambda m, x: x * 2, make(), X),
        lambda: session.linearize(lambda m, x: x * 2, make(), X),
        lambda: session.jacobian(lambda m, x: x * 2, argnums=(0, 1))(make(), X),
    ):
        with pytest.raises(TypeError, match=f"(?s){message}"):
            call()


@pytest.mark.parametrize("name", HIDDEN)
def test_where_it_is_not_differentiated_it_is_an_argument_like_any_other(name: str) -> None:
    held = HIDDEN[name][0]()
    assert session.grad(lambda m, x: x * 2, argnums=1)(held, X).tolist() == [2.0, 2.0, 2.0]
    assert len(session.grad(lambda x, m: x * 2)(X, m=held)) == 1


def test_object_that_checkpoint_returns_is_named() -> None:
    kept = session.checkpoint(lambda x: Model(x * 2))
    with pytest.raises(TypeError, match="output is a Model, which is no pytree"):
        session.grad(lambda x: kept(x)(x))(X)


def test_functions_modules_and_plain_objects_are_constants() -> None:
    model = neo.nn.Linear(3, 2)
    for held in (
        model,
        torch.nn.Linear(2, 2),
        lambda: X,
        functools.partial(print, X),
        object(),
        Model(3.0),
        {1},
    ):
        assert list(session.grad(lambda m, x: x * 2)(held, X)) == [X]


class Cell(NamedTuple):
    w: Any


def test_registration_is_neos_own_and_safe_between_threads() -> None:
    @dataclasses.dataclass
    class Fresh:
        w: Any

    errors = []

    def work() -> None:
        try:
            close(session.grad(lambda t: (t.w**2).sum(), argnums=0)(Fresh(X)).w, 2 * X.data)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert optree.tree_leaves(Fresh(1.0)) != [1.0]  # to others optree is as it was
    assert pytree.leaves(Fresh(X)) == [X] or pytree.leaves(Fresh(X))[0] is X


def test_trees_copy_and_pickle() -> None:
    tree = Weights(X, [V])
    again = pickle.loads(pickle.dumps(tree))
    assert torch.equal(again.w.data, X.data)
    assert torch.equal(copy.deepcopy(tree).b[0].data, V.data)


def test_structures_of_one_class_compare_equal() -> None:
    a, b = Weights(X, V), Weights(V, X)
    vars(a)["extra"] = 1
    assert pytree.structure(a) == pytree.structure(b)
    assert pytree.tree_map(lambda x, y: x + y, a, b).w.tolist() == (X + V).tolist()
    with pytest.raises(ValueError, match="type mismatch"):
        pytree.tree_map(lambda x, y: x, a, {"w": X, "b": V})


# --- dicts of tensors, whose structures are kept ---------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["ab", "ba", "zyxa", "a", ""])
def test_dict_of_tensors_flattens_as_optree_has_it(keys: str) -> None:
    tree = {key: number(float(i)) for i, key in enumerate(keys)}
    for _ in range(2):  # the second time its structure is known
        found, spec = pytree.flatten(tree)
        expected, structure = optree.tree_flatten(tree, namespace=pytree.NAMESPACE)
        assert list(map(id, found)) == list(map(id, expected))
        assert spec == structure
        assert list(pytree.unflatten(spec, found)) == list(keys)  # in the order of the dict's own


@pytest.mark.parametrize("other", [{1: X, 2: V}, {True: X}, {"a": X, 2: V}, {("a",): X}, {None: X}])
def test_dict_whose_keys_are_no_words_flattens_as_optree_has_it(other: dict) -> None:
    found, spec = pytree.flatten(other)
    expected, structure = optree.tree_flatten(other, namespace=pytree.NAMESPACE)
    assert (list(map(id, found)), spec) == (list(map(id, expected)), structure)


def test_structure_of_a_dict_is_not_taken_for_one_with_constants_or_none_as_leaves() -> None:
    tree = {"a": X, "b": V}
    tensors = pytree.structure(tree)
    assert pytree.structure({"a": {"c": X}, "b": V}) != tensors
    assert pytree.leaves({"a": None, "b": V}) == [V]
    assert pytree.flatten(tree, none_is_leaf=True)[1].none_is_leaf
    assert not pytree.structure(tree).none_is_leaf


def test_mapping_over_dicts_follows_names_and_refuses_other_ones() -> None:
    one, other = {"a": X, "b": V}, {"b": X, "a": V}
    assert pytree.tree_map(lambda a, b: (a is X, b is V), one, other) == {
        "a": (True, True),
        "b": (False, False),
    }
    with pytest.raises(ValueError, match="key"):
        pytree.tree_map(lambda a, b: a, one, {"a": X, "c": V})
    assert pytree.tree_map(lambda a, b: b, one, {"a": [1, 2], "b": 3}) == {"a": [1, 2], "b": 3}


def test_kept_structures_are_bounded() -> None:
    for i in range(pytree._MOST_STRUCTURES + 5):
        pytree.structure({f"w{i}": X})
    assert len(pytree._structures) <= pytree._MOST_STRUCTURES


def test_error_of_the_mapped_function_is_its_own() -> None:
    def refuse(*leaves: Any) -> None:
        raise LookupError("mine")

    for others in ((), ({"a": X, "b": V},)):
        with pytest.raises(LookupError, match="mine"):
            pytree.tree_map(refuse, {"a": X, "b": V}, *others)
