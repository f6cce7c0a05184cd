"""The X-ray of a run: its checkpoint's meta-gradient on some tasks, split, compared, drawn and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from meta import plots
from meta.estimators import Estimator
from meta.files import atomic_write, write_json
from meta.finished_run import FinishedRun, NotWritten, expect_name
from meta.learner import Step, seed_of
from meta.machine import device_name, versions
from meta.parallel import Workers
from meta.precision import cast
from meta.xray import SAFE, expect_unrolled, report, windows_of, xray
from meta.xray.report import csv_table, expect_cosine, markdown

__all__ = ["xray_run"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def xray_run(
    folder: Path,
    *,
    tasks: int,
    part: str = "val",
    which: str = "last",
    inner_steps: int | None = None,
    parts: int = 10,
    dtype: str = "float32",
    safe: float = SAFE,
    estimators: Mapping[str, Estimator] | None = None,
    name: str = "xray",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Split the meta-gradient of a run's checkpoint on some tasks; write what was found, and give it.

    Writes into the folder: <name>.json (what is returned), <name>.md and <name>.csv (its tables), and plots/<name>.png,
    .pdf and .svg; earlier ones of that name go.

    Args:
        tasks: how many, ≥ 2, over which intervals are.
        part: "val" or "test": slots 0, 1, ... as an evaluation has them; "train": of the meta-update after the
            checkpoint. All with step.training, as the meta-gradient is taken in training.
        which: "last" or "best".
        inner_steps: ≥ 0; None for the algorithm's own.
        parts, estimators: see meta.xray.xray().
        dtype: "float32" or "float64", in which gradients are computed.
        safe: the criterion of the verdict, see meta.xray.report.verdict().
        overrides: as meta.evaluate_run has them.
    Raises: ValueError for an argument out of its range, and an algorithm without an inner loop that is differentiated;
        else what meta.evaluate_run.evaluate_run() raises.
    """
    _expect_arguments(part, which, tasks, inner_steps, dtype, overrides or {})
    expect_cosine(safe)
    windows_of(1, parts)  # which looks at it
    expect_name(name, "an X-ray")
    run = FinishedRun.open(folder, part, which, overrides or {})
    experiment, trained, sampler = run.experiment, run.trained, run.sampler
    learner = expect_unrolled(trained.learner)
    for estimator in (estimators or {}).values():
        try:
            learner.with_estimator(estimator)
        except ValueError as error:
            kept = [key for key, one in (estimators or {}).items() if not one.repeats]
            raise ValueError(f"{error} Here: estimators=[{','.join(kept)}].") from error

    iteration, seed = (
        (trained.iteration, experiment.config.seed) if part == "train" else (0, trained.evaluation_seed)
    )
    params, state, drawn = (
        cast(tree, DTYPES[dtype])
        for tree in (trained.params, trained.state, sampler.sample(iteration, tasks))
    )
    steps = (
        Step(trained.iteration, slot, seed_of(seed, iteration, slot), True, inner_steps, state)
        for slot in range(tasks)
    )
    found = xray(
        trained.learner,
        params,
        zip(steps, drawn, strict=True),
        state=state,
        parts=parts,
        estimators=estimators,
        workers=Workers(experiment.workers.count),
    )
    result = {
        **report(found, safe),
        "part": part,
        "iterations": trained.iteration,
        "checkpoint": run.paths[0].name,
        "dtype": dtype,
        "settings": {key: repr(one) for key, one in (estimators or {}).items()},
        "protocol": experiment.protocol(),
        "versions": versions(),
        "device": device_name(experiment.device),
        "record": run.about.get("record"),
    }
    title = f"{experiment.title(sampler)}: {_title(result)}"
    try:
        atomic_write(folder / f"{name}.md", _page(result, title).encode())
        atomic_write(folder / f"{name}.csv", csv_table(result).encode())
        plots.xray(result, folder / "plots" / f"{name}.png", title=title)
        write_json(folder / f"{name}.json", result)
    except OSError as error:
        raise NotWritten(error, result) from error
    return result


def _expect_arguments(
    part: str, which: str, tasks: int, inner_steps: int | None, dtype: str, overrides: Mapping[str, Any]
) -> None:
    for key, value, allowed in (
        ("part", part, ("val", "test", "train")),
        ("checkpoint", which, ("last", "best")),  # an ensemble has no one gradient
        ("dtype", dtype, tuple(DTYPES)),
    ):
        if value not in allowed:
            raise ValueError(f"unknown {key}={value!r}; expected {', '.join(allowed[:-1])} or {allowed[-1]}.")
    for key, count, least in (("tasks", tasks, 2), ("inner_steps", inner_steps, 0)):
        if count is not None and not (isinstance(count, int) and count >= least):
            raise ValueError(f"{key} must be an integer of {least} or more, got {count!r}.")
    if part == "train" and "evaluation.seed" in overrides:
        raise ValueError(
            f"seed={overrides['evaluation.seed']} chooses among val and test tasks, and part=train takes those of the "
            "run's next meta-update; leave one out."
        )


def _title(result: Mapping[str, Any]) -> str:
    steps = result["inner_steps"]
    return (
        f"meta-gradient on {result['tasks']} {result['part']} tasks, {steps} inner step{'s' if steps != 1 else ''}, "
        f"after {result['iterations']} iterations"
    )


def _page(result: Mapping[str, Any], title: str) -> str:
    return f"# {title}\n\n{result['verdict']}\n\n{markdown(result)}"
