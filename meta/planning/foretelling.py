"""From what a dry run has measured to the memory and the time of meta-steps with other inner steps and estimators."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from meta.estimators import ESTIMATORS
from meta.machine import resolve_device, resolve_workers
from meta.planning.probe import FEW
from meta.planning.rows import EXACT, Row, Segments, length

__all__ = ["Plan", "plan"]

ROOT = Path(__file__).absolute().parents[2]
SEEN = 1.01  # ratio of two peaks, from which on the later one is one of its own
BESIDE: Sequence[tuple[str, dict[str, Any]]] = (
    ("reverse", {}),
    ("mixed", {}),
    ("truncated", {"truncated_steps": 1}),
    ("first_order", {}),
    ("implicit", {}),
)


@dataclass(frozen=True)
class Plan:
    """What a run of one configuration takes: its own estimator's row first.

    steps: its inner steps; None for an algorithm without.
    measured: what meta.planning.probe gave.
    """

    rows: Sequence[Row]
    steps: int | None
    tried: int
    measured: Mapping[str, Any]
    device: torch.device

    @property
    def workers(self) -> int:
        return int(self.measured["workers"])

    @property
    def has_workers(self) -> bool:
        """Whether fewer tasks at a time can be had by fewer workers."""
        return self.device.type == "cpu" and not self.measured["batched"]

    @property
    def own(self) -> Row:
        return self.rows[0]

    def peak(self, row: Row | None = None, steps: int | None = None, workers: int | None = None) -> float:
        """The most bytes of the process, from a run's start to its end: on a GPU, of those that torch allocates."""
        # Pictures come on top: what a library of pictures loads does not fit in where tensors have been.
        peaks = self.measured["peaks"]
        most = max(self.meta_step(row, steps, workers), self.test(workers))
        return most + peaks["end"] - max(peaks["tested"], peaks["trained"])

    def meta_step(
        self, row: Row | None = None, steps: int | None = None, workers: int | None = None
    ) -> float:
        """The same up to the last meta-step."""
        row, steps, workers = self._given(row, steps, workers)
        at_once = 1 if self.measured["batched"] else workers
        return max(self.measured["peaks"]["begun"], self._beside_tasks + at_once * row.bytes(steps))

    def test(self, workers: int | None = None) -> float:
        """The same of the test. One that took less than the meta-steps before it is not seen: then what the cheapest
        of estimators takes for one inner step stands for it."""
        found, peaks = self.measured, self.measured["peaks"]
        if peaks["tested"] > SEEN * peaks["trained"]:
            return float(peaks["tested"] + found["untested"])
        at_once = 1 if found["batched"] else workers or self.workers
        least = min(row.bytes(1) for row in self.rows if not row.refused)
        return self._beside_tasks + at_once * least + found["untested"]

    @property
    def _beside_tasks(self) -> float:
        """What the process took for meta-steps, less what tensors of its tasks did."""
        at_once = 1 if self.measured["batched"] else self.workers
        return self.measured["peaks"]["trained"] + self._not_tried() - at_once * self.own.bytes(self.tried)

    def seconds(self, row: Row | None = None, steps: int | None = None, workers: int | None = None) -> float:
        """Of a meta-step: of all meta-batches that its update takes."""
        return self.measured.get("accumulate", 1) * self._seconds(*self._given(row, steps, workers))

    def _seconds(self, row: Row, steps: int, workers: int) -> float:
        found = self.measured
        if found["batched"]:
            return row.seconds(steps)
        alone = found["meta_batch"] * row.seconds(steps)
        # How much slower tasks are side by side than one alone; fewer at a time are at best as fast.
        one_by_one = found["meta_batch"] * self.own.seconds(self.tried)
        slower = found["seconds"] * self.workers / one_by_one if one_by_one else 1.0
        beside = alone / self.workers * max(slower, 1.0)
        return beside if workers >= self.workers else max(alone / workers, beside)

    def parts(self) -> dict[str, float]:
        """Of the peak of a meta-step of the configuration, its bytes by what they are of."""
        found, steps = self.measured, self.steps or 0
        at_once = 1 if found["batched"] else self.workers
        held = at_once * self.own.bytes(steps)
        # What the tape holds grows by as much a step as the peak does.
        tape = at_once * (
            sum(self.own.tape.values()) + (min(steps, self.own.limit) - self.tape_steps) * self.own.per_step()
        )
        parts = {
            "process": found["process"],
            "data": found["data"],
            "tasks drawn": found["task"] * found["meta_batch"],
            "parameters": found["parameters"],
            "optimiser": found["optimizer"],
            "carried": found["carried"],
            "tape": max(tape, 0.0),
            "passes": held - max(tape, 0.0),
        }
        return {
            **parts,
            "rest": self.meta_step() - sum(parts.values()),
            "pictures": self.peak() - self.meta_step(),
        }

    @property
    def tape_steps(self) -> int:
        return max(self.own.points)

    def _given(self, row: Row | None, steps: int | None, workers: int | None) -> tuple[Row, int, int]:
        return row or self.own, (self.steps or 0) if steps is None else steps, workers or self.workers

    def _not_tried(self) -> float:
        """Where fewer tasks than a meta-batch has were tried: those, and sums that wait for others (meta.averaging)."""
        found = self.measured
        levels = math.log2(found["meta_batch"]) - math.log2(found["tried"])
        return levels * found["parameters"] + (found["meta_batch"] - found["tried"]) * found["task"]


