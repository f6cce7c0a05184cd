"""Weights from a local file, taken into a model by name and shape. Nothing is downloaded, and no pickle runs code."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

__all__ = ["Pretrained", "read_weights"]

INSIDE = (
    "state_dict",
    "model_state_dict",
    "model",
)  # under which files of training scripts keep a state_dict
COUNTER = ".num_batches_tracked"  # of batch norms, which files from before torch 1.0 lack
NAMED = 4  # entries that a sentence names

log = logging.getLogger(__name__)


def read_weights(file: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict (torch.save), a safetensors file, or a checkpoint of Neo's, by name, on the CPU.

    A state_dict may lie under "state_dict", "model_state_dict" or "model"; "module." before every name, which
    DataParallel leaves, and "params.", which a checkpoint of Neo's has before those of its model, are taken off.

    Raises: ValueError, naming model.weights, for a file that is not there, cannot be read, would run code, or holds no
        state_dict.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(
            f"model.weights={file}: there is no such file; nothing is downloaded, so name a local one."
        )
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"model.weights={file} holds more than tensors, and to read it would run code in it, which Neo never does "
            f"({_first_line(error)}). Save what it is to give: torch.save(module.state_dict(), file)."
        ) from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise ValueError(
            f"model.weights={file} cannot be read: {_first_line(error)}. It must be a state_dict of torch.save, or a "
            ".safetensors file."
        ) from None
    for key in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if path.suffix == ".safetensors" and any(name.startswith("params.") for name in found):
        found = {name: one for name, one in found.items() if name.startswith("params.")}
    if not isinstance(found, Mapping) or not found or not all(map(torch.is_tensor, found.values())):
        held = (
            f"a mapping with {', '.join(map(str, list(found)[:NAMED]))}" if isinstance(found, Mapping) else ""
        )
        raise ValueError(
            f"model.weights={file} must hold a state_dict, names and their tensors; it holds "
            f"{held or 'a ' + type(found).__name__}."
        )
    for prefix in ("module.", "params.", "params."):
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return dict(found)


class Pretrained:
    """The weights of a file, as far as they are for a model of these names and shapes.

    Args:
        file: see read_weights.
        strict: whether everything must fit, but for what is left out. False: what fits is taken, and what does not is
            named in a warning.
        left_out: patterns of the names that keep what the model begins with: the head.
    """

    def __init__(self, file: str | Path, *, strict: bool = True, left_out: str | Sequence[str] = ()) -> None:
        self.file, self.strict = file, strict
        self.left_out = (left_out,) if isinstance(left_out, str) else tuple(left_out)
        self.held = read_weights(file)
        self._fitting: dict[str, torch.Tensor] | None = None

    def fitting(self, expected: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What is taken, for tensors expected by name.

        Raises: ValueError naming what the file lacks, has too many, or has in another shape; for a file of which
            nothing fits; for a pattern that matches nothing.
        """
        if self._fitting is None:
            self._fitting = self._fit(expected)
        return self._fitting

    def fill(self, module: torch.nn.Module) -> torch.nn.Module:
        """Put the weights, and buffers, into a module, which is given back."""
        module.load_state_dict(self.fitting(module.state_dict()), strict=False)
        return module

    def _fit(self, expected: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        for pattern in self.left_out:
            if not any(fnmatchcase(name, pattern) for name in (*expected, *self.held)):
                raise ValueError(
                    f"model.left_out={pattern}: neither the model nor {self.file} has such a name; the model's: "
                    f"{_some(list(expected))}."
                )
        wanted = {name: one for name, one in expected.items() if not self._is_left_out(name)}
        held = {name: one for name, one in self.held.items() if not self._is_left_out(name)}
        lacking = [name for name in wanted if name not in held and not name.endswith(COUNTER)]
        surplus = [name for name in held if name not in wanted]
        other = [
            f"{name} {tuple(held[name].shape)}, in the model {tuple(wanted[name].shape)}"
            for name in wanted
            if name in held and held[name].shape != wanted[name].shape
        ]
        said = [
            f"{words} {_some(names)}"
            for words, names in (
                ("it lacks", lacking),
                ("it has what the model has not,", surplus),
                ("of another shape are", other),
            )
            if names
        ]
        fitting = {
            name: one for name, one in held.items() if name in wanted and one.shape == wanted[name].shape
        }
        if said and self.strict:
            raise ValueError(
                f"model.weights={self.file} does not fit the model: {'; '.join(said)}. Configure the model that it is "
                "of, leave entries out (model.left_out='head.*'), or take what fits, model.strict=false."
            )
        if not fitting:
            raise ValueError(
                f"model.weights={self.file} has nothing for this model: {'; '.join(said) or 'all is left out'}."
            )
        if said:
            taken = sum(name in wanted for name in fitting)
            log.warning(
                "model.weights=%s: %s of %s taken; %s.", self.file, taken, len(wanted), "; ".join(said)
            )
        return fitting

    def _is_left_out(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.left_out)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
