"""Two runs on the same tasks, compared task by task: python scripts/paired.py RUN RUN

Compares the per-task results that scripts/evaluate.py left, where both runs have them, else those of the test at the
end of training. The interval is over tasks, for the two runs at hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from meta.cli import command
from meta.paired import difference
from meta.record import disagreements
from meta.report.page import format_difference, verdict
from meta.task_results import Results, ResultsError, load

NAMES = ("evaluation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(prog="paired", description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "runs", type=Path, nargs=2, metavar="RUN", help="folder of a run, or a file of its results"
    )
    parser.add_argument(
        "--name", help="of the evaluation; evaluation, or test, whichever both have, if not given"
    )
    arguments = parser.parse_args()
    with command.report_errors():
        one, other = (_own(load(path)) for path in _files(arguments.runs, arguments.name))
        print(compared(one, other))


def _files(runs: list[Path], name: str | None) -> list[Path]:
    """Where the results of both lie. Raises: ResultsError where there are none that both have."""
    if all(run.is_file() for run in runs):
        if name is not None:
            raise ResultsError(
                f"--name={name} chooses a file in the folder of a run, and {runs[0]} is a file; leave it out."
            )
        return runs
    for run in runs:
        if not run.is_dir():
            raise ResultsError(f"{run} is not a folder; name the folders of two runs.")
    for candidate in NAMES if name is None else (name,):
        found = [run / f"{candidate}.safetensors" for run in runs]
        if all(path.is_file() for path in found):
            return found
    wanted = " or ".join(f"{candidate}.safetensors" for candidate in (NAMES if name is None else (name,)))
    raise ResultsError(
        f"{runs[0]} and {runs[1]} do not both hold {wanted}; run scripts/evaluate.py on both, with one protocol."
    )


def _own(results: Results) -> Results:
    """Raise ResultsError where results are of another run than the folder that they lie in; else give them."""
    found = disagreements(results.path.parent, {results.path: results.about.get("record")})
    if found:
        raise ResultsError(
            f"{results.path} is not of the run in whose folder it lies: {'; '.join(found)}. Put the file that "
            "belongs there in its place, or evaluate that run again."
        )
    return results


def compared(one: Results, other: Results) -> str:
    """A line for each of the two, then their difference after each number of inner steps that both were taken to."""
    metric = one.metric
    lines = []
    for letter, results in (("A", one), ("B", other)):
        last = results.by_step()[-1]
        steps = f"{results.steps} inner step{'s' if results.steps != 1 else ''}"
        lines.append(
            f"{letter}  {metric.format(last.score, last.ci95)}  {results.tasks} tasks, {steps}  {results.path}"
            f"{'' if results.about.get('record') else ', no record of its run'}"
        )
    unit = " points" if metric.fraction else ""

    def said(label: str, step: int | None) -> str:
        found = difference(one, other, step=step)
        even = found.tasks - found.better - found.worse
        return (
            f"{label:<18}{format_difference(metric, found.mean, found.ci95)}{unit}, {verdict(metric, found)}: "
            f"B better on {found.better}, worse on {found.worse}, even on {even} of {found.tasks} common tasks"
        )

    lines.append(said("B − A, at the end", None))
    if one.steps and other.steps:
        lines += [
            said(f"  after {step} step{'s' if step != 1 else ''}", step)
            for step in range(min(one.steps, other.steps) + 1)
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