def plan(config: DictConfig, exact_only: bool = False, own_only: bool = False) -> Plan:
    """Measure one dry task of a configuration in a process of its own, by each estimator and few inner steps.

    Args:
        config: conf/train.yaml, composed.
        exact_only: leave out approximate estimators but the configuration's own.
        own_only: leave out all but that, and what it is foretold from.
    Raises: ValueError for what a run of it would refuse, and where the system does not tell what a process takes.
    Cost: some twenty tasks, and the start of a process.
    """
    algorithm: Any = config.algorithm
    steps = algorithm.get("inner_steps")
    wanted = _estimators(algorithm, exact_only) if "meta_gradient" in algorithm else []
    if own_only:  # segments are foretold from mixed mode without any
        wanted = wanted[:1] + [one for one in wanted[1:] if "each" in wanted[0] and _is_plain_mixed(one)]
    device = resolve_device(str(config.device))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    tried = min(int(steps), FEW) if wanted else int(steps or 0)
    found = _probe({"config": plain, "whole": tried if wanted else None, "estimators": wanted})
    found["meta_batch"] = int(config.trainer.meta_batch)
    found["accumulate"] = int(config.trainer.get("accumulate", 1))
    if wanted:
        rows = [_row(one, given) for one, given in zip(wanted, found["rows"], strict=True)]
        mixed = next((row for one, row in zip(wanted, rows, strict=True) if _is_plain_mixed(one)), None)
        rows = [
            _in_segments(row, mixed, one) if "each" in one and mixed else row
            for one, row in zip(wanted, rows, strict=True)
        ]
    else:
        (given,) = found["rows"]
        asked = {"name": str(algorithm._target_).rpartition(".")[2], "settings": {}, "steps": [tried]}
        rows = [dataclasses.replace(_row(asked, given), choosable=False)]
    if rows[0].refused:
        raise ValueError(rows[0].refused)
    return Plan(rows, None if steps is None else int(steps), tried, found, device)


def _estimators(algorithm: Any, exact_only: bool) -> list[dict[str, Any]]:
    """What is asked of the probe: the configuration's own estimator, and those beside it."""
    name = "first_order" if algorithm.first_order else str(algorithm.meta_gradient)
    keys = [f"{name}_{key}" for key in getattr(ESTIMATORS.get(name), "__dataclass_fields__", {})]
    own = {key: algorithm[key] for key in keys if algorithm.get(key) is not None}
    few = list(range(1, FEW + 1))
    longest = max(length(int(algorithm.inner_steps)), FEW)

    def segments(each: int | None) -> dict[str, Any]:
        """Two of them, for the last one is not recomputed."""
        tried = min(each or longest, longest)
        return {"name": "mixed", "settings": {"mixed_segment": tried}, "steps": [2 * tried], "each": each}

    wanted: list[dict[str, Any]] = [{"name": name, "settings": own, "steps": few}]
    if "mixed_segment" in own:
        wanted = [segments(own["mixed_segment"])]
    for other, settings in BESIDE:
        if (other, settings) != (name, own) and (other in EXACT or not exact_only):
            wanted.append({"name": other, "settings": settings, "steps": few})
        if other == "mixed":
            wanted.append(segments(None))
    return wanted


def _is_plain_mixed(asked: Mapping[str, Any]) -> bool:
    return asked["name"] == "mixed" and not asked["settings"]


def _row(asked: Mapping[str, Any], given: Mapping[str, Any]) -> Row:
    if "refused" in given:
        return Row(asked["name"], asked["settings"], refused=given["refused"])
    points = {
        steps: (point["bytes"], point["seconds"])
        for steps, point in zip(asked["steps"], given["points"], strict=True)
    }
    limit = asked["settings"].get("truncated_steps", math.inf) + 1  # and one that is a constant
    return Row(asked["name"], asked["settings"], points, limit, given["tape"])


def _in_segments(row: Row, mixed: Row, asked: Mapping[str, Any]) -> Row:
    if row.refused or mixed.refused:
        return row
    found = Segments(row.name, row.settings, row.points, tape=row.tape, mixed=mixed, each=asked["each"])
    if found.made:
        return found
    if asked["each"] is not None:  # the configuration's own, which is what it is without
        return dataclasses.replace(mixed, settings={"mixed_segment": asked["each"]})
    return dataclasses.replace(
        row, refused="in segments it would be as without: every inner step is looked at."
    )


def _probe(request: dict[str, Any]) -> dict[str, Any]:
    config = request["config"]
    workers = resolve_workers(config["workers"], resolve_device(str(config["device"])))
    config["workers"] = workers or "auto"
    told = {**request, "path": sys.path, "threads": torch.get_num_threads()}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "meta.planning.probe"],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode:
        if done.returncode < 0:
            raise ValueError(
                f"a dry run of {FEW} inner steps at most was ended by signal {-done.returncode}, as a system does that "
                "has no more memory; choose fewer workers, or meta_gradient=mixed, to begin with."
            )
        raise RuntimeError(f"the dry run of a plan failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        raise (OSError if found["kind"] == "OSError" else ValueError)(found["error"])
    return found
