"""MNIST as one learning problem: batches of a small training set, some labels wrong, and a few that are known right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.hashing import derive, stream
from tasks.mnist import Digits, load_mnist
from tasks.streams import TaskStream, at_least
from tasks.task import Batch, Task

__all__ = ["MNIST", "MNISTSampler"]

CLASSES, SIDE = 10, 28


class MNIST:
    """Four disjoint sets of digits, drawn once: to train on, clean ones to judge training by, and two held out.

    A task is a batch of each of two sets: support of the training set, query of the clean set ("train"), of the
    validation set ("val") or of the test set ("test"). Wrong labels are in the training set alone, whose images are
    otherwise as in the others. Noise is the uniform flip of Ren et al. 2018, arXiv:1803.09050, section 4.2.

    Args:
        data_dir: as tasks.mnist.load_mnist has it.
        examples: of the training set, ≥ 1.
        clean: of the clean set, ≥ 1.
        validation: of the validation set, ≥ 1; the three come from MNIST's 60,000 training digits.
        noise: fraction of the training set whose labels are another class's, each equally likely, in [0, 1).
        seed: any integer; which digits are in which set, and which labels are wrong.
    Raises: ValueError naming the argument; DataError where MNIST is missing or damaged.
    """

    name = "mnist"

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        examples: int = 2000,
        clean: int = 100,
        validation: int = 5000,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        sizes = {"examples": examples, "clean": clean, "validation": validation}
        counts = [at_least(1, "MNIST", key, value) for key, value in sizes.items()]
        if not 0 <= noise < 1:
            raise ValueError(
                f"MNIST: noise must be a fraction of labels that are wrong, in [0, 1), got {noise}"
            )
        train, test = load_mnist(data_dir)
        if sum(counts) > len(train):
            said = " + ".join(f"{key}={value}" for key, value in sizes.items())
            raise ValueError(
                f"MNIST: {said} is more than its {len(train)} training digits; choose fewer of them."
            )
        self.split = f"{examples}/{clean}/{validation},noise={noise},seed={seed}"
        key = stream(seed, self.name, "sets")
        chosen = _shuffled(derive(key, 0), len(train))[: sum(counts)].split(counts)
        noisy, *held_out = (_rows(train, rows) for rows in chosen)
        self.true = noisy.y  # (examples,) int64: what the labels of the training set were
        self.support = Batch(noisy.x, _flipped(noisy.y, round(noise * examples), derive(key, 1)))
        everything = torch.arange(len(test), device="cpu")
        self.queries = dict(zip(("train", "val", "test"), (*held_out, _rows(test, everything)), strict=True))

    def sampler(
        self, part: str, *, shots: int, queries: int, seed: int, device: str | torch.device = "cpu"
    ) -> MNISTSampler:
        """The batches of a part ("train", "val" or "test"); see MNISTSampler."""
        return MNISTSampler(self, part, shots=shots, queries=queries, seed=seed, device=device)

    def describe(self) -> dict[str, Any]:
        """What a result must say about its data."""
        digest = hashlib.sha256(self.split.encode())
        for batch in (self.support, *self.queries.values()):
            digest.update((batch.x * 255).round().to(torch.uint8).numpy().tobytes())
            digest.update(batch.y.numpy().tobytes())
        return {
            "dataset": self.name,
            "split": self.split,
            "wrong_labels": int((self.support.y != self.true).sum()),
            "checksum": digest.hexdigest(),
            "source": "MNIST's idx files",
        }

    def __repr__(self) -> str:
        return f"MNIST({self.split})"


class MNISTSampler(TaskStream):
    """Draws batches of digits, without replacement within each: a pure function of (seed, split, iteration, slot).

    Args:
        shots: digits of a support batch, 1 to the training set's size, labels as they are there.
        queries: digits of a query batch, 1 to the set's size, labels right.
        others: as tasks.streams.TaskStream has them.
    Raises: ValueError naming the argument.
    """

    ways = CLASSES  # in the task, whichever digits a support set happens to have
    chance = 1 / CLASSES

    def __init__(self, source: MNIST, part: str, **settings: Any) -> None:
        super().__init__(source, part, **settings)
        self._support, self._query = (
            batch.to(self.device) for batch in (source.support, source.queries[part])
        )
        for name, wanted, batch in (
            ("shots", self.shots, self._support),
            ("queries", self.queries, self._query),
        ):
            if wanted > len(batch):
                raise ValueError(
                    f"MNISTSampler: {name}={wanted} is more than the {len(batch)} digits there are in {part}; choose "
                    f"{name} from 1 to {len(batch)}."
                )

    @property
    def title(self) -> str:
        return f"{self.shots} labelled digits"

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x (slots, shots, 1, 28, 28) float32 in [0, 1], .y (slots, shots) int64; query likewise.
        """
        keys = self.keys(iteration, slots)

        def drawn(batch: Batch, number: int, size: int) -> Batch:
            rows = _words(derive(keys, number), len(batch)).topk(size).indices
            return Batch(batch.x[rows], batch.y[rows])

        return Task(drawn(self._support, 0, self.shots), drawn(self._query, 1, self.queries))


def _words(keys: torch.Tensor, count: int) -> torch.Tensor:
    """(slots, count): a word for each digit, by which they are ordered; words of one stream never tie."""
    return derive(keys[:, None], torch.arange(count, device=keys.device))


def _shuffled(key: int, count: int) -> torch.Tensor:
    return derive(key, torch.arange(count, device="cpu")).argsort()


def _rows(digits: Digits, rows: torch.Tensor) -> Batch:
    return Batch(digits.x[rows].view(-1, 1, SIDE, SIDE), digits.y[rows])


def _flipped(labels: torch.Tensor, wrong: int, key: int) -> torch.Tensor:
    """labels, `wrong` of them another class's."""
    chosen = _shuffled(derive(key, 0), len(labels))[:wrong]
    words = derive(derive(key, 1), torch.arange(wrong, device="cpu"))
    shift = 1 + (words >> 1 & 0xFFFFFF) % (CLASSES - 1)  # 1 to 9 classes further
    return labels.index_put((chosen,), (labels[chosen] + shift) % CLASSES)
