"""A task is a support set to adapt on and a query set to be judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import optree
import torch
from optree.registry import __GLOBAL_NAMESPACE as GLOBAL

IGNORED = -100  # the label of a pixel that is of no class and counts nowhere: what cross_entropy leaves out


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples with their targets.

    x: (n, *item), or (meta_batch, n, *item) for a meta-batch; for images float32 in [0, 1].
    y: int64 class labels (n,) or (meta_batch, n), in [0, ways); or float targets (n, *target), likewise.
    Raises: ValueError where the leading axes or the devices of x and y disagree.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self) -> None:
        # Labels index examples, so every axis of y is one of x; of a float target only the first is sure to be.
        shared = 1 if self.y.dtype.is_floating_point else self.y.ndim
        if self.y.ndim == 0 or self.x.shape[:shared] != self.y.shape[:shared]:
            raise ValueError(
                f"Batch: x and y must agree in their leading axes, got x {tuple(self.x.shape)} and "
                f"y {tuple(self.y.shape)}. Give one target for each example."
            )
        self._expect_one_device()

    def _expect_one_device(self) -> None:
        if self.x.device != self.y.device:
            raise ValueError(
                f"Batch: x and y must be on one device, got x on {self.x.device} and y on {self.y.device}. "
                "Move one with .to(device)."
            )

    @property
    def batched(self) -> bool:
        """True when the leading axis counts tasks."""
        # A float target (n, 1) and a meta-batch of scalars (tasks, n) look alike; targets carry a feature axis here.
        return self.y.ndim >= (3 if self.y.dtype.is_floating_point else 2)

    def __getitem__(self, index: int | slice) -> Self:
        return type(self)(self.x[index], self.y[index])

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: str | torch.device) -> Self:
        """The same batch on another device."""
        return type(self)(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class PixelBatch(Batch):
    """Images with a label for each pixel.

    x: (n, channels, height, width) float32, or (meta_batch, n, channels, height, width) for a meta-batch.
    y: int64 labels (n, height, width) or (meta_batch, n, height, width), in [0, classes) or IGNORED.
    Raises: ValueError where x and y disagree in images or pixels, or are on two devices.
    """

    def __post_init__(self) -> None:
        if self.x.ndim not in (4, 5) or self.y.shape != (*self.x.shape[:-3], *self.x.shape[-2:]):
            raise ValueError(
                f"PixelBatch: x must be (n, channels, height, width) and y (n, height, width), got x "
                f"{tuple(self.x.shape)} and y {tuple(self.y.shape)}. Give one label for each pixel."
            )
        self._expect_one_device()

    @property
    def batched(self) -> bool:
        """True when the leading axis counts tasks."""
        return self.x.ndim == 5


@dataclass(frozen=True, eq=False)
class Task:
    """A support set and a query set; with a leading axis, a meta-batch of tasks.

    `task[i]` is one task of a meta-batch without the leading axis, `len(task)` is meta_batch, and iterating gives
    one task after the other. Whether the leading axis is there is what the labels say: y (meta_batch, n) or (n,).

    A set is a Batch, or any other pytree of tensors that is sliced as one: with `batched`, len(), [i] and to(device),
    as an Environment is.

    classes: which class of its source each label stands for, int64 (ways,) or (meta_batch, ways): numbers in
        [0, sampler.classes). None where the source has no classes. Few-shot learners have no use for it; it is for
        training on all classes at once.
    Raises: ValueError where support and query disagree in meta_batch, and of batches in shape of an item, or device,
        and where classes does not fit them.
    """

    support: Any
    query: Any
    classes: torch.Tensor | None = None

    def __post_init__(self) -> None:
        s, q = self.support, self.query
        if not (isinstance(s, Batch) and isinstance(q, Batch)):
            if s.batched != q.batched or (self.batched and len(s) != len(q)):
                raise ValueError(
                    f"Task: support and query must hold the same number of tasks, got {s} and {q}. "
                    "Give both the leading axis meta_batch, or neither."
                )
            return
        if s.y.ndim != q.y.ndim or s.x.ndim != q.x.ndim or (self.batched and len(s) != len(q)):
            raise ValueError(
                f"Task: support and query must hold the same number of tasks, got support x {tuple(s.x.shape)}, "
                f"y {tuple(s.y.shape)} and query x {tuple(q.x.shape)}, y {tuple(q.y.shape)}. "
                "Give both the leading axis meta_batch, or neither."
            )
        axes = 2 if self.batched else 1
        if s.x.shape[axes:] != q.x.shape[axes:]:
            raise ValueError(
                f"Task: support and query must hold items of one shape, got support {tuple(s.x.shape[axes:])} and "
                f"query {tuple(q.x.shape[axes:])}. Resize one of them."
            )
        if s.x.device != q.x.device:
            raise ValueError(
                f"Task: support and query must be on one device, got {s.x.device} and {q.x.device}. "
                "Move one with .to(device)."
            )
        axis = s.y.shape[:1] if self.batched else ()
        if self.classes is not None and self.classes.shape[:-1] != axis:
            raise ValueError(
                f"Task: classes must be {(*axis, 'ways')}, beside support y {tuple(s.y.shape)}; got "
                f"{tuple(self.classes.shape)}. Give a class number for each label."
            )

    @property
    def batched(self) -> bool:
        """True when the leading axis of the sets counts tasks."""
        return bool(self.support.batched)

    def __getitem__(self, index: int | slice) -> Task:
        self._require_batch()
        classes = None if self.classes is None else self.classes[index]
        return Task(self.support[index], self.query[index], classes)

    def __len__(self) -> int:
        self._require_batch()
        return len(self.support)

    def __iter__(self) -> Iterator[Task]:
        return (self[i] for i in range(len(self)))

    def to(self, device: str | torch.device) -> Task:
        """The same tasks on another device."""
        classes = None if self.classes is None else self.classes.to(device)
        return Task(self.support.to(device), self.query.to(device), classes)

    def checksum(self) -> int:
        """Of the examples of one task, 64 bits, signed: the same wherever the same task was drawn, on whatever device.

        Numbers count to 2**-12, so that devices which round differently agree on an image (multiples of 1/255 lie away
        from the edges).
        """
        digest = hashlib.blake2b(digest_size=8)
        sets: Any = (self.support, self.query)
        tensors: list[Any] = optree.tree_leaves(sets)
        for tensor in tensors:
            exact = (tensor.double() * 4096).round() if tensor.dtype.is_floating_point else tensor
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(exact.to(torch.int64).cpu().contiguous().numpy().tobytes())
        return int.from_bytes(digest.digest(), "little", signed=True)

    def _require_batch(self) -> None:
        if not self.batched:
            kind = (
                f"support y {tuple(self.support.y.shape)}"
                if isinstance(self.support, Batch)
                else f"of {self.support}"
            )
            raise TypeError(
                f"Task: this is one task ({kind}), not a meta-batch; only a task with a leading axis "
                "(meta_batch, n) has a length and can be indexed."
            )


def register(cls: type, *names: str) -> None:
    """Make cls a pytree with these fields, so that vmap can slice a meta-batch, and the like.

    What comes back may hold gradients, None or dims in place of tensors, which __post_init__ would refuse.
    """

    def unflatten(_: Any, children: Iterable[Any]) -> Any:
        made: Any = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(made, name, child)
        return made

    optree.register_pytree_node(
        cls,
        lambda value: (tuple(getattr(value, name) for name in names), None, names),
        unflatten,
        namespace=GLOBAL,
    )


register(Batch, "x", "y")
register(PixelBatch, "x", "y")
register(Task, "support", "query", "classes")
