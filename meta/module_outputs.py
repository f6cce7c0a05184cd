"""Which of a module's outputs is the prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from neo import LiteTensor

__all__ = ["picked"]


def picked(out: Any, output: str | int | None) -> Any:
    """The prediction in what forward gave. Raises: ValueError for one that is not there, or is no tensor."""
    found = out
    if isinstance(out, LiteTensor | torch.Tensor):
        if output is not None:
            raise ValueError(
                f"model.output={output}: the module gives one tensor, of shape {tuple(out.shape)}; leave model.output "
                "out."
            )
    elif output is None:
        raise ValueError(
            f"the module gives a {type(out).__name__} with {_said(out)}; say which is the prediction: "
            f"model.output={next(iter(_names(out)), 0)}."
        )
    else:
        for part in str(output).split("."):
            found = _entry(found, part, output)
    if not isinstance(found, LiteTensor | torch.Tensor):
        raise ValueError(
            f"model.output={output} is a {type(found).__name__}, and the prediction must be a tensor; it has "
            f"{_said(found)}."
        )
    return found


def _entry(out: Any, part: str, output: str | int) -> Any:
    if isinstance(out, Mapping) and part in out:
        return out[part]
    if part.lstrip("-").isdigit() and isinstance(out, Sequence) and not isinstance(out, str):
        if -len(out) <= int(part) < len(out):
            return out[int(part)]
    elif part.isidentifier() and not isinstance(out, LiteTensor | torch.Tensor) and part in _names(out):
        return getattr(out, part)
    raise ValueError(
        f"model.output={output}: there is no {part!r} in a {type(out).__name__}, which has {_said(out)}."
    )


def _names(out: Any) -> list[str]:
    """What the outputs are called, of a mapping, a sequence, or an object with attributes."""
    if isinstance(out, Mapping):
        return [str(key) for key in out]
    if hasattr(out, "_fields"):
        return list(out._fields)
    if isinstance(out, Sequence) and not isinstance(out, str):
        return [str(index) for index in range(len(out))]
    attributes: Any = getattr(out, "__dict__", None) or getattr(type(out), "__slots__", ())
    return [name for name in attributes if not name.startswith("_")]


def _said(out: Any) -> str:
    return ", ".join(_names(out)) or "no outputs"
