"""What torch's random functions do inside `with neo.nn.draws(...)`: they ask its seed, on whatever tensors.

On LiteTensors dropout and its kin are Policies (dropouts.py). Here is what they are on torch tensors, with
torch.autograd's graph as torch has it, and every function that takes a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from neo import draws
from neo.autograd._batched import in_vmap
from neo.autograd._function_mode import switched_on
from neo.autograd.tensor import LiteTensor
from neo.functions import dropouts, recurrent
from neo.functions.attention import scaled_dot_product_attention

if TYPE_CHECKING:
    from neo.autograd._function_mode import Answer

answers: dict[Any, Answer] = {}
aten = torch.ops.aten

# --- functions that take a generator ----------------------------------------------------------------------------

TORCH = [
    "rand",
    "randn",
    "randint",
    "randperm",
    "rand_like",
    "randn_like",
    "randint_like",
    "normal",
    "bernoulli",
    "multinomial",
    "poisson",
    "binomial",
    "_standard_gamma",
    "_sample_dirichlet",
]
METHODS = [
    "uniform_",
    "normal_",
    "exponential_",
    "bernoulli",
    "bernoulli_",
    "cauchy_",
    "log_normal_",
    "geometric_",
    "random_",
    "multinomial",
]
ATEN = [
    "uniform",
    "normal_functional",
    "exponential",
    "cauchy",
    "log_normal",
    "geometric",
    "random",
    "rrelu_with_noise",
    "rrelu_with_noise_",
    "rrelu_with_noise_functional",
]


def _seeded(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The call, from the seed of the block unless it says from which generator."""
    if kwargs.get("generator") is None and not any(isinstance(arg, torch.Generator) for arg in args):
        generator = draws.noise_generator(_device(args, kwargs))
        if generator is not None:
            kwargs = {**kwargs, "generator": generator}
    return func(*args, **kwargs)


def _like(fresh: Callable[..., torch.Tensor]) -> Answer:
    """torch.randn_like and its like, of which torch's vmap knows no form that takes a generator, by torch.randn."""

    def answer(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if not in_vmap():
            return _seeded(func, args, kwargs)
        input, *rest = (*args, kwargs.pop("input")) if "input" in kwargs else args
        given = {key: value for key, value in kwargs.items() if key != "memory_format"}
        given = {"dtype": input.dtype, "device": input.device, **given}
        return _seeded(fresh, (*rest, tuple(input.shape)), given)

    return answer


def _device(args: tuple, kwargs: dict[str, Any]) -> torch.device:
    """Where a call draws: the device that it names, or that of its first tensor, or torch's default."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    for value in _flat((*args, *kwargs.values())):
        if isinstance(value, torch.Tensor | LiteTensor):
            return value.device
    return torch.get_default_device()


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _any_overload(packet: Any) -> Answer:
    """For one overload of an op: that which takes a generator may be another."""
    return lambda func, args, kwargs: _seeded(packet, args, kwargs)


for _name in TORCH:
    answers[getattr(torch, _name)] = _seeded
for _name in METHODS:
    answers[getattr(torch.Tensor, _name)] = _seeded
for _name in ("rand", "randn", "randint"):
    answers[getattr(torch, f"{_name}_like")] = _like(getattr(torch, _name))
for _name in (*TORCH, *METHODS, *ATEN):
    _packet = getattr(aten, _name)
    answers[_packet] = _seeded
    for _overload in _packet.overloads():
        answers[getattr(_packet, _overload)] = _any_overload(_packet)


# --- dropout and its kin ------------------------------------------------------------------------------------------


def _kin(*targets: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Answer torch functions by a composition, whose own draws are seen too."""

    def register(composition: Callable[..., Any]) -> Callable[..., Any]:
        def answer(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
            return switched_on(composition, args, kwargs)

        for target in targets:
            answers[target] = answer
            if isinstance(target, torch._ops.OpOverloadPacket):
                for overload in target.overloads():
                    answers[getattr(target, overload)] = answer
        return composition

    return register


def _in_place(composition: Callable[..., Any]) -> Callable[..., Any]:
    def written(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = composition(input, *args, **kwargs)
        return input if result is input else input.copy_(result)

    return written


@_kin(torch.dropout, aten.dropout)
def _dropout(input, p, train):
    return dropouts.dropout(input, p, train)


@_kin(torch.feature_dropout, aten.feature_dropout)
def _feature_dropout(input, p, train):
    return dropouts.dropout2d(input, p, train)


@_kin(torch.alpha_dropout, aten.alpha_dropout)
def _alpha_dropout(input, p, train):
    return dropouts.alpha_dropout(input, p, train)


@_kin(torch.feature_alpha_dropout, aten.feature_alpha_dropout)
def _feature_alpha_dropout(input, p, train):
    return dropouts.feature_alpha_dropout(input, p, train)


_kin(torch.dropout_, aten.dropout_)(_in_place(_dropout))
_kin(torch.feature_dropout_, aten.feature_dropout_)(_in_place(_feature_dropout))
_kin(torch.alpha_dropout_, aten.alpha_dropout_)(_in_place(_alpha_dropout))
_kin(torch.feature_alpha_dropout_, aten.feature_alpha_dropout_)(_in_place(_feature_alpha_dropout))
_kin(F.gumbel_softmax)(dropouts.gumbel_softmax)


def _rrelu(input, lower=1.0 / 8, upper=1.0 / 3, training=False, generator=None):
    if generator is not None:
        return torch.rrelu(input, lower, upper, training, generator)
    return dropouts.rrelu(input, lower, upper, training)


def _with_the_mode_off(composition: Callable[..., Any]) -> Answer:
    """For one that asks the very function that it answers."""
    return lambda func, args, kwargs: composition(*args, **kwargs)


answers[torch.rrelu] = answers[aten.rrelu] = _with_the_mode_off(_rrelu)
answers[torch.rrelu_] = answers[aten.rrelu_] = _with_the_mode_off(_in_place(_rrelu))


@_kin(torch.native_dropout, aten.native_dropout)
def _native_dropout(input, p, train):
    """(y, mask), as torch has it."""
    if train is False or not p or not draws.dropping():
        return input.clone(), torch.ones_like(input, dtype=torch.bool)
    scale = dropouts.dropout_mask(tuple(input.shape), p, input.dtype, input.device)
    return input * scale, scale != 0


# --- kernels of torch's that drop inside, and take no generator: torch's own where nothing is dropped ----------


def _attention(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    kwargs = {**dict(zip(_ATTENTION, args, strict=False)), **kwargs}
    if not draws.dropping():
        kwargs["dropout_p"] = 0.0
    return (
        switched_on(scaled_dot_product_attention, (), kwargs) if kwargs.get("dropout_p") else func(**kwargs)
    )


_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
answers[F.scaled_dot_product_attention] = _attention


def _recurrent(composition: Callable[..., Any]) -> Answer:
    """(x, hx, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first), or, for a packed sequence,
    (rows, sizes, hx, weights, has_biases, num_layers, dropout, train, bidirectional), all positional."""

    def answer(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        at = 6 if isinstance(args[3], list | tuple) else 5
        layers, p, train = args[at - 1 : at + 2]
        if layers == 1 or not p or not train:
            return func(*args, **kwargs)
        if not draws.dropping():
            return func(*args[:at], 0.0, *args[at + 1 :], **kwargs)
        return switched_on(composition, args, kwargs)

    return answer


for _name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    answers[getattr(torch, _name)] = answers[getattr(aten, _name)] = _recurrent(getattr(recurrent, _name))
