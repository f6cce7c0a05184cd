"""Meta-parameters to begin at, taken from another run: by the names that the two have in common."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from meta.checkpoint import CheckpointError, Checkpoints, named_params, read_header, read_params
from meta.record import disagreements
from neo import LiteTensor, pytree
from neo.typing import PyTree

__all__ = ["WarmStart", "warm_start"]

NAMED = 4  # parameters that a sentence names


class WarmStart(NamedTuple):
    """params: those to begin at. said: which were taken, for people. checksum: of the checkpoint."""

    params: PyTree
    said: str
    checksum: str


def warm_start(source: str | Path, params: PyTree) -> WarmStart:
    """Meta-parameters of another run in the place of these, wherever name and shape are the same.

    Task, optimiser, rates and the algorithm may be others than that run's, and so may a head for another number of
    ways: what has no match keeps the value that the seed gave it, and is named.

    Args:
        source: folder of a run, of which the last checkpoint is taken, or one of its checkpoints.
    Raises: CheckpointError where there is none, it is damaged, is not of the run in whose folder it lies, or has
        fewer than half of these: it is then of another model, and a warm start would be one in name.
    """
    path = Path(source)
    if path.is_dir():
        path = Checkpoints(path / "checkpoints").last()
    elif not path.is_file():
        raise CheckpointError(
            f"init_from={source}: there is no such run or checkpoint; name the folder of a run."
        )
    about = read_header(path)
    if path.parent.name == "checkpoints":  # and not one that was copied elsewhere
        found = disagreements(path.parents[1], {path: about.get("record")})
        if found:
            raise CheckpointError(
                f"init_from={source}: the files there are not all of one run: {'; '.join(found)}. Name another run, or "
                "copy the checkpoint that you mean to another place and name that."
            )
    theirs, checksum = read_params(path)
    ours, structure = named_params(params)
    anew, leaves = [], []
    for name, leaf in ours.items():
        held = theirs.get(name)
        if held is None or held.shape != leaf.shape:
            had = "is not in it" if held is None else f"is {tuple(held.shape)} in it"
            anew.append(f"{name} {tuple(leaf.shape)}, which {had}")
            leaves.append(leaf)
        else:  # in the memory format that the model chose
            leaves.append(LiteTensor(torch.empty_like(leaf.data).copy_(held)))
    taken = len(ours) - len(anew)
    if 2 * taken < len(ours):
        raise CheckpointError(
            f"init_from={source}: only {taken} of the {len(ours)} meta-parameters of this run are in {path} by name "
            f"and shape: {_some(anew)}. Configure a model and an algorithm whose parameters are called so."
        )
    said = f"{path} after {about['step']} iterations, {taken} of {len(ours)} parameters"
    if anew:
        said += f"; begin anew: {_some(anew)}"
    return WarmStart(pytree.unflatten(structure, leaves), said, checksum)


def _some(names: list[str]) -> str:
    return "; ".join(names[:NAMED]) + (f"; and {len(names) - NAMED} more" if names[NAMED:] else "")
