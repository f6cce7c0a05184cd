"""The dry run, in a process of its own: python -m meta.planning.probe < request > answer, both JSON.

What is measured must not have been there before, so that a plan is never made in the process that asks for it. What a
process takes as a whole (libraries' workspaces, memory cut up by the allocator) is seen once, at the configured
estimator and few inner steps; what tensors take is counted to the byte for one task, by estimator and inner steps.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from meta.estimators import ESTIMATORS
from meta.experiment import Experiment
from meta.meta_batch import MetaBatch
from meta.parallel import Batched, Workers
from meta.planning.memory import Meter
from meta.run import Run
from meta.trainer import State
from neo import pytree
from neo.autograd.session.holdings import held_bytes
from neo.runtime import keep_freed_memory
from neo.typing import PyTree

__all__ = ["FEW", "with_estimator"]

FEW = 3  # inner steps that a dry run takes at most; what more of them take is affine
LONG = 3.0  # seconds: a meta-batch that takes longer is tried with two tasks a worker
OFF = {"accumulate": 1, "patience": 0}  # of a trainer, while a few steps of it are measured
TESTED = 10  # inner steps of an evaluation that are tried at most


def with_estimator(config: DictConfig, name: str, steps: int, **settings: Any) -> DictConfig:
    """A copy of a configuration, with another estimator, its settings, and so many inner steps."""
    changed = config.copy()
    algorithm: Any = changed.algorithm
    for key in algorithm:
        if str(key).startswith(tuple(f"{kind}_" for kind in ESTIMATORS)) and key != "first_order_iterations":
            algorithm[key] = settings.get(str(key))
    algorithm.meta_gradient, algorithm.inner_steps = name, steps
    algorithm.first_order = False
    return changed


class Told:
    """A sampler that tells when it is first asked for tasks."""

    def __init__(self, sampler: Any, tell: Callable[[], Any]) -> None:
        self._sampler, self._tell = sampler, tell

    def sample(self, *args: Any) -> Any:
        self._tell()
        return self._sampler.sample(*args)


class DryRun(Run):
    """A run that notes the peak before its first meta-step, after its last, and after its test."""

    def peaks(self, meter: Meter) -> dict[str, int]:
        self._meter, self._peaks = meter, dict[str, int]()
        self.train()
        return {**self._peaks, "end": meter.peak()}

    def _fit_and_record(self, state: State, spent_s: float, sampler: Any, *rest: Any) -> Any:
        told = Told(sampler, lambda: self._peaks.setdefault("begun", self._meter.peak()))
        done = super()._fit_and_record(state, spent_s, told, *rest)
        self._peaks["trained"] = self._meter.peak()
        return done

    def _conclude(self, *args: Any) -> Any:
        self._peaks["tested"] = self._meter.peak()
        return super()._conclude(*args)


class Probe:
    """What a configuration names, measured."""

    def __init__(self, config: DictConfig, folder: Path) -> None:
        if config.algorithm.get("first_order_iterations"):
            config.algorithm.first_order_iterations = (
                0  # of MAML++, at the beginning alone: what follows takes more
            )
        self.folder = folder
        started = Experiment(config)
        self.meter = Meter(started.device)
        self.found: dict[str, Any] = {"process": self.meter.resident()}
        self.dataset = started.dataset
        samplers = [started.sampler(part) for part in ("train", "val", "test")]
        self.found["data"] = self.meter.resident() - self.found["process"]
        del samplers  # the run makes its own
        self.meta_batch = int(config.trainer.meta_batch)
        self.batched = isinstance(started.workers, Batched)
        self.count = self.meta_batch if self.batched else 1  # tasks of a unit
        self.workers = 1 if self.batched else started.workers.count or 1
        self.found |= {"batched": self.batched, "workers": self.workers}

    def whole(self, config: DictConfig) -> None:
        """The run itself, a few steps long, from its folder to its pictures: what the process takes, and the time."""
        began = time.perf_counter()
        self.unit(config)[0]()
        seconds = (time.perf_counter() - began) * self.meta_batch / self.count / self.workers
        tried = self.meta_batch
        if seconds > LONG and not self.batched:
            tried = min(tried, 2 * self.workers)
        config = config.copy()
        config.logger = None
        steps = config.evaluation.inner_steps
        config.evaluation.inner_steps = None if steps is None else min(steps, TESTED)
        config.evaluation.tasks = min(config.evaluation.tasks, max(2 * self.workers, 2))
        config.trainer.update(iterations=3, meta_batch=tried, log_every=1, val_every=0, checkpoint_every=3)
        config.trainer.update({key: off for key, off in OFF.items() if key in config.trainer})
        run = DryRun(config, self.folder)
        run.experiment = Experiment(config, dataset=self.dataset)
        self.found |= {"tried": tried, "peaks": run.peaks(self.meter)}
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        first, *_, last = (json.loads(line)["seconds"] for line in lines)
        self.found["seconds"] = (last - first) / (len(lines) - 1) * self.meta_batch / tried
        state = run.experiment.trainer.start(run.experiment.device)
        of_parts = {"parameters": state.params, "optimizer": state.optimizer, "carried": state.state}
        self.found |= {name: _bytes(tree) for name, tree in of_parts.items()}
        self.found["task"] = _bytes(run.experiment.sampler("train").sample(0, 1))
        # A predictor keeps the parameters after each of its steps, also of those that were left out.
        more = 0 if steps is None else max(steps - TESTED, 0)
        self.found["untested"] = self.workers * more * self.found["parameters"]

    def unit(self, config: DictConfig) -> tuple[Callable[[], Any], list[Any]]:
        """One task alone in this thread, with batched=true the meta-batch, as one call; and what it is given."""
        experiment = Experiment(config, dataset=self.dataset)
        state = experiment.trainer.start(experiment.device)
        workers = Batched(1) if self.batched else Workers(1 if self.meter.device.type == "cpu" else None)
        batch = MetaBatch(experiment.learner, state.state, seed=int(config.seed), workers=workers)
        tasks = experiment.sampler("train").sample(0, self.count)
        slots = range(self.count)
        given: list[Any] = pytree.leaves((state.params, tasks))

        def run() -> Any:
            return batch.gradient(state.params, tasks, 0, slots, state.state)

        return run, given

    def row(self, configs: Sequence[DictConfig]) -> dict[str, Any]:
        """One estimator, at some numbers of inner steps; the reason in words where the algorithm refuses it."""
        try:
            points = [self.counted(config) for config in configs]
            return {"points": points, "tape": self.tape(configs[-1])}
        except (ValueError, NotImplementedError) as error:
            return {"refused": " ".join(str(error).split())}

    def counted(self, config: DictConfig) -> dict[str, Any]:
        """Bytes of tensors and seconds of one unit, and what its tape holds."""
        run, _ = self.unit(config)
        began = time.perf_counter()
        taken = self.meter.taken(run)
        seconds = time.perf_counter() - began
        for _ in range(3 if seconds < 0.3 else 1 if seconds < 1 else 0):  # counting takes time, too
            began = time.perf_counter()
            run()
            seconds = min(seconds, time.perf_counter() - began)
        return {"bytes": taken, "seconds": seconds}

    def tape(self, config: DictConfig) -> dict[str, int]:
        """What the tape of one unit holds when its walk back begins, by Policy."""
        run, given = self.unit(config)
        return held_bytes(run, given)


def _bytes(tree: PyTree) -> int:
    leaves: list[Any] = [leaf for leaf in pytree.leaves(tree) if hasattr(leaf, "element_size")]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def answer(
    config: DictConfig, folder: Path, whole: int | None, estimators: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """All that a plan is made of.

    Args:
        folder: empty, for a run.
        whole: inner steps that the process as a whole is seen at; None for those of the configuration.
        estimators: "name", "settings" and inner "steps" to be tried of each, that of the configuration first; none for
            an algorithm that has no such choice.
    """
    probe = Probe(config, folder)
    rows = [
        [with_estimator(config, one["name"], n, **one["settings"]) for n in one["steps"]]
        for one in estimators
    ] or [[config]]
    first = estimators[0] if estimators else None
    if first is None or whole is None:
        probe.whole(config)
    else:
        probe.whole(with_estimator(config, first["name"], whole, **first["settings"]))
    return {**probe.found, "rows": [probe.row(row) for row in rows]}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be taken for the answer
    keep_freed_memory()
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    sys.path += [folder for folder in request["path"] if folder not in sys.path]
    try:
        with tempfile.TemporaryDirectory(prefix="neo-plan-") as folder:
            config: Any = OmegaConf.create(request["config"])
            reply = answer(config, Path(folder), request["whole"], request["estimators"])
    except (ValueError, OSError, NotImplementedError) as error:
        reply = {"error": " ".join(str(error).split()), "kind": type(error).__name__}
    json.dump(reply, replies)
    replies.close()


if __name__ == "__main__":
    main()
