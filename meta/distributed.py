"""Ranks: the processes of one run, each with its share of every meta-batch and all with the same parameters.

`torchrun --nproc-per-node=4 scripts/train.py ...` starts four. In each step a rank draws its share of the tasks (they
are functions of their slot, so nobody has to send them), takes their meta-gradient, and one collective tells every
rank what all have found. All of them then average it in the same order (meta.averaging) and take the same step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from neo import LiteTensor, pytree
from neo.typing import Params, PyTree

__all__ = ["ALONE", "RankError", "Ranks", "launched"]

ALIGNMENT = 16  # bytes, of each tensor in a buffer: a multiple of every item's size

Value = TypeVar("Value")


class RankError(RuntimeError):
    """The ranks of a run have lost each other, or do not agree; the run has ended, its checkpoints are whole."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of its run. The default is a run of one process.

    What a run computes does not depend on how many ranks it has: on CPUs of one kind, with an algorithm that averages
    by meta.averaging, its parameters are the same bit for bit on any number of them from 1 to meta_batch.

    index: of this rank, in [0, size); rank 0 alone writes.
    size: ranks of the run, ≥ 1.
    local, local_size: the same among the ranks of this machine.
    """

    index: int = 0
    size: int = 1
    local: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.index == 0

    @property
    def cores(self) -> int:
        """Processor cores for each rank of this machine, ≥ 1."""
        affinity = getattr(os, "sched_getaffinity", None)
        return max(1, (len(affinity(0)) if affinity else os.cpu_count() or 1) // self.local_size)

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this rank: of several on one machine, each has a GPU of its own.

        Raises: ValueError where there are fewer GPUs than ranks, or one GPU is named for all.
        """
        if self.size == 1 or chosen.type != "cuda":
            return chosen
        if ":" in str(chosen):
            raise ValueError(
                f"device={chosen} names one GPU for {self.size} ranks; say device=cuda, and each rank takes its own."
            )
        if self.local_size > torch.cuda.device_count():
            raise ValueError(
                f"device=cuda: {self.local_size} ranks on this machine, which has {torch.cuda.device_count()} GPUs; "
                f"start --nproc-per-node={torch.cuda.device_count()}, or choose device=cpu."
            )
        return torch.device("cuda", self.local)

    def share(self, count: int, rank: int | None = None) -> range:
        """Which of `count` things in a row are a rank's (None: this one's): as even as can be, none twice."""
        rank = self.index if rank is None else rank
        return range(rank * count // self.size, (rank + 1) * count // self.size)

    def expect_work(self, meta_batch: int) -> None:
        """Raise ValueError unless there is a task of each meta-batch for each rank."""
        if meta_batch < self.size:
            raise ValueError(
                f"trainer.meta_batch={meta_batch} is less than the {self.size} ranks of this run, some of which would "
                f"have nothing to do; start {meta_batch} ranks at most, or choose a larger meta_batch."
            )

    def broadcast(self, tree: PyTree) -> PyTree:
        """`tree` as rank 0 has it. Its tensors arrive in the device and memory format of this rank's own."""
        if self.size == 1:
            return tree
        leaves, structure = pytree.flatten(tree)
        tensors = [leaf for leaf in leaves if _is_tensor(leaf)]
        numbers = self.broadcast_object([leaf for leaf in leaves if not _is_tensor(leaf)])
        buffer = _packed(tensors, _bytes(tensors))
        self._collective(lambda: dist.broadcast(buffer, 0))
        received, rest = iter(_unpacked(buffer, tensors)), iter(numbers)
        return pytree.unflatten(structure, [next(received if _is_tensor(leaf) else rest) for leaf in leaves])

    def broadcast_object(self, value: Any = None) -> Any:
        """What rank 0 has for `value`: anything small that can be pickled. Of the others it does not matter."""
        if self.size == 1:
            return value
        box = [value]
        self._collective(lambda: dist.broadcast_object_list(box, 0, device=torch.device("cpu")))
        return box[0]

    def assert_equal(self, what: str, value: Any) -> None:
        """Raise RankError on every rank unless all of them have the same value; small, and comparable by ==."""
        if self.size == 1:
            return
        values: list[Any] = [None] * self.size
        self._collective(lambda: dist.all_gather_object(values, value))
        for rank, other in enumerate(values):
            if other != values[0]:
                raise RankError(
                    f"rank {rank} does not agree with rank 0 on {what}: {other!r} against {values[0]!r}; give every "
                    "rank the same command, code, data and kind of machine."
                )

    def any(self, wish: bool) -> bool:
        """Whether any rank wishes it."""
        if self.size == 1:
            return wish
        wishes = torch.tensor([wish], dtype=torch.uint8, device="cpu")
        self._collective(lambda: dist.all_reduce(wishes, dist.ReduceOp.MAX))
        return bool(wishes)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first rank of each machine goes first, the others when it is done: what it downloads, they find."""
        if self.local:
            self.barrier()
        yield
        if not self.local:
            self.barrier()

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self.assert_equal("where they are", "barrier")

    @contextmanager
    def connected(self, timeout_s: float) -> Iterator[Ranks]:
        """Meet the other ranks, and part at the end.

        Args:
            timeout_s: how long a rank waits for another, in seconds, before it raises RankError; > 0.
        """
        if self.size == 1:
            yield self
            return
        if not timeout_s > 0:
            raise ValueError(
                f"rank_timeout_s={timeout_s} is invalid; choose a number of seconds greater than 0."
            )
        # gloo also carries what ranks of a GPU run tell each other: those tensors live on the CPU.
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        self._collective(lambda: dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s)))
        yield self
        # Not after an error, when the others may be gone: the end of this process then closes its connections, and
        # whoever waits for it learns of it at once.
        dist.destroy_process_group()

    def assert_same_bits(self, what: str, tree: PyTree) -> None:
        """Raise RankError on every rank unless the tensors of a pytree are the same on all of them, bit for bit."""
        if self.size > 1:
            self.assert_equal(what, _fingerprint(tree))

    def gather(self, tree: Value, templates: Sequence[Value]) -> list[Value]:
        """The trees of all ranks, in one collective of one buffer each; templates: a tree like that of each rank."""
        lengths = [_bytes(pytree.leaves(template)) for template in templates]
        own: list[Any] = pytree.leaves(tree)
        buffer = _packed(own, max(lengths))
        everything = buffer.new_empty(self.size, len(buffer))
        self._collective(lambda: dist.all_gather(list(everything), buffer))
        gathered: list[Any] = []
        for row, template in zip(everything, templates, strict=True):
            leaves, structure = pytree.flatten(template)
            gathered.append(pytree.unflatten(structure, _unpacked(row, leaves)))
        return gathered

    def _collective(self, collective: Callable[[], Any]) -> None:
        try:
            collective()
        except (RuntimeError, ValueError) as error:  # torch.distributed's own errors derive from RuntimeError
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise RankError(
                f"rank {self.index} of {self.size} waited for another that failed or stopped ({reason}). The rank "
                "that failed says why; the last checkpoint is whole, continue with resume=RUN_DIR."
            ) from error


ALONE = Ranks()


def launched(environment: Mapping[str, str]) -> Ranks:
    """The place that torchrun gave this process in its environment; ALONE where it was not started by torchrun.

    Raises: RankError for a variable that torchrun would not set so.
    """
    if (
        "TORCHELASTIC_RUN_ID" not in environment
    ):  # some clusters set WORLD_SIZE for programs that know nothing of it
        return ALONE
    try:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return Ranks(*(int(environment[name]) for name in names))
    except (KeyError, ValueError) as error:
        raise RankError(f"torchrun's environment is not whole: {error}; start with torchrun.") from None


# Bytes, so that one buffer carries tensors of any dtype as they are.


def _bytes(tensors: Sequence[Any]) -> int:
    return sum(_place(tensor) for tensor in tensors)


def _place(tensor: Any) -> int:
    return -(-tensor.numel() * tensor.dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _regions(buffer: torch.Tensor, tensors: Sequence[Any]) -> Iterator[torch.Tensor]:
    """Where each tensor lives in a buffer: views in its dtype and shape."""
    offset = 0
    for tensor in tensors:
        used = tensor.numel() * tensor.dtype.itemsize
        yield buffer[offset : offset + used].view(tensor.dtype).view(tensor.shape)
        offset += _place(tensor)


def _packed(tensors: Sequence[Any], length: int) -> torch.Tensor:
    """(length,) uint8, on the device of the tensors: their bytes one after the other, the rest zero."""
    buffer = torch.zeros(length, dtype=torch.uint8, device=tensors[0].device)
    for region, tensor in zip(_regions(buffer, tensors), tensors, strict=True):
        region.copy_(_data(tensor))
    return buffer


def _unpacked(buffer: torch.Tensor, templates: Sequence[Any]) -> list[Any]:
    """The tensors of a buffer, in the device and memory format of the templates, which kernels round by."""
    tensors = []
    for region, template in zip(_regions(buffer, templates), templates, strict=True):
        tensor = torch.empty_like(_data(template)).copy_(region)
        tensors.append(LiteTensor(tensor) if isinstance(template, LiteTensor) else tensor)
    return tensors


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor | torch.Tensor)


def _data(tensor: Any) -> torch.Tensor:
    return tensor.data if isinstance(tensor, LiteTensor) else tensor


def _fingerprint(params: Params) -> int:
    """Of every bit of the parameters: a sum of their bytes, each weighed by its place."""
    leaves: list[Any] = pytree.leaves(params)
    buffer = _packed(leaves, _bytes(leaves)).view(torch.int64).cpu()
    return int((buffer * torch.arange(1, 2 * len(buffer), 2, device="cpu")).sum())
