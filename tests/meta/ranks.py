"""Runs of several ranks inside a test: processes that meet as torchrun's do, without the seconds to start each.

A server process imports torch and Neo once and is then forked for every rank, before it has a thread of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import optree
import torch
import torch.distributed as dist
from omegaconf import DictConfig

import meta
from meta import MAML, Classification, Evaluation, Regression, Step, Trainer, Workers, evaluate
from meta.distributed import Ranks, launched
from meta.meta_batch import MetaBatch
from meta.replay import bits
from neo import LiteTensor, nn, pytree
from neo.optim import sgd
from tasks import Glyphs, Sinusoid
from tests.meta import toy
from tests.meta.runs import train

ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    value: Any  # what the rank returned
    error: str  # its traceback; empty if it returned
    code: int | None  # its exit code; −9 if it was killed
    seconds: float  # from the start of all to its end


def run_ranks(
    size: int,
    job: Callable[..., Any],
    *arguments: Any,
    timeout_s: float = 60.0,
    meddle: Callable[[list[Any]], None] = lambda processes: None,
) -> list[Outcome]:
    """job(ranks, *arguments) in `size` connected processes; what became of each, in order.

    Args:
        job: of a module that can be imported.
        timeout_s: how long ranks wait for each other, in seconds.
        meddle: called with the processes once they have started.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.meta.ranks", "hydra"])
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun keeps it too
    began = time.monotonic()
    ends, processes = [], []
    for index in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_enter, args=(index, size, store.port, timeout_s, theirs, job, arguments), daemon=True
        )
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    try:
        meddle(processes)
        outcomes = []
        for process, end in zip(processes, ends, strict=True):
            try:
                value, error, seconds = pickle.loads(end.recv_bytes())
            except EOFError:  # killed before it could say anything
                value, error, seconds = None, "killed", time.monotonic() - began
            process.join(60)
            outcomes.append(Outcome(value, error, process.exitcode, seconds))
        return outcomes
    finally:
        for process in processes:
            process.kill()


def values(outcomes: list[Outcome]) -> list[Any]:
    """What all ranks returned. Raises: AssertionError with the traceback of one that did not."""
    for rank, outcome in enumerate(outcomes):
        assert not outcome.error, f"rank {rank}: {outcome.error}"
    return [outcome.value for outcome in outcomes]


def _enter(
    index: int, size: int, port: int, timeout_s: float, end: Connection, job: Any, arguments: Any
) -> None:
    began = time.monotonic()
    torch.set_num_threads(1)
    os.environ.update(
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RUN_ID": "test",
            "RANK": str(index),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(index),
            "LOCAL_WORLD_SIZE": str(size),
        }
    )
    value, error = None, ""
    try:
        with launched(os.environ).connected(timeout_s) as ranks:
            value = job(ranks, *arguments)
    except BaseException:
        error = traceback.format_exc()
    # Pickled here: what Connection.send does with a tensor needs this process to live on.
    end.send_bytes(pickle.dumps((value, error, time.monotonic() - began)))
    end.close()
    os._exit(1 if error else 0)  # as a process that ends does, but at once


# Jobs, which have to be where the other processes can import them.


def train_until_told(
    ranks: Ranks, config: DictConfig, folders: list[Path], told: int, step: int
) -> dict[str, Any]:
    """train_run, in which one rank gets SIGTERM while it computes a step."""
    sound = MetaBatch.over_ranks

    def over_ranks(self: MetaBatch, params: Any, sampler: Any, iteration: int, *rest: Any) -> Any:
        if ranks.index == told and iteration == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return sound(self, params, sampler, iteration, *rest)

    with mock.patch.object(MetaBatch, "over_ranks", over_ranks):
        return train_run(ranks, config, folders)


def train_until_validated(ranks: Ranks, config: DictConfig, folders: list[Path]) -> dict[str, Any]:
    """train_run, which the first rank finds no use in going on with."""
    if ranks.first:
        folders[0].mkdir(parents=True, exist_ok=True)
    return train(config, folders[ranks.index], ranks=ranks, validated=lambda step, score: "far behind")


def train_run(ranks: Ranks, config: DictConfig, folders: list[Path], resume: bool = False) -> dict[str, Any]:
    """A run, with a folder for each rank, to see which of them are written."""
    if ranks.first:  # as hydra does
        folders[0].mkdir(parents=True, exist_ok=True)
    return train(config, folders[ranks.index], resume=resume, ranks=ranks)


@contextlib.contextmanager
def watched() -> Iterator[dict[tuple[int, int], tuple[int, str]]]:
    """(iteration, slot) → the task's checksum and the bits of its gradient, of all that this process trains on."""
    seen: dict[tuple[int, int], tuple[int, str]] = {}
    drawn = MetaBatch._drawn

    def watch(self: MetaBatch, params: Any, task: Any, step: Step, seed: int) -> Any:
        found = drawn(self, params, task, step, seed)
        seen[step.iteration, step.slot] = (task.checksum(), bits(pytree.leaves(found[0])))
        return found

    with mock.patch.object(MetaBatch, "_drawn", watch):
        yield seen


