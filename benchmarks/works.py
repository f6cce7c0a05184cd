"""The works W1 to W14: what is computed, how much of it, and what its time is divided by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

__all__ = ["WORKS", "Chain", "Draws", "MetaModule", "MetaStep", "Training", "Unroll", "Work", "choose"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """kind: which of a contender's builders; per_turn: how many units one turn holds, its time is divided by that."""

    kind: ClassVar[str]
    unit: ClassVar[str]  # what one unit is
    tolerance: ClassVar[float] = 1e-4  # of the relative difference between two contenders' results ...
    check_dtype: ClassVar[str] = "float32"  # ... computed in this
    name: str
    title: str

    @property
    def per_turn(self) -> int:
        return 1

    def variants(self) -> list[Self]:
        """What is measured beside one another in one table, smallest first."""
        return [self]

    def fields(self) -> dict[str, Any]:
        """What a worker is told."""
        return {**asdict(self), "kind": self.kind}


@dataclass(frozen=True, kw_only=True)
class MetaStep(Work):
    """One second-order MAML meta-gradient of a conv-4 over a meta-batch; see meta.MAML and neo.nn.Conv4.

    Contenders are compared in float64. In float32 a new net's meta-gradient magnifies rounding a thousandfold, and the
    kernels round differently: how far each is from the float64 result is reported, not judged.
    """

    kind = "meta_step"
    unit = "meta-step"
    tolerance = 1e-8
    check_dtype = "float64"
    ways: int = 5
    shots: int = 1
    queries: int = 15
    pool: str  # stride or max
    hidden: int = 64
    meta_batch: int
    inner_steps: int = 1
    inner_lr: float = 0.4


@dataclass(frozen=True, kw_only=True)
class MetaModule(Work):
    """One second-order MAML meta-gradient of a torch module, for one task and for a meta-batch; see networks.py.

    Neo differentiates neo.nn.from_torch(module), the peers the module. Examples are random numbers, ways * shots of
    them in a support set, ways * queries in a query set. Compared as a MetaStep is.
    """

    kind = "meta_module"
    unit = "meta-step"
    tolerance = 1e-8
    check_dtype = "float64"
    network: str  # one of NETWORKS
    width: int  # filters, channels, units
    size: int  # of an image's side, a sequence, a place
    ways: int = 5
    shots: int = 1
    queries: int = 5
    meta_batch: int = 8
    meta_batches: tuple[int, ...] = (1, 8)
    inner_steps: int = 1
    inner_lr: float = 0.01
    repeats: int = (
        1  # meta-steps of a turn: of less than a millisecond, a single one measures caches that were emptied
    )

    @property
    def per_turn(self) -> int:
        return self.repeats

    def variants(self) -> list[Self]:
        return [replace(self, meta_batch=tasks, meta_batches=(tasks,)) for tasks in self.meta_batches]


@dataclass(frozen=True, kw_only=True)
class Training(Work):
    """Steps of SGD on a multilayer perceptron: forward, backward, update."""

    kind = "training"
    unit = "step"
    sizes: tuple[int, ...] = (784, 256, 64, 10)
    batch: int = 64
    lr: float = 0.01
    steps: int

    @property
    def per_turn(self) -> int:
        return self.steps


@dataclass(frozen=True, kw_only=True)
class Chain(Work):
    """A chain of tiny ops, forward and backward: y ← tanh y, y·v, y + v, sin y, over and over."""

    kind = "chain"
    unit = "op"
    ops: int = 100  # a multiple of 4
    elements: int = 16
    chains: int

    @property
    def per_turn(self) -> int:
        return self.ops * self.chains


@dataclass(frozen=True, kw_only=True)
class Draws(Work):
    """Tasks drawn, with class rotations, from images in memory. Drawings differ; shapes and labels are compared."""

    kind = "draws"
    unit = "task"
    tolerance = 0.0
    ways: int = 5
    shots: int = 1
    queries: int = 15
    tasks: int

    @property
    def per_turn(self) -> int:
        return self.tasks


@dataclass(frozen=True, kw_only=True)
class Unroll(MetaStep):
    """The meta-gradient of one task at several numbers of inner steps, each kept on the tape or checkpointed."""

    kind = "unroll"
    unit = "meta-gradient"
    tolerance = 1e-10  # of the gradients with and without checkpoint
    unrolled: tuple[int, ...] = (1, 5, 10, 20)


