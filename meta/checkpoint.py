"""Checkpoints: a run's state in one safetensors file, with a JSON header that says what it is. No pickle."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optree
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from meta.trainer import State
from neo import LiteTensor
from neo.typing import PyTree

__all__ = ["CheckpointError", "Checkpoints", "load", "read_header", "write_whole"]

FORMAT = 1  # counts up when old files can no longer be read
SUFFIX = ".safetensors"
BEST = f"best{SUFFIX}"

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or of another run; nothing was loaded."""


class Checkpoints:
    """The checkpoints of one run: step-00000100.safetensors ..., the last few of them, and best.safetensors.

    A file holds the meta-parameters as "params.<name>", the tensors of the optimiser's state as "optimizer.<path>",
    and in the header's "neo" entry JSON: format, step, numbers of the optimiser's state, and what the caller gives.
    Each is written whole or not at all: under a temporary name, flushed to the disk, then renamed.

    Args:
        folder: made when the first file is written.
        keep: how many to keep besides the best.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = Path(folder), keep

    def save(self, state: State, about: Mapping[str, Any]) -> Path:
        """Keep a state, and drop the oldest of those kept. about: whatever JSON can say."""
        path = self.folder / f"step-{state.step:08d}{SUFFIX}"
        write_whole(path, _encode(state, about))
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def save_best(self, state: State, about: Mapping[str, Any]) -> Path:
        """Keep a state as the best by validation so far, in place of the one before."""
        path = self.folder / BEST
        write_whole(path, _encode(state, about))
        return path

    def paths(self) -> list[Path]:
        """Those kept, from the oldest to the last; the best is not among them."""
        return sorted(self.folder.glob(f"step-*{SUFFIX}"))

    def best(self) -> Path | None:
        path = self.folder / BEST
        return path if path.is_file() else None

    def last(self) -> Path:
        """The last good one; a damaged file is passed over with a warning. Raises: CheckpointError if there is none."""
        for path in reversed(self.paths()):
            try:
                read_header(path)
            except CheckpointError as error:
                log.warning("%s Going back to the one before.", error)
            else:
                return path
        raise CheckpointError(
            f"{self.folder} holds no checkpoint that can be read, expected step-*{SUFFIX}; name the folder of a run "
            "that has reached its first checkpoint."
        )


def read_header(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises: CheckpointError for a damaged or foreign file, or another format."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["neo"])
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist, expected a checkpoint.") from None
    except KeyError:
        raise CheckpointError(f"{path} is not a checkpoint of Neo: its header has no 'neo' entry.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be read ({error}).") from error
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of format {about.get('format')}, expected {FORMAT}; read it with the version of Neo that "
            "wrote it."
        )
    return about


def load(path: Path, like: State) -> State:
    """The state in a checkpoint, on the device of `like`.

    Args:
        like: a state of the same model and optimiser, whose numbers do not matter: Trainer.start(...).
    Raises: CheckpointError where the file is damaged, or is of another model or optimiser, naming the tensor.
    """
    about = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be read ({error}).") from error
    names, leaves, structure = _flatten(like)
    expected = {name for name, leaf in zip(names, leaves, strict=True) if isinstance(leaf, LiteTensor)}
    if set(tensors) != expected:
        lacking, surplus = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
        raise CheckpointError(
            f"{path} is of another model or optimiser: it lacks {lacking[:3] or 'nothing'} and has "
            f"{surplus[:3] or 'nothing'} too many. Configure model and optimizer as when it was written."
        )
    restored = []
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, LiteTensor):
            restored.append(about["numbers"][name])
            continue
        tensor = tensors[name]
        if tensor.shape != leaf.shape or tensor.dtype != leaf.dtype:
            raise CheckpointError(
                f"{path} is of another model: {name} is {tuple(tensor.shape)} {tensor.dtype}, expected "
                f"{tuple(leaf.shape)} {leaf.dtype}. Configure the model as when it was written."
            )
        # In the memory format that the model chose, so that kernels go on to round as before.
        restored.append(LiteTensor(torch.empty_like(leaf.data).copy_(tensor)))
    tree: dict[str, Any] = optree.tree_unflatten(structure, restored)  # type: ignore[assignment]
    return State(about["step"], tree["params"], tree["optimizer"])


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: whoever reads `path` finds the old content or the new, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name has to reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _flatten(state: State) -> tuple[list[str], list[Any], optree.PyTreeSpec]:
    """Leaves with their names: "params.conv0.weight", "optimizer.mean.conv0.weight", "optimizer.steps"."""
    tree: PyTree = {"params": state.params, "optimizer": state.optimizer}
    accessors, leaves, structure = optree.tree_flatten_with_accessor(tree)
    names = [
        ".".join(str(getattr(entry, "field", entry.entry)) for entry in accessor) for accessor in accessors
    ]
    return names, leaves, structure


def _encode(state: State, about: Mapping[str, Any]) -> bytes:
    names, leaves, _ = _flatten(state)
    named = dict(zip(names, leaves, strict=True))
    tensors = {n: leaf.data.cpu().contiguous() for n, leaf in named.items() if isinstance(leaf, LiteTensor)}
    numbers = {name: leaf for name, leaf in named.items() if not isinstance(leaf, LiteTensor)}
    header = {**about, "format": FORMAT, "step": state.step, "numbers": numbers}
    return save(
        {n: t.clone() if _shares(t, tensors, n) else t for n, t in tensors.items()},
        {"neo": json.dumps(header)},
    )


def _shares(tensor: torch.Tensor, tensors: Mapping[str, torch.Tensor], name: str) -> bool:
    """Whether another name holds the same memory, which safetensors refuses to write twice."""
    place = tensor.untyped_storage().data_ptr()
    return any(other != name and t.untyped_storage().data_ptr() == place for other, t in tensors.items())
