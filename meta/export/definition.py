"""A model as the source of a plain torch.nn.Module, and the weights that go into it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from meta.imports import located
from meta.models import ConfiguredModel
from meta.problems import constant
from neo import nn
from neo.nn.siren import Sine
from neo.typing import Params

__all__ = ["Definition", "define"]

IMPORTS = (
    "from __future__ import annotations",
    "from pathlib import Path",
    "import torch",
    "from torch import nn",
)


class Definition(NamedTuple):
    """source: of a module whose load() gives the torch module, with its weights from state_dict.pt beside it, and whose
    build() gives it without. state: the weights, by the names of its state_dict."""

    source: str
    state: dict[str, torch.Tensor]


def define(model: nn.Module, params: Params, about: str) -> Definition:
    """The plain torch module that computes model(params, x).

    Args:
        about: what the model is, the first lines of the source.
    Raises: ValueError for a model without a known equivalent, naming the layer, or an argument that is no literal.
    """
    if isinstance(model, nn.Frozen):
        return define(model.model, model.complete(params), about)
    if isinstance(model, nn.LoRA):
        return define(model.model, model.merge(params), about)
    if isinstance(model, ConfiguredModel):
        return _of_torch(model, params, about)
    if isinstance(model, nn.Sequential):
        return _of_layers(model, params, about)
    raise ValueError(
        f"{type(model).__name__} has no torch module that is known to be the same; models that can be exported are "
        "sequences of layers (model=conv4, mlp, siren) and torch modules by import path (model=torch, lora)."
    )


def _of_layers(model: nn.Sequential, params: Params, about: str) -> Definition:
    lines: list[str] = []
    state: dict[str, torch.Tensor] = {}
    flat = False  # whether a layer is given vectors, of which torch has batch norms of their own
    for (name, layer), (_, local) in zip(model.layers, model.split(params), strict=True):
        written = LAYERS.get(type(layer))
        if written is None:
            raise ValueError(
                f"the layer {name!r} of the model, {type(layer).__name__}, has no torch layer that is known to be the "
                "same; write the model as a torch.nn.Module, and train it as model=torch."
            )
        flat = flat or isinstance(layer, nn.Flatten | nn.SpatialMean | nn.Linear)
        for ending, made in written(layer).items():
            made = made.replace("BatchNorm2d", "BatchNorm1d") if flat else made
            lines.append(f"                ({name + ending!r}, {made}),")
        state |= {f"{name}.{key}": constant(weight) for key, weight in local.items()}
        if isinstance(layer, nn.BatchNorm2d) and not layer.scale:
            state[f"{name}.weight"] = torch.ones(layer.channels, dtype=constant(local["bias"]).dtype)
    body = [
        "    return nn.Sequential(",
        "        OrderedDict(",
        "            [",
        *lines,
        "            ]",
        "        )",
    ]
    body.append(f"    ){_cast(state)}")
    imports = ["from collections import OrderedDict", *IMPORTS[1:]]
    helpers = [SINE] if any(isinstance(layer, Sine) for _, layer in model.layers) else []
    return Definition(_source(about, imports, helpers, body, wrapped=False), state)


def _normalised(norm: nn.BatchNorm2d, kind: str = "BatchNorm2d") -> dict[str, str]:
    return {"": f"nn.{kind}({norm.channels}, eps={norm.eps}, track_running_stats=False)"}


def _normalised_and_pooled(norm: Any) -> dict[str, str]:
    pool = {} if norm.pool is None else {"_pool": f"nn.MaxPool2d({norm.pool})"}
    return {**_normalised(norm), "_relu": "nn.ReLU()", **pool}


def _convolution(conv: Any) -> dict[str, str]:
    outputs, inputs, kernel, _ = conv.shape
    settings = f"stride={conv.stride}, padding={conv.padding}, bias={conv.bias}"
    return {"": f"nn.Conv2d({inputs}, {outputs}, {kernel}, {settings})"}


def _linear(linear: Any) -> dict[str, str]:
    return {"": f"nn.Linear({linear.inputs}, {linear.outputs}, bias={linear.bias})"}


# Each layer → what it is in torch, by what is put behind its name; the names of its weights are the same.
LAYERS: Mapping[type, Callable[[Any], dict[str, str]]] = {
    nn.ChannelsLast: lambda layer: {},  # says how images lie in memory, and changes no number
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.siren.SineLinear: _linear,
    nn.BatchNorm1d: lambda norm: _normalised(norm, "BatchNorm1d"),
    nn.BatchNorm2d: _normalised,
    nn.BatchNormReLU: _normalised_and_pooled,
    nn.ReLU: lambda layer: {"": "nn.ReLU()"},
    nn.MaxPool2d: lambda pool: {"": f"nn.MaxPool2d({pool.kernel})"},
    nn.Flatten: lambda layer: {"": "nn.Flatten()"},
    nn.SpatialMean: lambda layer: {"": "nn.AdaptiveAvgPool2d(1)", "_flat": "nn.Flatten()"},
    Sine: lambda sine: {"": f"Sine({sine.frequency})"},
}

SINE = '''\
class Sine(nn.Module):
    """y = sin(frequency · x)."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.frequency * x)
