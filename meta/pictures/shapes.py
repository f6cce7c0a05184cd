"""Test tasks of other shapes than images in classes: numbers of a table, several labels, texts, and masks."""

from __future__ import annotations

from pathlib import Path

import torch

from meta import plots
from meta.pictures.families import classified, headed
from meta.problems import constant
from meta.trained import Trained
from tasks import EpisodeSampler, PixelSampler, TableSampler, TokenSampler

__all__ = ["labelled", "masks", "predictions", "sequences"]


def predictions(
    trained: Trained, sampler: TableSampler, path: Path, *, title: str, steps: int | None, tasks: int = 50
) -> None:
    """Rows of a table: predictions of the queries before and after adaptation, against the targets."""
    true, before, after = [], [], []
    for slot, task in enumerate(sampler.sample(0, tasks)):
        true.append(task.query.y)
        before.append(constant(trained.adapt(task.support, 0, slot)(task.query.x)))
        after.append(constant(trained.adapt(task.support, steps, slot)(task.query.x)))
    targets, first, adapted = (torch.cat(one).double().cpu().numpy() for one in (true, before, after))
    heading = headed(title, sampler, len(true))
    plots.predictions(targets, first, adapted, sampler.source.outputs, path, title=heading)


def labelled(
    trained: Trained,
    sampler: EpisodeSampler,
    path: Path,
    *,
    title: str,
    steps: int | None,
    tasks: int = 2,
    queries: int = 8,
) -> None:
    """Images with several labels: queries with the labels that were predicted, and what is wrong with them.

    Under each, the labels that it has, "+2" for a label too many, "−2" for one that is missing.
    """
    rows, captions = [], []
    for slot, task in enumerate(sampler.sample(0, tasks)):
        logits = constant(trained.adapt(task.support, steps, slot)(task.query.x))
        places = (
            torch.linspace(0, len(task.query) - 1, min(queries, len(task.query))).long().to(logits.device)
        )
        rows.append((f"task {slot + 1}", [_shown(image) for image in sampler.pixels(task.query.x)[places]]))
        pairs = zip(task.query.y[places] > 0, logits[places] > 0, strict=True)
        captions.append([_labels(true, predicted) for true, predicted in pairs])
    heading = f"{headed(title, sampler, len(rows))} (−: a label missed, +: one too many)"
    plots.image_rows(rows, path, title=heading, captions=captions)


def sequences(
    trained: Trained,
    sampler: TokenSampler,
    path: Path,
    *,
    title: str,
    steps: int | None,
    tasks: int = 2,
    queries: int = 10,
) -> None:
    """Classified sequences of tokens: some queries of each task as words, right or wrong; "?" is an unknown word."""
    blocks = []
    for slot, (task, predicted) in enumerate(classified(trained, sampler, steps, tasks)):
        right = float((predicted == task.query.y).float().mean())
        places = torch.linspace(0, len(task.query) - 1, min(queries, len(task.query))).long().tolist()
        lines = [
            (sampler.text(task.query.x[at].tolist()), int(task.query.y[at]), int(predicted[at]))
            for at in places
        ]
        blocks.append((f"task {slot + 1}: {right:.0%} of {len(task.query)} queries right", lines))
    plots.texts(blocks, path, title=headed(title, sampler, len(blocks)))


def masks(
    trained: Trained, sampler: PixelSampler, path: Path, *, title: str, steps: int | None, tasks: int = 6
) -> None:
    """Images with masks: the first query of each task, its mask, and the one that was found; background is black."""
    rows: dict[str, list[torch.Tensor]] = {"image": [], "mask": [], "found": []}
    for slot, task in enumerate(sampler.sample(0, tasks)):
        found = constant(trained.adapt(task.support, steps, slot)(task.query.x)).argmax(1)[0]
        rows["image"].append(_shown(sampler.pixels(task.query.x[:1])[0]))
        rows["mask"].append(task.query.y[0].clamp(min=0) / sampler.ways)  # IGNORED is shown as background
        rows["found"].append(found / sampler.ways)
    plots.image_rows([*rows.items()], path, title=headed(title, sampler, len(rows["image"])))


def _labels(true: torch.Tensor, predicted: torch.Tensor) -> str:
    """ "0 −1 +2": 0 was found, 1 was missed, 2 is not there."""
    signs = (("", true & predicted), ("−", true & ~predicted), ("+", ~true & predicted))
    return (
        " ".join(f"{sign}{label}" for sign, which in signs for label in which.nonzero()[:, 0].tolist())
        or "none"
    )


def _shown(image: torch.Tensor) -> torch.Tensor:
    """(channels, height, width) → (height, width, 3), or (height, width) of what is not RGB; in [0, 1]."""
    image = image.clamp(0, 1)
    return image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)
