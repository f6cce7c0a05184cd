"""torch.func.functional_call for LiteTensors: a module called with other parameters."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from neo.autograd.tensor import LiteTensor
from neo.nn.torch_model import TorchModel

__all__ = ["functional_call"]

# The last conversion of each module, and what the module was like then.
_converted: weakref.WeakKeyDictionary[torch.nn.Module, tuple[Any, TorchModel]] = weakref.WeakKeyDictionary()


def functional_call(
    module: torch.nn.Module,
    params: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    seed: int | None = None,
) -> Any:
    """module(*args, **kwargs) with `params` in place of its own parameters and buffers, as torch.func.functional_call.

    neo.grad(lambda params: neo.nn.functional_call(module, params, x).sum(), argnums=0)(params)

    params: name → LiteTensor (or torch tensor, a constant), under the names of named_parameters and named_buffers, or
    several such dicts; tied parameters under any of their names. What is not named is the module's own, a constant. The
    module is left as it is: running statistics of batch norms do not change, in training mode the batch's normalise.

    seed: what dropout draws from, see neo.nn.from_torch.
    Raises: KeyError for a name that the module does not have; what neo.nn.from_torch and its models raise.
    Cost: a conversion by neo.nn.from_torch at the first call, and where the module has changed since; a model made by
        from_torch spares looking.
    """
    named = _merged(params)
    for name in ("state", "seed"):
        if name in (kwargs or {}):
            raise TypeError(
                f"functional_call: forward's argument {name!r} shares its name with one of Neo's models; give it by "
                f"position, in args"
            )
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"functional_call: expected a torch.nn.Module, got {type(module).__name__}; one of Neo's own models is "
            f"called as model(params, x)"
        )
    given = args if isinstance(args, tuple) else () if args is None else (args,)
    first = _first_names(module)
    unknown = [name for name in named if name not in first]
    if unknown:
        raise KeyError(
            f"functional_call: {type(module).__name__} has no parameter or buffer {', '.join(map(repr, unknown))}; it "
            f"has {', '.join(first)}"
        )
    for name in named:
        if first[name] != name and first[name] in named and named[first[name]] is not named[name]:
            raise ValueError(
                f"functional_call: {name!r} and {first[name]!r} are one tied tensor of {type(module).__name__}, and "
                f"two were given; give one of them"
            )
    own = {first[name]: value for name, value in named.items()}
    model = _model_of(module)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    move = _mover(module, own)
    chosen = {
        name: own[name] if name in own else LiteTensor(move(tensor.detach()))
        for name, tensor in module.named_parameters()
        if name in trained
    }
    everything = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: own[name] if name in own else move(everything[name].detach()) for name in model.state}
    return model(chosen, *given, state=state, seed=seed, **dict(kwargs or {}))


def _merged(params: Any) -> dict[str, Any]:
    if isinstance(params, Mapping):
        return dict(params)
    merged: dict[str, Any] = {}
    for part in params:
        twice = merged.keys() & part.keys()
        if twice:
            raise ValueError(f"functional_call: {', '.join(map(repr, sorted(twice)))} given in two dicts")
        merged.update(part)
    return merged


def _first_names(module: torch.nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer → the first name of the same tensor."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(tensor), name)
        for name, tensor in (
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        )
    }


def _mover(module: torch.nn.Module, given: Mapping[str, Any]) -> Any:
    """Brings the module's own tensors to the dtype and device of those given, where these are not the module's."""
    own = dict(module.named_parameters())
    name = next((name for name in given if name in own), None)
    if name is None:
        return lambda tensor: tensor
    was, now = own[name], given[name]
    return lambda tensor: tensor.to(
        device=now.device if tensor.device == was.device else None,
        dtype=now.dtype if tensor.dtype == was.dtype else None,
    )


def _model_of(module: torch.nn.Module) -> TorchModel:
    looks = _looks(module)
    known = _converted.get(module)
    if known is None or known[0] != looks:
        known = _converted[module] = (looks, TorchModel(module))
    return known[1]


def _looks(module: torch.nn.Module) -> list[Any]:
    """What a conversion depends on: submodules, flags, hooks and plain attributes, not the numbers in the tensors."""
    found: list[Any] = [(name, p.requires_grad) for name, p in module.named_parameters()]
    for part in module.modules():
        found.append((id(part), type(part)))
        for name, value in vars(part).items():
            if isinstance(value, bool | int | float | str | tuple | type(None)):
                found.append((name, value))
            elif isinstance(value, dict):
                found.append((name, [(key, id(item)) for key, item in value.items() if not _is_tensor(item)]))
            elif isinstance(value, list):
                found.append((name, [id(item) for item in value]))
            elif not _is_tensor(value):
                found.append((name, id(value)))
    return found


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