'''


def _of_torch(model: ConfiguredModel, params: Params, about: str) -> Definition:
    path, options, changes = model.source
    target = located(path, "model.module")
    module, name = target.__module__, target.__qualname__
    if not name.isidentifier() or module == "__main__":
        raise ValueError(
            f"model.module={path} is {module}.{name}, which another process cannot import; give it a name of its own "
            "in a file of its own."
        )
    given = [_literal(value, f"_args_[{i}]") for i, value in enumerate(options.get("_args_", ()))]
    given += [f"{key}={_literal(value, key)}" for key, value in options.items() if key != "_args_"]
    weights = {key: constant(weight) for key, weight in params.items()}
    dtype = next((weight.dtype for weight in weights.values()), torch.float32)
    state = {**{key: _like(tensor, dtype) for key, tensor in model.state.items()}, **weights}
    state |= {other: state[first] for other, first in model.tied.items() if first in state}
    cast = _cast(state)
    body = [f"    module = {name}({', '.join(given)}){'' if changes else cast}"]
    body += [f"    {line}" for line in changes]
    if changes and cast:
        body.append(f"    module = module{cast}")
    if model.buffers == "batch":
        body += [
            "    for part in module.modules():  # normalised by the batch at hand, as it was trained",
            "        if isinstance(part, nn.modules.batchnorm._NormBase):",
            "            part.track_running_stats = False",
            "            part.running_mean = part.running_var = part.num_batches_tracked = None",
        ]
        running = ("running_mean", "running_var", "num_batches_tracked")
        state = {key: tensor for key, tensor in state.items() if key.rpartition(".")[2] not in running}
    body.append("    return module")
    wrapped = model.channels is not None or model.dtype is not None or model.output is not None
    helpers = [_wrapper(model)] if wrapped else []
    imports = [*IMPORTS[1:], f"from {module} import {name}"]
    return Definition(_source(about, imports, helpers, body, wrapped), state)


def _wrapper(model: ConfiguredModel) -> str:
    lines = []
    if model.channels is not None:
        lines += [
            f"if x.ndim > 1 and x.shape[1] == 1 != {model.channels}:",
            f"    x = x.expand(-1, {model.channels}, *x.shape[2:])",
        ]
    if model.dtype is not None:
        lines.append(f"x = x.to({model.dtype})")
    lines.append("out = self.module(x)")
    for part in [] if model.output is None else str(model.output).split("."):
        index = repr(part) if not part.lstrip("-").isdigit() else part
        lines.append(f"out = out[{index}] if hasattr(out, '__getitem__') else getattr(out, {part!r})")
    inside = "\n".join(f"        {line}" for line in [*lines, "return out"])
    return f'''\
class Fitted(nn.Module):
    """The module with its inputs made to fit it, and of its outputs the prediction."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
{inside}
'''


def _source(about: str, imports: list[str], helpers: list[str], body: list[str], wrapped: bool) -> str:
    standard = sorted(one for one in imports if one.split()[1] in ("collections", "pathlib"))
    others = [one for one in imports if one not in standard]
    parts = [
        f'"""{about}\n"""',
        IMPORTS[0],
        "\n".join(standard),
        "\n".join(others),
        *("\n" + helper.rstrip() for helper in helpers),
        "\ndef build() -> nn.Module:\n"
        '    """The module, with weights that mean nothing yet."""\n' + "\n".join(body),
        "\ndef load(weights: str | Path = Path(__file__).with_name('state_dict.pt')) -> nn.Module:\n"
        '    """The module with its weights, on the CPU, in eval mode."""\n'
        "    module = build()\n"
        "    module.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True))\n"
        f"    return {'Fitted(module)' if wrapped else 'module'}.eval()",
    ]
    return "\n\n".join(parts) + "\n"


def _literal(value: Any, key: str) -> str:
    try:
        if ast.literal_eval(repr(value)) == value and "_target_" not in repr(value):
            return repr(value)
    except (ValueError, SyntaxError):
        pass
    raise ValueError(
        f"model.options.{key}={value!r} is no plain value, which the source of an exported module could hold; give the "
        "module a builder that takes plain ones."
    )


def _cast(state: Mapping[str, torch.Tensor]) -> str:
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return "" if dtypes <= {torch.float32} else f".to({next(iter(dtypes))})"


def _like(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
