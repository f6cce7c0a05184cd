"""torchvision's and timm's models by name, with a head fitted to the ways: what conf/model/torchvision.yaml names."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from meta.imports import located, nearest
from meta.models import Preparation, built, torch_model
from neo.nn import Module
from tasks._torchvision import import_torchvision

__all__ = ["timm_model", "torchvision_model"]


def torchvision_model(
    name: str | None,
    *,
    ways: int | None,
    in_channels: int | None = None,
    first: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Module:
    """A classifier of torchvision.models by name, built for `ways` classes.

    Args:
        name: as torchvision.models.list_models() has it: resnet18, vit_b_16 ...
        ways: outputs of the head. None: no head, the outputs are the features that it would see.
        in_channels: of the images, whose first convolution is then made for so many: each of its kernels is the mean
            over the three channels, times 3 / in_channels, so that 1 is the same function of grey images as three equal
            channels. None: the model's three, and grey images are given as three equal ones.
        first: the name of that convolution; None: the first one of the model.
        options: further arguments of the builder.
        seed, settings: as meta.models.torch_model has them, weights among them, of which the head is left out.
    Raises: ValueError naming the key of the configuration.
    """
    try:
        models = import_torchvision().models
    except ImportError as error:
        raise ValueError(
            f"model=torchvision needs torchvision ({error}); pip install torchvision."
        ) from error
    known = models.list_models(module=models)
    _expect_name("torchvision", name, known)
    path = f"torchvision.models.{models.get_model_builder(name).__name__}"
    return _named_model(path, {**(options or {})}, "num_classes", ways, in_channels, first, seed, settings)


def timm_model(
    name: str | None,
    *,
    ways: int | None,
    in_channels: int | None = None,
    first: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Module:
    """A model of timm by name, built for `ways` classes; arguments as torchvision_model has them.

    Raises: ValueError naming the key of the configuration, and where timm is not installed.
    """
    if importlib.util.find_spec("timm") is None:
        raise ValueError("model=timm needs timm, which is not installed; pip install timm.")
    with contextlib.suppress(ImportError):
        import_torchvision()  # which timm imports, and which needs care over a CPU build of torch
    _expect_name("timm", name, located("timm.list_models", "model._target_")())
    if "pretrained" in (options or {}):
        raise ValueError(
            "model.options.pretrained would download weights, which Neo does not; give a local file, "
            "model.weights=FILE."
        )
    given = {**(options or {}), "model_name": name}
    return _named_model("timm.create_model", given, "num_classes", ways, in_channels, first, seed, settings)


def _named_model(
    path: str,
    options: dict[str, Any],
    classes: str,
    ways: int | None,
    in_channels: int | None,
    first: str | None,
    seed: int,
    settings: Mapping[str, Any],
) -> Module:
    if classes in options:
        raise ValueError(f"model.options.{classes} is what model.ways says; leave it out.")
    for key, count in (("ways", ways), ("in_channels", in_channels)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"model.{key}={count!r} must be an integer of 1 or more, or null.")
    of_some = {**options, classes: 2 if ways is None else ways}
    head: list[str] = []
    if ways is None or settings.get("weights") is not None:
        two, three = (built(path, {**options, classes: count}, False, None) for count in (2, 3))
        head = _differing(two, three)
    removed = None if ways is not None else _head_of(path, head, two)
    if first is None and in_channels is not None:
        first = _first_convolution(path, built(path, of_some, False, None))
    return torch_model(
        path,
        options=of_some,
        channels=in_channels or 3,
        seed=seed,
        prepared=Preparation(
            left_out=tuple(head),
            changes=_changes(removed, first, in_channels),
            after=functools.partial(_fitted, removed=removed, first=first, in_channels=in_channels),
        ),
        **settings,
    )


def _differing(one: torch.nn.Module, other: torch.nn.Module) -> list[str]:
    """The parameters whose shape depends on the number of classes: those of the head, or heads."""
    shapes = {name: weight.shape for name, weight in other.named_parameters()}
    return [name for name, weight in one.named_parameters() if shapes.get(name) != weight.shape]


def _head_of(path: str, head: Sequence[str], module: torch.nn.Module) -> str:
    """The name of the one linear layer whose outputs are the classes."""
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name in head))
    if len(owners) != 1 or not isinstance(module.get_submodule(owners[0]), torch.nn.Linear):
        raise ValueError(
            f"model.ways=null leaves out a head that is one linear layer, and in {path} the number of classes is that "
            f"of {', '.join(owners) or 'nothing'}; set model.ways, or take another model."
        )
    return owners[0]


def _first_convolution(path: str, module: torch.nn.Module) -> str:
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Conv2d):
            return name
    raise ValueError(
        f"model.in_channels: {path} has no convolution to see the images first; leave it out (null), and grey images "
        "are given as three equal channels."
    )


def _changes(removed: str | None, first: str | None, in_channels: int | None) -> tuple[str, ...]:
    """What _fitted does, as lines of Python; the weights come from elsewhere."""
    lines = [] if removed is None else [f"module.set_submodule({removed!r}, nn.Identity())"]
    if in_channels is not None and first is not None:
        shape = f"conv.out_channels, {in_channels}, *conv.kernel_size"
        lines += [
            f"conv = module.get_submodule({first!r})",
            f"conv.weight, conv.in_channels = nn.Parameter(torch.empty({shape})), {in_channels}",
        ]
    return tuple(lines)


def _fitted(
    module: torch.nn.Module, *, removed: str | None, first: str | None, in_channels: int | None
) -> torch.nn.Module:
    """The module without its head, and with a first convolution of so many channels, where that is asked for."""
    if removed is not None:
        module.set_submodule(removed, torch.nn.Identity())
    if in_channels is not None and first is not None:
        parts = dict(module.named_modules())
        conv = parts.get(first)
        if not isinstance(conv, torch.nn.Conv2d) or conv.groups != 1:
            kind = "there is none" if conv is None else f"that is a {type(conv).__name__}"
            raise ValueError(
                f"model.first={first} must name the first convolution of the model, of one group; {kind}"
                f"{nearest(first, [name for name, part in parts.items() if isinstance(part, torch.nn.Conv2d)])}"
            )
        with torch.no_grad():
            mean = conv.weight.mean(1, keepdim=True) * (conv.in_channels / in_channels)
            conv.weight = torch.nn.Parameter(mean.repeat(1, in_channels, 1, 1))
        conv.in_channels = in_channels
    return module


def _expect_name(library: str, name: Any, known: Sequence[str]) -> None:
    if not isinstance(name, str) or name not in known:
        given = f"model.name={name} is no model of {library}" + nearest(str(name), known) if name else ""
        raise ValueError(
            given
            or f"model.name must be the name of a model of {library}: resnet18, say; {len(known)} are known."
        )