WORKS: dict[str, Work] = {
    work.name.lower(): work
    for work in (
        MetaStep(
            name="W1",
            title="Omniglot 5-way 1-shot, conv-4 with stride 2",
            pool="stride",
            meta_batch=32,
        ),
        MetaStep(
            name="W2",
            title="Omniglot 5-way 1-shot, conv-4 with max-pool",
            pool="max",
            meta_batch=32,
        ),
        MetaStep(
            name="W3",
            title="Omniglot 20-way 1-shot, 5 inner steps, conv-4 with max-pool",
            pool="max",
            meta_batch=16,
            ways=20,
            inner_steps=5,
            inner_lr=0.1,
        ),
        Training(
            name="W4", title="a training step of the 784-256-64-10 perceptron, batch 64, SGD", steps=200
        ),
        Chain(name="W5", title="a chain of 100 tiny ops, forward and backward", chains=100),
        Draws(name="W6", title="tasks drawn, 5-way 1-shot, 15 queries", tasks=32),
        Unroll(
            name="W7",
            title="memory and time against inner steps, with and without checkpoint",
            pool="max",
            meta_batch=1,
            shots=5,
            inner_lr=0.1,
        ),
        MetaModule(
            name="W8",
            title="mini-ImageNet's conv-4, 32 filters, 84x84, 5 inner steps",
            network="conv4",
            width=32,
            size=84,
            queries=15,
            inner_steps=5,
        ),
        MetaModule(
            name="W8-64",
            title="mini-ImageNet's conv-4, 64 filters, 84x84, 5 inner steps",
            network="conv4",
            width=64,
            size=84,
            queries=15,
            inner_steps=5,
        ),
        MetaModule(name="W9", title="ResNet-12, 32x32", network="resnet12", width=64, size=32),
        MetaModule(name="W9-84", title="ResNet-12, 84x84", network="resnet12", width=64, size=84),
        MetaModule(name="W9-18", title="ResNet-18, 32x32", network="resnet18", width=64, size=32),
        MetaModule(name="W10", title="a block of WRN-28-10, 32x32", network="wide_block", width=160, size=32),
        MetaModule(
            name="W11",
            title="a SIREN in an equation of third derivatives",
            network="siren",
            width=64,
            size=2,
            ways=1,
            shots=64,
            queries=64,
            repeats=5,
        ),
        MetaModule(
            name="W12", title="an LSTM classifier, 24 steps of 64 units", network="lstm", width=64, size=24
        ),
        MetaModule(
            name="W13",
            title="a transformer of four layers, 16 tokens of width 128",
            network="transformer",
            width=128,
            size=16,
        ),
        MetaModule(
            name="W14",
            title="the sinusoid's perceptron, 1-40-40-1, 10 points",
            network="sinusoid",
            width=40,
            size=1,
            ways=1,
            shots=10,
            queries=10,
            meta_batches=(1, 8, 25),
            repeats=20,
        ),
    )
}


def choose(names: Sequence[str], quick: bool) -> list[Work]:
    """The named works; quick: each so small that only its plumbing is tried. Raises: ValueError for an unknown name."""
    unknown = [name for name in names if name.lower() not in WORKS]
    if unknown or not names:
        raise ValueError(
            f"works={list(names)} must name some of {', '.join(WORKS)}; unknown: {unknown or 'none named'}."
        )
    chosen = [WORKS[name.lower()] for name in names]
    return [_small(work) for work in chosen] if quick else chosen


def _small(work: Work) -> Work:
    match work:
        case Unroll():
            return replace(work, hidden=4, shots=1, queries=2, unrolled=(1, 3))
        case MetaStep():
            return replace(work, hidden=8, ways=3, queries=2, meta_batch=2)
        case MetaModule():
            width, size = (8, min(work.size, 16)) if work.network != "conv4" else (4, 16)
            shots, queries = min(work.shots, 3), min(work.queries, 2)
            smaller = replace(work, width=width, size=size, shots=shots, queries=queries, meta_batches=(1, 2))
            return replace(smaller, repeats=min(work.repeats, 2))
        case Training():
            return replace(work, steps=3)
        case Chain():
            return replace(work, chains=2)
        case Draws():
            return replace(work, tasks=2)
    raise TypeError(f"{work.name}: no quick size for {type(work).__name__}")
