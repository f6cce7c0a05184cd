"""Checkpoints: a run's state in one safetensors file, with a JSON header that says what it is. No pickle."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optree
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from meta.files import atomic_write, drop_unfinished
from meta.trainer import State
from neo import LiteTensor, pytree
from neo.typing import PyTree

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "atomic_write",
    "load",
    "named_params",
    "read_header",
    "read_params",
]

FORMAT = 3  # counts up when old files can no longer be read
LAST_READER = {1: "0.1.0", 2: "0.1.0"}  # of each earlier format, the last version of Neo that reads it
SUFFIX = ".safetensors"
BEST = f"best{SUFFIX}"
PLAIN = (bool, int, float, str)  # leaves that are no tensors

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or of another run; nothing was loaded."""


class Checkpoints:
    """The checkpoints of one run: step-00000100.safetensors ..., the last few and the best few, and best.safetensors.

    A file holds the tensors of the meta-parameters as "params.<path>", of the optimiser's state as "optimizer.<path>"
    and of what the learner carries as "state.<path>", whatever pytrees they are. The header's "neo" entry is JSON:
    format, step, the numbers and words among the leaves, and what the caller gives; its "sha256" entry is a checksum of
    all of that.
    Each is written whole or not at all, see meta.files.

    Args:
        folder: made when the first file is written.
        keep: how many of the last to keep.
        keep_best: how many of the best by validation to keep besides, by the header's "metric", "higher_is_better" and
            "val/<metric>".
    """

    def __init__(self, folder: Path, keep: int = 3, keep_best: int = 5) -> None:
        self.folder, self.keep, self.keep_best = Path(folder), keep, keep_best

    def save(self, state: State, about: Mapping[str, Any]) -> Path:
        """Keep a state, and drop what is neither among the last nor among the best. about: whatever JSON can say."""
        path = self.path(state.step)
        atomic_write(path, _encode(state, about))
        self._drop_old()
        return path

    def save_best(self, state: State, about: Mapping[str, Any]) -> Path:
        """Keep a state as the best by validation so far, in place of the one before."""
        path = self.folder / BEST
        atomic_write(path, _encode(state, about))
        return path

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}{SUFFIX}"

    def paths(self) -> list[Path]:
        """Those kept, from the oldest to the last, without best.safetensors."""
        return sorted(self.folder.glob(f"step-*{SUFFIX}"))

    def ranked(self) -> list[Path]:
        """The keep_best best by validation, the best first, of equal ones the earlier; fewer where there are fewer.

        Cost: reads every header.
        """
        return [path for _, path in self._scored()[: self.keep_best]]

    def among_best(self, about: Mapping[str, Any]) -> bool:
        """Whether a state described so would be among the keep_best best so far."""
        score, best = _score(about), self._scored()[: self.keep_best]
        return score is not None and (len(best) < self.keep_best or (bool(best) and score > best[-1][0]))

    def best(self) -> Path | None:
        path = self.folder / BEST
        return path if path.is_file() else None

    def last(self) -> Path:
        """The last good one; a damaged file is passed over with a warning. Raises: CheckpointError if there is none.

        Cost: reads and checks the file.
        """
        damage = []
        for path in reversed(self.paths()):
            try:
                _read(path)
            except CheckpointError as error:
                damage.append(str(error))
            else:
                for sentence in damage:
                    log.warning("%s Going back to the one before.", sentence)
                return path
        if damage:
            raise CheckpointError(f"{damage[0]} There is no good one before it in {self.folder}.")
        raise CheckpointError(
            f"{self.folder} holds no checkpoint that can be read, expected step-*{SUFFIX}; name the folder of a run "
            "that has reached its first checkpoint."
        )

    def tidy(self, step: int) -> None:
        """Make the folder of a run that goes on from `step` what it was then, whatever a kill has left there.

        Checkpoints after that step could not be read, or the run would go on from them: they are renamed *.damaged.
        """
        drop_unfinished(self.folder)
        for path in self.paths():
            if path > self.path(step):
                path.replace(path.with_suffix(".damaged"))
        self._drop_old()

    def _scored(self) -> list[tuple[float, Path]]:
        """Those kept that were validated, each with its score, the best first."""
        scored = []
        for path in self.paths():
            try:
                score = _score(read_header(path))
            except CheckpointError:
                continue  # damaged: last() says so where it matters
            if score is not None:
                scored.append((score, path))
        return sorted(scored, key=lambda one: -one[0])

    def _drop_old(self) -> None:
        old = self.paths()[: -self.keep]
        best = self.ranked() if old else []
        for path in old:
            if path not in best:
                path.unlink(missing_ok=True)


