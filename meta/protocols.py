"""One checkpoint under every published protocol: how much of a number is protocol, and not the method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meta import plots
from meta.checkpoint import CheckpointError
from meta.evaluate import half_width
from meta.files import atomic_write, write_json
from meta.finished_run import FinishedRun, NotWritten, expect_name
from meta.machine import device_name, versions
from meta.metrics_file import plain
from meta.problems import Metric, metric_of

__all__ = ["MOST_STEPS", "PLACES", "VARIED", "compare_protocols", "markdown"]

# What an evaluation can be told, by its name there → where the run's configuration has it, see FinishedRun.open.
PLACES = {
    "ways": "ways",
    "shots": "shots",
    "queries": "queries",
    "rotations": "rotations",
    "inner_steps": "evaluation.inner_steps",
    "inner_reduction": "task.problem.inner_reduction",
    "seed": "evaluation.seed",
    "batch_norm": "evaluation.batch_norm",
    "batch": "evaluation.batch",
    "device": "device",
    "workers": "workers",
    "data_dir": "data_dir",
}

# In what published protocols differ. Reduction of the inner loss and batch norm of the queries: the MAML paper's code
# (sum over shots, the queries' own statistics) against ports of it and Nichol et al. 2018, arXiv:1803.02999 (which
# report both of the latter, "transductive" or not). Turned classes at test: Finn et al. 2017 have them, Vinyals et al.
# 2016 in training alone. Queries a class: 1 to 15. Five checkpoints: Antoniou et al. 2019, arXiv:1810.09502.
VARIED: dict[str, tuple[Any, ...]] = {
    "inner_reduction": ("mean", "shots"),
    "rotations": (True, False),
    "batch_norm": ("batch", "single", "support"),
    "queries": (1, 15),
    "checkpoint": ("last", "best", "ensemble"),
}
MOST_STEPS = 10  # inner steps that are looked at, or the run's own number if that is larger
COUNTS = (100, 600, 1000)  # numbers of test tasks that papers have


@dataclass(frozen=True)
class Row:
    """One protocol that differs from the run's own in one setting. Scores: (tasks,) float64, by slot."""

    setting: str  # as one would type it
    scores: torch.Tensor | None
    reason: str | None = None  # why there are none


def compare_protocols(
    folder: Path,
    *,
    tasks: int,
    part: str = "test",
    which: str = "last",
    name: str = "protocols",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a run's checkpoint under its own protocol and under each that differs in one setting; write and give it.

    Differences to the run's own protocol are over tasks, slot by slot: tasks of one slot have the same classes and the
    same support set, unless rotations differ. A setting that the run's tasks do not have, or that cannot be (no
    checkpoints for an ensemble, too few images), has a row that says why.

    Writes into the folder: <name>.json (what is returned), <name>.md (its table), plots/<name>.png, .pdf and .svg.

    Args:
        tasks, part, which, overrides: as meta.evaluate_run has them; they are of the protocol that others differ from.
    Raises: what meta.evaluate_run.evaluate_run() raises.
    Cost: some ten evaluations.
    """
    if part not in ("val", "test"):
        raise ValueError(f"unknown part={part!r}; expected 'test' or 'val'.")
    expect_name(name, "a table of protocols")
    given = {**(overrides or {}), "evaluation.tasks": tasks}
    run = FinishedRun.open(folder, part, which, given)
    own = _own(run, which)
    steps = own["inner_steps"]
    by_step, reason = run, None
    if steps is not None and steps < MOST_STEPS:
        try:
            by_step = FinishedRun.open(folder, part, which, {**given, PLACES["inner_steps"]: MOST_STEPS})
            recorded = _scores(by_step, tasks)
        except ValueError as error:  # an algorithm that has learned so many steps and no more
            reason, recorded = str(error), _scores(run, tasks)
    else:
        recorded = _scores(run, tasks)
    base = recorded[:, -1 if steps is None else steps]

    rows = [
        Row(f"inner_steps={step}", recorded[:, step])
        for step in range(recorded.shape[1])
        if steps is not None and step != steps
    ]
    rows += [Row(f"inner_steps={MOST_STEPS}", None, reason)] if reason else []
    rows += _varied(folder, tasks, part, which, given, own)
    result = plain(
        {
            **_summary(base, rows, run.experiment.problem.metric),
            "own": own,
            "part": part,
            "tasks": tasks,
            "iterations": run.trained.iteration,
            "checkpoint": ", ".join(path.name for path in run.paths),
            "protocol": run.experiment.protocol(),
            "versions": versions(),
            "device": device_name(run.experiment.device),
            "record": run.about.get("record"),
        }
    )
    title = f"{run.experiment.title(run.sampler)}: one checkpoint under other protocols, {tasks} {part} tasks"
    try:
        atomic_write(
            folder / f"{name}.md", f"# {title}\n\n{result['verdict']}\n\n{markdown(result)}".encode()
        )
        plots.protocols(result, folder / "plots" / f"{name}.png", title=title)
        write_json(folder / f"{name}.json", result)
    except OSError as error:
        raise NotWritten(error, result) from error
    return result


def markdown(result: Mapping[str, Any]) -> str:
    """The table: own protocol, each other one, and how the interval narrows with tasks."""
    metric = metric_of(result)
    lines = [f"| protocol | {metric.name} | difference to the run's own |", "| --- | --- | --- |"]
    own = ", ".join(f"{key}={_word(value)}" for key, value in result["own"].items() if value is not None)
    lines.append(f"| **own**: {own} | {metric.format(result['score'], result['ci95'])} | |")
    for row in result["rows"]:
        if row["score"] is None:
            lines.append(f"| {row['setting']} | | not possible: {row['reason']} |")
            continue
        mark = "**" if row["clear"] else ""
        score = metric.format(row["score"], row["ci95"])
        difference = metric.format(row["difference"], row["difference_ci95"])
        sign = "+" if row["difference"] > 0 else ""
        lines.append(f"| {row['setting']} | {score} | {mark}{sign}{difference}{mark} |")
    lines += [
        f"| the first {at['tasks']} tasks | {metric.format(at['score'], at['ci95'])} | |"
        for at in result["counts"]
    ]
    return "\n".join(lines) + "\n"


def _own(run: FinishedRun, which: str) -> dict[str, Any]:
    """The settings of the run's own protocol that are varied; None where its tasks have no such thing."""
    protocol = run.experiment.protocol()
    return {
        "inner_steps": protocol.get("test_inner_steps"),
        "inner_reduction": protocol.get("inner_reduction"),
        "rotations": protocol.get("test_rotations", protocol.get("rotations")),
        "batch_norm": protocol.get("batch_norm"),
        "queries": protocol.get("test_queries", protocol.get("queries")),
        "checkpoint": which,
    }


