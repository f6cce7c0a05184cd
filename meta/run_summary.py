"""What the start of a run says: which model, data and protocol, where it all goes, and soon how long it takes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from meta.constants import constants_of
from meta.experiment import Experiment
from meta.machine import device_name
from meta.trainer import State
from neo import pytree

if sys.platform != "win32":
    import resource

__all__ = ["Pace", "summary"]

STEPS = 5  # after which the time that is left is told ...
SECONDS = 30.0  # ... or after fewer, where they take longer
# Of a protocol, what the line about it shows, by these names; settings that a task or an algorithm lacks are left out.
SHOWN = (
    ("queries", "queries"),
    ("inner_steps", "inner steps"),
    ("test_inner_steps", "in the test"),
    ("inner_lr", "inner lr"),
    ("test_tasks", "test tasks"),
)


def summary(experiment: Experiment, state: State, folder: Path, resumed: bool) -> str:
    """Some aligned lines about a run that is about to take its next step; its logger has been started."""
    trainer = experiment.trainer
    steps = f"{trainer.iterations} iterations of {trainer.tasks_per_update} tasks"
    if trainer.accumulate > 1:
        steps += f", {trainer.accumulate} meta-batches of {trainer.meta_batch}"
    if resumed:
        steps += f"; resumed after {state.step}, {trainer.iterations - state.step} are left"
    lines = {
        "data": _data(experiment),
        "tasks": _tasks(experiment),
        "model": _model(experiment, state),
        **({"init": experiment.warm_start.said} if not resumed and experiment.warm_start else {}),
        "device": _device(experiment),
        "run": steps,
        "folder": str(folder),
    }
    lines |= _loggers(experiment)
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {line}" for name, line in lines.items())


class Pace:
    """Tells once, after the first few steps, how long a step takes, when the last will be done, and the memory so far.

    The first step, which warms up, counts for none. Validations in between are in, those to come are not.

    Args:
        done: steps behind the run.
        iterations: steps in all.
    """

    def __init__(self, done: int, iterations: int, device: torch.device) -> None:
        self._first, self._done, self._iterations, self._device = done, done, iterations, device
        self._since: float | None = None
        self._told = iterations - done <= 2 * STEPS  # is over before it could be of use

    def tick(self) -> str | None:
        """After each step: the line, when it is due."""
        self._done += 1
        now = time.monotonic()
        if self._told:
            return None
        if self._since is None:
            self._since = now
            return None
        steps, spent = self._done - self._first - 1, now - self._since
        if steps < STEPS - 1 and spent < SECONDS:
            return None
        self._told = True
        left = tqdm.format_interval(spent / steps * (self._iterations - self._done))
        return (
            f"pace    {spent / steps:.3g} s a step: {left} left for {self._iterations - self._done} steps, without the "
            f"test at the end; peak memory {peak_memory(self._device)}"
        )


def peak_memory(device: torch.device) -> str:
    """The most memory so far, for people: of this process, and what torch has allocated on its GPU."""
    said = []
    if sys.platform != "win32":
        # In KiB on Linux, in bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        said.append(_mebibytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))
    if device.type == "cuda":
        said.append(f"{_mebibytes(torch.cuda.max_memory_allocated(device))} on the GPU")
    return ", ".join(said) or "unknown"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _device(experiment: Experiment) -> str:
    ranks, precision = experiment.ranks.size, experiment.precision.name
    said = device_name(experiment.device) + (f", {ranks} ranks" if ranks > 1 else "")
    return said if precision == "float32" else f"{said}, {precision}"


def _data(experiment: Experiment) -> str:
    about = experiment.dataset.describe()
    said = f"{about['dataset']}, split {about['split']}"
    counts = {part: about[part] for part in ("train", "val", "test") if isinstance(about.get(part), int)}
    if counts:
        kind = about.get("parts_of", "classes")
        said += f": {' / '.join(map(str, counts.values()))} {kind} to {' / '.join(counts)}"
    if "images_per_class" in about:
        said += f", {about['images_per_class']} images each"
    return said


def _tasks(experiment: Experiment) -> str:
    train, test = (experiment.sampler(part).title for part in ("train", "test"))
    protocol = experiment.protocol()
    shown = [f"{train}, tested on {test}" if train != test else train]
    for key, name in SHOWN:
        value = protocol.get(key)
        if value is not None and not (key == "test_inner_steps" and value == protocol.get("inner_steps")):
            shown.append(f"{name} {_short(value)}")
    return ", ".join(shown)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _model(experiment: Experiment, state: State) -> str:
    config = experiment.config
    numbers = sum(leaf.numel() for leaf in pytree.leaves(state.params))
    said = f"{config.algorithm._target_}, {numbers:,} meta-parameters"
    if hasattr(experiment.learner, "model"):
        held = sum(one.numel() for one in constants_of(experiment.learner.model).values())
        said += f", {held:,} numbers of its model constant" if held else ""
        said = f"{config.model.get('module') or config.model._target_} by {said}"
    return said


def _loggers(experiment: Experiment) -> dict[str, str]:
    places = experiment.logger.destination()
    return dict(line.split(": ", 1) for line in places.splitlines()) if places else {}
