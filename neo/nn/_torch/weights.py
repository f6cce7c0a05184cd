"""Initial weights of a torch module under a seed, drawn on the CPU by torch's own initialisers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from neo.errors import ConversionError
from neo.nn._torch.copies import Blueprint

__all__ = ["built", "constructed", "reset"]

_one_at_a_time = threading.RLock()  # torch's initialisers draw from the one default generator


@contextlib.contextmanager
def _default_generator(seed: int) -> Iterator[None]:
    """torch's default CPU generator at a seed, and back where it was."""
    with _one_at_a_time:
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)


def built(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """build(), whose draws on the CPU are those of torch.manual_seed(seed)."""
    with _default_generator(seed):
        return build()


def constructed(
    build: Callable[[], torch.nn.Module], blueprint: Blueprint, seed: int
) -> dict[str, torch.Tensor]:
    """The parameters of build() under a seed: what torch.manual_seed(seed); build() would give."""
    module = built(build, seed)
    weights = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    expected = {name: tuple(weight.shape) for name, weight in blueprint.parameters.items()}
    if got != expected:
        differing = sorted({*got.items()} ^ {*expected.items()})
        raise ConversionError(
            f"from_torch({blueprint.name}): the function builds another module than it did before: {differing}"
        )
    for name, buffer in module.named_buffers():
        if not torch.equal(buffer.cpu().nan_to_num(), blueprint.buffers[name].cpu().nan_to_num()):
            raise ConversionError(
                f"from_torch({blueprint.name}): buffer {name!r} is drawn too, and the model keeps the one that it was "
                f"built with; give from_torch the seed that init is called with, seed={seed}"
            )
    return weights


def reset(blueprint: Blueprint, seed: int) -> dict[str, torch.Tensor]:
    """New weights by each submodule's reset_parameters, those inside first, as constructors run.

    Raises: NotImplementedError for a submodule whose own parameters it does not draw.
    """
    fresh: dict[str, Any] = {
        name: torch.nn.Parameter(torch.full_like(weight, torch.nan, device="cpu"))
        for name, weight in blueprint.parameters.items()
    }
    fixed: dict[str, Any] = {
        name: torch.nn.Parameter(value.cpu().clone(), requires_grad=False)
        for name, value in blueprint.frozen.items()
    }
    fixed |= {name: value.cpu().clone() for name, value in blueprint.buffers.items()}
    module = blueprint.build({**fresh, **fixed})
    done: set[torch.nn.Module] = set()

    def reset_once(part: torch.nn.Module) -> None:
        draw = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if part not in done and callable(draw):
            done.add(part)
            draw()

    with _default_generator(seed):
        module.apply(reset_once)
    missed = [name for name, weight in fresh.items() if bool(torch.isnan(weight).any())]
    if missed:
        owner = missed[0].rpartition(".")[0]
        kind = type(module.get_submodule(owner)).__name__
        raise NotImplementedError(
            f"from_torch({blueprint.name}): init cannot draw {missed[0]!r}{' and others' * (len(missed) > 1)}, for "
            f"{kind} has no reset_parameters that does. Give from_torch a function that builds the module "
            f'(from_torch(lambda: Net())), or init="given" to start from the weights it has.'
        )
    return {name: weight.detach() for name, weight in fresh.items()}