def train_watched(ranks: Ranks, config: DictConfig, folders: list[Path]) -> Any:
    """What this rank met and found."""
    with watched() as seen:
        train_run(ranks, config, folders)
    return seen


def gradient(ranks: Ranks, tasks: int, algorithm: str = "MAML", family: str = "glyphs") -> list[torch.Tensor]:
    """Of the first meta-batch, with the losses and scores."""
    sampler: Any
    if family == "glyphs":
        sampler = Glyphs(alphabets=4, characters=6).sampler("train", ways=5, shots=1, queries=3, seed=0)
        model: Any = nn.Conv4(ways=5, hidden=8, pool="max", head="flatten")
        problem: Any = Classification()
    else:  # tasks of a few bytes, which begin at other places of a cache line in another share
        sampler = Sinusoid().sampler("train", shots=5, queries=7, seed=0)
        model, problem = nn.MLP(1, 40, 40, 1), Regression()
    learner = getattr(meta, algorithm)(model, inner_steps=2, inner_lr=0.01, problem=problem)
    batch = MetaBatch(learner, (), workers=Workers(1))
    found = batch.over_ranks(learner.init(0), sampler, 0, tasks, (), ranks)
    return [getattr(leaf, "data", leaf) for leaf in optree.tree_leaves(found)]


def evaluation(ranks: Ranks, tasks: int, strange: bool = False, **settings: Any) -> Evaluation:
    """MAML's, on `tasks` tasks; strange: rank 1 has one bit of one parameter wrong."""
    learner = MAML(nn.MLP(784, 16, 5))
    params = learner.init(0)
    if strange and ranks.index == 1:
        params = optree.tree_map(lambda leaf: LiteTensor(leaf.data.clone()), params)
        first = optree.tree_leaves(params)[0].data.flatten()
        first[1] = torch.nextafter(first[1], torch.tensor(9.0))
    sampler = Glyphs(alphabets=3, characters=6).sampler("val", ways=5, shots=1, queries=3, seed=0)
    return evaluate(learner, params, sampler, tasks, batch=2, workers=Workers(1), ranks=ranks, **settings)


def recorded(ranks: Ranks, tasks: int) -> Evaluation:
    """The same after each of three inner steps."""
    return evaluation(ranks, tasks, inner_steps=3, record=True)


def fail_in_step(ranks: Ranks, step: int, rank: int) -> None:
    def spoil(at: Step, loss: torch.Tensor) -> torch.Tensor:
        if at.iteration == step - 1 and ranks.index == rank:
            raise MemoryError("no memory left on this rank")
        return loss

    trainer = Trainer(toy.Pull(spoil), sgd(0.5), iterations=10, meta_batch=4, ranks=ranks)
    trainer.fit(toy.TargetSampler(), trainer.start())


def nan_in_slot(ranks: Ranks, slot: int) -> None:
    """In the second step, whichever rank has the slot."""

    def spoil(at: Step, loss: torch.Tensor) -> torch.Tensor:
        return loss * torch.nan if (at.iteration, at.slot) == (1, slot) else loss

    trainer = Trainer(toy.Pull(spoil), sgd(0.5), iterations=10, meta_batch=4, ranks=ranks)
    trainer.fit(toy.TargetSampler(), trainer.start())


def tell(ranks: Ranks) -> Any:
    return ranks.broadcast_object({"from": ranks.index}), ranks.any(ranks.index == 2), ranks.any(False)


def share_state(ranks: Ranks) -> tuple[bool, list[float], int, torch.dtype]:
    """A tree that only rank 0 has right, of mixed dtypes, one of them in channels-last."""
    image = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    mine = 0 if ranks.first else 100
    tree = {
        "image": LiteTensor(image + mine),
        "step": 7 + mine,
        "wide": LiteTensor(torch.tensor(1 / 3 + mine, dtype=torch.float64)),
    }
    got = ranks.broadcast(tree)
    kept = got["image"].data.is_contiguous(memory_format=torch.channels_last)
    return kept, [*got["image"].data.flatten().tolist(), got["wide"].item()], got["step"], got["wide"].dtype


def disagree(ranks: Ranks) -> None:
    ranks.assert_equal("the data", f"checksum {ranks.index // 2}")


def build_in_turn(ranks: Ranks, file: Path) -> bool:
    """Whether the file was there already, which the first of the machine makes slowly."""
    with ranks.in_turn():
        there = file.exists()
        if not there:
            time.sleep(0.3)
            file.touch(exist_ok=False)
    return there