def read_header(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises: CheckpointError for a damaged or foreign file, or another format.

    The checksum is for load() and Checkpoints.last(), which read the whole file.
    """
    return json.loads(_read_header(path)["neo"])


def load(path: Path, like: State) -> State:
    """The state in a checkpoint, on the device of `like`.

    Args:
        like: a state of the same model and optimiser, whose numbers do not matter: Trainer.start(...).
    Raises: CheckpointError where the file is damaged, or is of another model or optimiser, naming the tensor.
    """
    about, tensors = _read(path)
    leaves, structure = _named(like)
    numbers = about["numbers"]
    for kind, held, wanted in (
        ("tensors", tensors, {name for name, leaf in leaves.items() if _is_tensor(leaf)}),
        ("numbers", numbers, {name for name, leaf in leaves.items() if not _is_tensor(leaf)}),
    ):
        lacking, surplus = sorted(wanted - set(held)), sorted(set(held) - wanted)
        if lacking or surplus:
            raise CheckpointError(
                f"{path} is of another model or optimiser: it lacks {_some(lacking)} and has {_some(surplus)} too many "
                f"({kind}). Configure model, algorithm and optimizer as when it was written."
            )
    restored: list[Any] = []
    for name, leaf in leaves.items():
        if not _is_tensor(leaf):
            restored.append(numbers[name])
            continue
        tensor = tensors[name]
        if tensor.shape != leaf.shape or tensor.dtype != leaf.dtype:
            raise CheckpointError(
                f"{path} is of another model: {name} is {tuple(tensor.shape)} {tensor.dtype}, expected "
                f"{tuple(leaf.shape)} {leaf.dtype}. Configure the model as when it was written."
            )
        # In the memory format that the model chose, so that kernels go on to round as before.
        copy = torch.empty_like(_data(leaf)).copy_(tensor)
        restored.append(LiteTensor(copy) if isinstance(leaf, LiteTensor) else copy)
    tree: dict[str, Any] = pytree.unflatten(structure, restored)
    return State(about["step"], tree["params"], tree["optimizer"], tree["state"])


def read_params(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The meta-parameters in a checkpoint, by their dotted paths, and the checksum of the whole.

    Raises: CheckpointError where the file is damaged or of another format.
    """
    _, tensors = _read(path)
    prefix = "params."
    params = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    return params, _read_header(path)["sha256"]


def _score(about: Mapping[str, Any]) -> float | None:
    """The validation score in a header, an error as its negative; None without one."""
    value = about.get(f"val/{about.get('metric')}")
    return value if value is None or about["higher_is_better"] else -value


def _read_header(path: Path) -> dict[str, str]:
    """The header's entries "neo" and "sha256". Raises: CheckpointError unless this version of Neo can read them."""
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
        if "neo" not in header:
            raise CheckpointError(f"{path} is not a checkpoint of Neo: its header has no 'neo' entry.")
        version = json.loads(header["neo"])["format"]
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist, expected a checkpoint.") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be read ({error}).") from error
    if version != FORMAT:
        last = LAST_READER.get(version)
        reader = (
            f"Neo {last} is the last version that reads it"
            if last
            else "read it with the version that wrote it"
        )
        raise CheckpointError(
            f"{path} is of checkpoint format {version}, and this Neo reads format {FORMAT}; {reader}."
        )
    return header


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors, checked against the checksum."""
    header = _read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be read ({error}).") from error
    if _checksum(header["neo"], tensors) != header.get("sha256"):
        raise CheckpointError(f"{path} is damaged: its content does not have the checksum in its header.")
    return json.loads(header["neo"]), tensors


def _encode(state: State, about: Mapping[str, Any]) -> bytes:
    leaves, _ = _named(state)
    numbers = {name: leaf for name, leaf in leaves.items() if not _is_tensor(leaf)}
    for name, leaf in numbers.items():
        if not isinstance(leaf, PLAIN):
            raise CheckpointError(
                f"{name} is a {type(leaf).__name__}, which no checkpoint can hold; make it a tensor, a number or a "
                "word."
            )
    # A copy of its own for each: safetensors refuses to write memory that two names share.
    tensors = {
        name: _data(leaf).cpu().clone(memory_format=torch.contiguous_format)
        for name, leaf in leaves.items()
        if _is_tensor(leaf)
    }
    neo = json.dumps({**about, "format": FORMAT, "step": state.step, "numbers": numbers})
    return save(tensors, {"neo": neo, "sha256": _checksum(neo, tensors)})


def named_params(params: PyTree) -> tuple[dict[str, Any], optree.PyTreeSpec]:
    """Meta-parameters by the names that checkpoints have for them, and their structure."""
    return _leaves_by_name(params)


def _named(state: State) -> tuple[dict[str, Any], optree.PyTreeSpec]:
    """Leaves by their names: "params.conv0.weight", "optimizer.mean.conv0.weight", "optimizer.steps"."""
    return _leaves_by_name({"params": state.params, "optimizer": state.optimizer, "state": state.state})


def _leaves_by_name(tree: PyTree) -> tuple[dict[str, Any], optree.PyTreeSpec]:
    accessors, leaves, structure = optree.tree_flatten_with_accessor(tree, namespace=pytree.NAMESPACE)
    names = [
        ".".join(str(getattr(entry, "field", entry.entry)) for entry in accessor) for accessor in accessors
    ]
    named = dict(zip(names, leaves, strict=True))
    if len(named) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise CheckpointError(
            f"two leaves of the state are called {twice}; rename one, for a checkpoint tells them by their names."
        )
    return named, structure


def _checksum(neo: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(neo.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor | torch.Tensor)


def _data(leaf: Any) -> torch.Tensor:
    return leaf.data if isinstance(leaf, LiteTensor) else leaf


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"
