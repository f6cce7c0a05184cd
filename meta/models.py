"""Any torch.nn.Module, by its import path, as the model of a run: what conf/model/torch.yaml and lora.yaml name."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate

from meta.imports import argument_names, expect_arguments, located, nearest
from meta.module_outputs import picked
from meta.patterns import expect_patterns, matching
from meta.pretrained import Pretrained
from neo.nn import Frozen, LoRA, Module, TorchModel

__all__ = ["ConfiguredModel", "Preparation", "frozen_model", "lora_model", "torch_model"]

CARRIED = ("batch", "frozen")  # TorchModel's "updated" gives new statistics, which no algorithm carries along


class Source(NamedTuple):
    """Where a module comes from, for who writes down how it is built.

    changes: lines of Python that make of `module`, as path(**options) gives it, what is run.
    """

    path: str
    options: Mapping[str, Any]
    changes: tuple[str, ...] = ()


class ConfiguredModel(TorchModel):
    """A TorchModel whose inputs are made to fit it, and of whose outputs one is picked; see torch_model."""

    def __init__(
        self,
        factory: functools.partial[torch.nn.Module],
        *,
        output: str | int | None,
        channels: int | None,
        dtype: torch.dtype | None,
        source: Source,
        pretrained: bool = False,
        **options: Any,
    ):
        self.output, self.channels, self.dtype, self.source = output, channels, dtype, source
        self.pretrained = pretrained  # whether its constants are those of a file
        super().__init__(factory, **options)

    def __call__(
        self,
        params: Any,
        *args: Any,
        state: Mapping[str, Any] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Any:
        x, *rest = args
        if self.channels is not None and x.ndim > 1 and x.shape[1] == 1 != self.channels:
            x = x.expand(-1, self.channels, *(-1,) * (x.ndim - 2))
        if self.dtype is not None and x.dtype.is_floating_point and x.dtype != self.dtype:
            x = x.to(self.dtype)
        return picked(super().__call__(params, x, *rest, state=state, seed=seed, **kwargs), self.output)


def torch_model(
    module: str | None,
    *,
    options: Mapping[str, Any] | None = None,
    output: str | int | None = None,
    buffers: str = "batch",
    training: bool = False,
    init: str = "drawn",
    verify: bool = True,
    channels: int | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    strict: bool = True,
    left_out: str | Sequence[str] | None = None,
    frozen: str | Sequence[str] | None = None,
    seed: int = 0,
    prepared: Preparation | None = None,
) -> ConfiguredModel | Frozen:
    """The model that a run's configuration names: prediction = model(params, x), x of the tasks' own shape.

    Args:
        module: import path of a torch.nn.Module class, or of a function that gives a module: "my.package.Net",
            "torchvision.models.mobilenet_v3_small".
        options: its keyword arguments; positional ones as a list under "_args_". What has a _target_ in them is
            built by hydra's rules, anew for every seed.
        output: which of forward's outputs is the prediction, where it gives more than one tensor: a key, an attribute
            or an index, or several with dots between them, "logits" or "0" or "heads.left".
        buffers: whose statistics normalise in batch norms: "batch" (those of the batch at hand), "frozen" (the running
            ones of the module as it is built, of use with pretrained weights).
        training: False turns dropout and its kin off, as module.eval() does; True leaves them on in training, and
            evaluations drop nothing. Of batch norms, `buffers` decides.
        init: "drawn" (the run's seed draws new weights), "given" (the weights that the module is built with under
            `seed`, whatever init() is given, as pretrained ones are).
        verify: compare the first call with torch's, values and gradients.
        channels: images of one channel are given to the module as so many equal ones; None for as they are.
        dtype: of the parameters, and of floating-point inputs: "float64", say; None for the module's own.
        weights: a local file whose weights and buffers the module is given once it is built; see meta.pretrained.
        strict: whether that file must fit but for what is left out. False: what fits is taken.
        left_out: patterns of names that the file does not give, the head's say: they begin as the module has them.
        frozen: patterns of the names of parameters that are constants, neither adapted nor meta-learned.
        seed: under which the module is built, with the buffers that it draws; the run's.
        prepared: what else is done to the module, by those who know it.
    Raises: ValueError naming the key of the configuration, what came and what is there; what neo.nn.TorchModel raises.
    """
    if not isinstance(module, str) or not module:
        raise ValueError(
            f"model.module={module!r} must be the import path of a torch.nn.Module class or of a function that builds "
            "one, as model.module=my.package.Net."
        )
    if buffers not in CARRIED:
        raise ValueError(
            f"model.buffers={buffers!r} must be one of {', '.join(CARRIED)}; running statistics that each call updates "
            "(neo.nn.TorchModel has them) are carried along by no algorithm."
        )
    if init not in ("drawn", "given"):
        raise ValueError(f"model.init={init!r} must be drawn or given.")
    wanted = None if dtype is None else floating(dtype)
    factory = functools.partial(built, module, dict(options or {}), training, wanted)
    prepared = prepared or Preparation()
    if weights is not None:
        patterns = (left_out,) if isinstance(left_out, str) else tuple(left_out or ())
        pretrained = Pretrained(weights, strict=strict, left_out=(*patterns, *prepared.left_out))
        prepared = prepared._replace(before=pretrained.fill)
    model = ConfiguredModel(
        functools.partial(_prepared, factory, prepared),
        source=Source(module, dict(options or {}), prepared.changes),
        output=output,
        channels=channels,
        dtype=wanted,
        pretrained=weights is not None,
        buffers=buffers,
        init=init,
        verify=verify,
        seed=seed,
    )
    return Frozen(model, names, seed=seed) if (names := frozen_names(frozen, model.params())) else model


class Preparation(NamedTuple):
    """What is done to a module once it is built: before(module), then after(module), which give a module.

    left_out: names of weights that a file does not give.
    changes: what `after` does to the layers, as Source has it.
    """

    left_out: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    before: Callable[[torch.nn.Module], torch.nn.Module] | None = None
    after: Callable[[torch.nn.Module], torch.nn.Module] | None = None


def _prepared(factory: Callable[[], torch.nn.Module], prepared: Preparation) -> torch.nn.Module:
    module = factory()
    for step in (prepared.before, prepared.after):
        module = module if step is None else step(module)
    return module


def lora_model(
    module: str | None,
    *,
    layers: str | Sequence[str] | None,
    rank: int = 8,
    alpha: float = 8.0,
    frozen: str | Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> LoRA | Frozen:
    """torch_model(module, **options) with low-rank adapters on the weights that `layers` matches; see neo.nn.LoRA.

    frozen: patterns of the module's own parameters that are constants, "*" for all: adapters are always learned. Those
        that the module has with requires_grad=False are constants without being named, and may have adapters.
    """
    constant: dict[str, None] = {}

    def all_trained(module: torch.nn.Module) -> torch.nn.Module:
        constant.update({name: None for name, one in module.named_parameters() if not one.requires_grad})
        for one in module.parameters():
            one.requires_grad = (
                one.is_floating_point()
            )  # by which a TorchModel tells parameters from constants
        return module

    model = torch_model(module, seed=seed, prepared=Preparation(after=all_trained), **options)
    assert isinstance(model, ConfiguredModel)
    if layers is None:
        raise ValueError(
            "model.layers must be a pattern of the names of weights, or a list: "
            f"{', '.join(name for name, weight in model.params().items() if weight.ndim > 1)}."
        )
    adapted = LoRA(model, layers, rank=rank, alpha=alpha)
    names = dict.fromkeys([*frozen_names(frozen, model.params()), *constant])
    return Frozen(adapted, list(names), seed=seed) if names else adapted


def frozen_model(
    model: Module,
    *,
    frozen: str | Sequence[str] | None,
    weights: str | None = None,
    strict: bool = True,
    left_out: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Frozen:
    """Any model of a configuration, Neo's own say, with parameters as constants, and weights of a file.

    weights, strict, left_out: as torch_model has them: for all parameters, frozen or not, and not for what is left out.
    """
    start: Any = model.init(seed=seed)
    names = frozen_names(frozen, start)
    given = None
    if weights is not None:
        given = Pretrained(weights, strict=strict, left_out=left_out or ()).fitting(start)
    return Frozen(model, names or (), given=given, seed=seed)


def frozen_names(frozen: Any, params: Any) -> list[str]:
    """The names that model.frozen matches; none without it. Raises: ValueError for a pattern that matches none."""
    if frozen is None or frozen == () or frozen == []:
        return []
    return matching("the model", "frozen", expect_patterns("the model", "frozen", frozen), params, "model")


def built(
    path: str, options: Mapping[str, Any], training: bool, dtype: torch.dtype | None
) -> torch.nn.Module:
    """The module of an import path. Raises: ValueError naming the key of the configuration."""
    target = located(path, "model.module")
    if isinstance(target, torch.nn.Module):
        raise ValueError(
            f"model.module={path} is a module already built; name its class, or a function that builds it."
        )
    keywords = {name: _instantiated(value) for name, value in options.items() if name != "_args_"}
    positional = [_instantiated(value) for value in options.get("_args_", ())]
    expect_arguments(target, positional, keywords, what=path, key="model.options")
    if path.split(".")[0] == "torchvision":
        _expect_read(path, target, keywords)
    try:
        module = target(*positional, **keywords)
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no options"
        raise ValueError(
            f"model.module={path} could not be built with model.options ({given}): {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise ValueError(
            f"model.module={path} gives a {type(module).__name__}; it must be a torch.nn.Module class, or a function "
            "that builds a module."
        )
    return module.train(training).to(dtype)


def floating(name: str) -> torch.dtype:
    """The dtype of a name. Raises: ValueError for one that is not of floating-point numbers."""
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"model.dtype={name} must be a dtype of floating-point numbers: float32, float64, bfloat16, float16."
        )
    return dtype


def _instantiated(value: Any) -> Any:
    """Nested nodes that have a _target_, built; lists and mappings as plain ones."""
    return instantiate(copy.deepcopy(value), _convert_="all") if isinstance(value, dict | list) else value


def _expect_read(path: str, target: Any, keywords: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that nothing reads.

    torchvision's builders pass any keyword on, and some of its constructors (MobileNetV3's) drop those they do not
    know: a name must at least be an argument of some function or class beside the builder.
    """
    beside = vars(sys.modules[target.__module__]).values()
    names = dict.fromkeys(name for one in (target, *beside) if callable(one) for name in argument_names(one))
    unread = [name for name in keywords if name not in names]
    if unread:
        raise ValueError(
            f"model.options.{unread[0]} is read by nothing that {path} calls{nearest(unread[0], names)}"
        )
