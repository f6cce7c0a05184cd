"""Foretell what a run will take: python scripts/plan.py task=omniglot algorithm.inner_steps=5 memory=2GB

Takes what scripts/train.py takes, runs a few meta-steps of it in a process of its own, and tells the peak memory and
the time of a meta-step: by part, by estimator of the meta-gradient, and against inner steps. With memory=2GB (which is
trainer.memory=2GB) it says which of the exact estimators, with how many tasks at a time, stays below that and is the
fastest, as overrides of scripts/train.py. Nothing is left behind.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from meta.cli import command, folders
from meta.cli.overrides import ConfigError
from meta.cli.value_types import format_value
from meta.planning import Choice, Plan, Row, choose, plan
from meta.sizes import format_size, parse_size

__all__ = ["job", "main", "text"]

STEPS = (1, 2, 5, 10, 100)
POLICIES = 8  # rows of the tape that are told one by one


def job(config: DictConfig) -> None:
    given = config.trainer.memory
    budget = None if given is None else parse_size(given)
    found = plan(config)
    print(text(found))
    if budget is not None:
        print(f"\n{_advice(choose(found, budget), str(given))}")


def text(found: Plan) -> str:
    """Parts, tape and estimators, as tables."""
    return "\n\n".join(("\n".join(lines)) for lines in (_parts(found), _tape(found), *_estimators(found)))


def _parts(found: Plan) -> list[str]:
    where = "the process" if found.device.type == "cpu" else "torch on the GPU"
    steps = "" if found.steps is None else f", {_counted(found.steps, 'inner step')}"
    beside = f", {_counted(found.workers, 'task')} at a time" if found.has_workers else ""
    title = found.own.title_at(found.steps or 0)
    tasks = int(found.measured["meta_batch"] * found.measured.get("accumulate", 1))
    said = f"{found.seconds():.3g} s a meta-step of {_counted(tasks, 'task')}"
    lines = [f"{title}{steps}{beside}: peak of {where} {format_size(found.peak())}, {said}"]
    about = {
        "process": "Python, torch and Neo, before anything is built",
        "data": "the data set and its samplers",
        "tasks drawn": "a meta-batch",
        "parameters": "meta-parameters",
        "optimiser": "its state",
        "carried": "the algorithm's state",
        "tape": "what tapes hold when the walk back begins, of all tasks at a time",
        "passes": "what forward and backward passes have besides, of the same",
        "rest": "workspaces, memory kept for the next tensors or cut up, what is loaded on first use",
        "pictures": "drawn after the test, if they are more than fits in beside it",
    }
    for name, size in found.parts().items():
        lines.append(f"  {name:<12} {format_size(size):>10}  {about[name]}")
    return lines


def _tape(found: Plan) -> list[str]:
    own = found.own
    lines = [f"tape of a task by Policy, {_counted(found.tape_steps, 'inner step')}"]
    if not own.choosable and found.steps is None:
        lines = ["tape of a task by Policy"]
    rows = list(own.tape.items())
    told = rows[:POLICIES]
    rest = sum(size for _, size in rows[POLICIES:])
    if rows[POLICIES:]:
        told.append((f"{len(rows) - POLICIES} more", rest))
    width = max((len(name) for name, _ in told), default=0)
    return lines + [f"  {name:<{width}} {format_size(size):>10}" for name, size in told]


def _estimators(found: Plan) -> list[list[str]]:
    if not found.own.choosable:
        return []
    steps = sorted({*STEPS, *([found.steps] if found.steps else [])})
    refused = [f"{row.name}: {row.refused}" for row in found.rows if row.refused]
    tables = []
    for head, cell in (
        ("peak against inner steps", lambda row, n: format_size(found.peak(row, n))),
        ("seconds a meta-step", lambda row, n: f"{found.seconds(row, n):.3g}"),
    ):
        lines = [f"{head:<28}" + "".join(f"{n:>11}" for n in steps)]
        for row in found.rows:
            if not row.refused:
                lines.append(f"  {_name(row, found):<26}" + "".join(f"{cell(row, n):>11}" for n in steps))
        tables.append(lines)
    return [*tables, *([refused] if refused else [])]


def _name(row: Row, found: Plan) -> str:
    title = row.title_at(found.steps or 0)
    return "mixed, segments of √steps" if getattr(row, "each", 0) is None else title


def _advice(choice: Choice, given: str) -> str:
    overrides = " ".join(f"{key}={format_value(value)}" for key, value in choice.values.items())
    return (
        f"below {given}: {choice}, foretold {format_size(choice.peak)}, {choice.seconds:.3g} s a meta-step\n"
        f"  {overrides or 'as it is configured'}"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def before(config_name: str, overrides: Sequence[Override], sweeping: bool) -> Sequence[str]:
    """Have hydra write nothing."""
    if sweeping:
        raise ConfigError("plan is of one run; leave -m out.")
    return "hydra.run.dir=.", folders.QUIET, "hydra/job_logging=stdout"


def main() -> None:
    sys.argv = [f"trainer.{one}" if one.startswith("memory=") else one for one in sys.argv]
    command.run("train", job, before)


if __name__ == "__main__":
    main()
