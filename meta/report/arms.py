"""What a sweep's folder holds: its arms, finished or not, and how they differ."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meta import record
from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.interruption import STOPPED
from meta.metrics_file import read_metrics
from meta.problems import ACCURACY, OWN_METRICS, Metric, metric_of
from meta.report.searches import Search, searches
from meta.task_results import Results, ResultsError, load

__all__ = ["FAILURE", "SEEDS", "Arm", "ReportError", "Sweep", "read"]

FAILURE = "failure.json"  # in a run's folder: the error that ended it
MARKS = (".hydra", record.FILE)  # of a run's folder: its configuration as composed, or from Python its record
SEEDS = ("seed", "task.seed")  # settings that make another try of the same arm
# Settings that change nothing of a number.
ASIDE = ("data_dir", "debug", "device", "evaluation.batch", "rank_timeout_s", "resume", "workers")


class ReportError(ValueError):
    """There is nothing here to report on."""


@dataclass(frozen=True)
class Arm:
    """One run of a sweep."""

    name: str  # its folder's, seen from the sweep's
    status: str  # finished, stopped (by a search), failed, unfinished, or inconsistent: its files are not of one run
    reason: str  # why it has no result that counts; "" for a finished one
    settings: Mapping[str, Any]  # dotted key → value as composed, references to other keys left out
    lines: Sequence[Mapping[str, Any]]  # of metrics.jsonl
    result: Mapping[str, Any]  # of result.json; {} without one
    tested: Results | None  # every test task's results
    about: Mapping[str, Any] = field(default_factory=dict)  # of the last checkpoint's header; {} without one
    recorded: bool = True  # whether its files have a record of their run, by which they were checked

    @property
    def metric(self) -> Metric | None:
        """What is scored; None where nothing tells."""
        for about in (self.result, self.about):
            if "metric" in about:
                return metric_of(about)
        logged = {key for line in self.lines for key in line}
        return next((metric for metric in OWN_METRICS.values() if f"train/{metric.name}" in logged), None)

    def curve(self, part: str) -> list[tuple[int, float]]:
        """(step, score) of "train" or "val", as logged."""
        key = f"{part}/{self.metric.name}" if self.metric else ""
        return [(line["step"], line[key]) for line in self.lines if line.get(key) is not None]

    @property
    def validation(self) -> tuple[float, float] | None:
        """The last validation score with the half-width of its 95% interval (NaN: unknown); None without one."""
        if not (curve := self.curve("val")):
            return None
        margin = next(line.get("val/ci95") for line in reversed(self.lines) if line["step"] == curve[-1][0])
        return curve[-1][1], math.nan if margin is None else margin

    @property
    def test(self) -> tuple[float, float] | None:
        """The test score with the half-width of its 95% interval; None without one."""
        value = self.result.get(f"test/{self.metric.name}") if self.metric else None
        margin = self.result.get("test/ci95")
        return None if value is None else (value, math.nan if margin is None else margin)


@dataclass(frozen=True)
class Sweep:
    """The arms in the order of their folders, and what they have in common."""

    folder: Path
    arms: Sequence[Arm]
    single: bool  # the folder is a run's own
    searches: Sequence[Search] = ()  # in it, one or several

    def place(self, arm: Arm) -> Path:
        """The folder of an arm."""
        return self.folder if self.single else self.folder / arm.name

    @property
    def metric(self) -> Metric:
        return next((arm.metric for arm in self.arms if arm.metric), ACCURACY)

    @property
    def differing(self) -> list[str]:
        """Settings that are not the same in all arms; seeds come last."""
        keys = dict.fromkeys(key for arm in self.arms for key in arm.settings)
        values = {key: {repr(arm.settings.get(key)) for arm in self.arms if arm.settings} for key in keys}
        found = [key for key in keys if len(values[key]) > 1 and key not in ASIDE]
        return sorted(found, key=lambda key: key in SEEDS)

    @property
    def common(self) -> dict[str, Any]:
        """Settings that are."""
        differing = {*self.differing, *ASIDE}
        first = next((arm.settings for arm in self.arms if arm.settings), {})
        return {key: value for key, value in first.items() if key not in differing}

    def ranked(self) -> list[Arm]:
        """From the best by validation to the worst, then those without one, in order; the failed last."""

        def place(arm: Arm) -> tuple[bool, bool, float]:
            if arm.validation is None:
                return (arm.status != "finished", True, 0.0)
            score = arm.validation[0]
            return (arm.status != "finished", False, -score if self.metric.higher_is_better else score)

        return sorted(self.arms, key=place)

    def reference(self, name: str | None = None) -> Arm | None:
        """The arm that others are compared with: the one named, or the best by validation; None if none finished.

        Never chosen by its test score, which would favour it by luck. Raises: ReportError for a name of no arm with
        a result.
        """
        finished = [arm for arm in self.ranked() if arm.status == "finished"]
        if name is None:
            return finished[0] if finished else None
        for arm in finished:
            if arm.name == name:
                return arm
        raise ReportError(
            f"baseline {name} is no finished arm of {self.folder}; expected one of "
            f"{', '.join(arm.name for arm in finished) or 'none: no arm has finished'}."
        )


def read(folder: Path) -> Sweep:
    """The sweep, or the single run, in a folder. Raises: ReportError for a folder that is missing or holds neither."""
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder; name the folder of a sweep or of a run.")
    single = any((folder / mark).exists() for mark in MARKS)
    places = [folder] if single else {path.parent for mark in MARKS for path in folder.rglob(mark)}
    if not places:
        raise ReportError(
            f"{folder} holds no runs: neither it nor a folder in it has .hydra/ or {record.FILE}. Name the folder of a "
            "sweep, or of a run."
        )
    named = {place: folder.name if single else place.relative_to(folder).as_posix() for place in places}
    arms = [_arm(place, named[place]) for place in sorted(places, key=lambda place: _natural(named[place]))]
    return Sweep(folder, arms, single, searches(folder))


def _arm(folder: Path, name: str) -> Arm:
    try:
        lines = read_metrics(folder / "metrics.jsonl")
    except (OSError, ValueError):
        lines = []
    result, about = _json(folder / "result.json"), _last_header(folder)
    status, reason = _status(folder, lines, result)
    try:
        tested = load(folder / "test.safetensors")
    except ResultsError:
        tested = None  # of an older version, or damaged: the means remain
    said = {"result.json": result, "test.safetensors": tested.about if tested else {}, "checkpoints": about}
    copies = {folder / place: entry.get("record") for place, entry in said.items() if entry}
    if found := record.disagreements(folder, copies):
        status, reason = "inconsistent", f"its files are not all of one run: {'; '.join(found)}"
    recorded = any(copies.values()) or not copies
    return Arm(name, status, reason, _settings(folder), lines, result, tested, about, recorded)


def _last_header(folder: Path) -> dict[str, Any]:
    paths = Checkpoints(folder / "checkpoints").paths()
    try:
        return read_header(paths[-1]) if paths else {}
    except CheckpointError:
        return {}


def _status(folder: Path, lines: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> tuple[str, str]:
    if failure := _json(folder / FAILURE):
        return "failed", str(failure.get("sentence") or failure.get("error") or "unknown error")
    if stopped := _json(folder / STOPPED):
        return "stopped", str(stopped.get("reason", "stopped before its last step"))
    if result:
        return "finished", ""
    at = f"last logged step: {lines[-1]['step']}" if lines else "no step was logged"
    return "unfinished", f"no result yet ({at}); it is running, or was stopped"


def _settings(folder: Path) -> dict[str, Any]:
    """The configuration, flat, without keys that repeat another's value ("${task.ways}"); {} if it is unreadable.

    Of a run begun in Python, without .hydra/, what its record has of it.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():
        return _flat((record.read(folder) or {}).get("config") or {})
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, yaml.YAMLError, OmegaConfBaseException):
        return {}
    return _flat(config) if isinstance(config, dict) else {}


def _flat(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif not (isinstance(value, str) and re.fullmatch(r"\$\{.*\}", value)):
            flat[f"{prefix}{key}"] = value
    return flat


def _json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; {} for one that is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts 10 behind 9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
