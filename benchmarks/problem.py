"""Weights and tasks, drawn once and read by every contender."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

import neo
import tasks
from benchmarks.networks import NETWORKS, WAYS, build
from benchmarks.works import Draws, MetaModule, MetaStep, Training, Work
from tasks.omniglot import find

__all__ = ["draw", "images"]

PLACES = (Path("data"), Path("..") / "shared" / "data")  # searched for Omniglot where no data_dir is given


def images(data_dir: str | None, quick: bool) -> tasks.CharacterSet:
    """Omniglot from data_dir, $NEO_DATA or PLACES; where none has it, or with quick, generated characters."""
    if quick:
        return tasks.Glyphs(alphabets=4, characters=8)
    named = data_dir or os.environ.get("NEO_DATA")
    for place in (Path(named),) if named else PLACES:
        if find(place) is not None:
            return tasks.Omniglot(place, download=False)
    if data_dir:
        raise ValueError(
            f"data_dir={data_dir} holds no Omniglot; expected images_background.zip and images_evaluation.zip."
        )
    return tasks.Glyphs()


def draw(work: Work, dataset: tasks.CharacterSet, path: Path) -> None:
    """Write what a work starts from: params/<name>, and images and labels of its tasks, or its batches.

    A chain needs nothing from here. Drawings are of the training part, seed 0.
    """
    arrays: dict[str, torch.Tensor] = {}
    if isinstance(work, MetaStep):
        sampler = dataset.sampler("train", ways=work.ways, shots=work.shots, queries=work.queries, seed=0)
        task = sampler.sample(0, work.meta_batch)
        arrays = {
            "support_x": task.support.x,
            "support_y": task.support.y,
            "query_x": task.query.x,
            "query_y": task.query.y,
        }
        model: neo.nn.Module = neo.nn.Conv4(work.ways, hidden=work.hidden, pool=work.pool)
        arrays |= {f"params/{name}": param.data for name, param in model.init(seed=0).items()}
    elif isinstance(work, MetaModule):
        arrays = _of_module(work)
    elif isinstance(work, Training):
        generator = torch.Generator().manual_seed(0)
        arrays = {
            "x": torch.rand((16, work.batch, work.sizes[0]), generator=generator),
            "y": torch.randint(0, work.sizes[-1], (16, work.batch), generator=generator),
        }
        arrays |= {
            f"params/{name}": param.data for name, param in neo.nn.MLP(*work.sizes).init(seed=0).items()
        }
    elif isinstance(work, Draws):
        arrays = {"images": dataset.images[dataset.parts["train"]]}
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})  # type: ignore[arg-type]


def _of_module(work: MetaModule) -> dict[str, torch.Tensor]:
    """Weights as the module draws them; examples are random numbers, labels every class in turn."""
    network = NETWORKS[work.network]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        arrays = {f"params/{name}": param.detach() for name, param in build(work.fields()).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for part, each in (("support", work.shots), ("query", work.queries)):
        lead = (work.meta_batch, work.ways * each)
        arrays[f"{part}_x"] = torch.randn((*lead, *network.shape(work.width, work.size)), generator=generator)
        labels = (torch.arange(lead[1]) % WAYS).expand(lead)
        values = torch.randn((*lead, 1), generator=generator)
        arrays[f"{part}_y"] = labels if network.learns == "classes" else values
    return arrays