def _varied(
    folder: Path, tasks: int, part: str, which: str, given: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[Row]:
    for key, values in VARIED.items():
        for value in values:
            if own[key] is None or own[key] == value:
                continue
            changed = {} if key == "checkpoint" else {PLACES[key]: value}
            setting = f"{key}={_word(value)}"
            try:
                other = FinishedRun.open(
                    folder, part, value if key == "checkpoint" else which, {**given, **changed}
                )
                yield Row(setting, _scores(other, tasks)[:, -1])
            except (CheckpointError, ValueError) as error:
                yield Row(setting, None, str(error))


def _scores(run: FinishedRun, tasks: int) -> torch.Tensor:
    """(tasks, steps + 1) float64: after each inner step."""
    evaluation = run.experiment.evaluate_trained(run.trained, run.sampler, tasks, record=True)
    assert evaluation.record is not None
    return evaluation.record.scores


def _summary(base: torch.Tensor, rows: list[Row], metric: Metric) -> dict[str, Any]:
    said = [
        {
            "setting": row.setting,
            "score": None,
            "reason": row.reason,
        }
        if row.scores is None
        else {
            "setting": row.setting,
            "score": float(row.scores.mean()),
            "ci95": half_width(row.scores),
            "difference": float((row.scores - base).mean()),
            "difference_ci95": half_width(row.scores - base),
            "clear": abs(float((row.scores - base).mean())) > half_width(row.scores - base),
        }
        for row in rows
    ]
    counts = [count for count in COUNTS if count < len(base)] + [len(base)]
    return {
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "verdict": _verdict(said, metric),
        "score": float(base.mean()),
        "ci95": half_width(base),
        "rows": said,
        "counts": [
            {"tasks": count, "score": float(base[:count].mean()), "ci95": half_width(base[:count])}
            for count in counts
        ],
    }


def _verdict(rows: list[dict[str, Any]], metric: Metric) -> str:
    """What matters most, in a sentence. No adaptation at all is no protocol."""
    clear = [row for row in rows if row.get("clear") and row["setting"] != "inner_steps=0"]
    if not clear:
        return "No setting of the protocol moves the result clearly: every 95% interval of a difference has 0 in it."
    most = max(clear, key=lambda row: abs(row["difference"]))
    low, high = (pick(0.0, *(row["difference"] for row in clear)) for pick in (min, max))
    sign = "+" if most["difference"] > 0 else ""
    return (
        f"What matters most is {most['setting']}: {sign}{metric.format(most['difference'], most['difference_ci95'])}. "
        f"Between the lowest and the highest of these protocols, each one setting away from the run's own, lie "
        f"{metric.format(high - low)} of one and the same checkpoint."
    )


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
