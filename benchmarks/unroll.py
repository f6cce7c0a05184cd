"""W7: memory and time of Neo's meta-gradient against the number of inner steps, with and without checkpoint."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import agreement
from benchmarks.compare import Options, open_contender
from benchmarks.problem import draw
from benchmarks.record import Found
from benchmarks.works import Unroll
from tasks import CharacterSet

__all__ = ["growth", "measure"]


def measure(work: Unroll, dataset: CharacterSet, options: Options) -> Found:
    """A row for each number of inner steps; each process sees one number, so that its peak is that number's.

    Raises: agreement.Disagreement where the float64 gradients with and without checkpoint differ.
    """
    rows, worst = [], 0.0
    with tempfile.TemporaryDirectory(prefix="neo-bench-") as folder:
        problem = Path(folder) / "problem.npz"
        draw(work, dataset, problem)
        for steps in work.unrolled:
            worst = max(worst, _difference(work, steps, problem, options))
            rows.append(_row(work, steps, problem, options))
            options.say(f"{work.name}: {steps} inner steps")
    plain, checkpointed = (
        growth([(r["inner_steps"], r[f"{kind}_peak_bytes"]) for r in rows]) for kind in KINDS
    )
    return Found(
        name=work.name,
        title=work.title,
        unit=work.unit,
        rounds=options.rounds,
        machine=options.machine,
        rows=(),
        notes=(
            f"With checkpoint and without, the float64 gradients agree to {worst:.1e} (relative).",
            f"An inner step more takes {plain / 1e6:.2f} MB, with checkpoint {checkpointed / 1e6:.2f} MB.",
            *filter(None, [options.note]),
        ),
        unrolled=tuple(rows),
    )


KINDS = {"plain": "no", "checkpoint": "yes"}  # name of a column → the setting


def growth(points: list[tuple[float, float]]) -> float:
    """Slope from the fewest inner steps to the most: bytes a step."""
    (first, low), (last, high) = min(points), max(points)
    return (high - low) / (last - first) if last > first else 0.0


def _difference(work: Unroll, steps: int, problem: Path, options: Options) -> float:
    results = []
    for kind in KINDS.values():
        setting = {"inner_steps": str(steps), "checkpoint": kind, "dtype": "float64"}
        with open_contender(work, "neo", setting, problem, options) as contender:
            results.append(contender.check())
    return agreement.check(
        f"{work.name}: {steps} inner steps with checkpoint", results[1], "without", results[0], work.tolerance
    )


def _row(work: Unroll, steps: int, problem: Path, options: Options) -> dict[str, float]:
    found: dict[str, float] = {"inner_steps": steps}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        running = {
            kind: stack.enter_context(
                open_contender(
                    work, "neo", {"inner_steps": str(steps), "checkpoint": value}, problem, options
                )
            )
            for kind, value in KINDS.items()
        }
        for contender in running.values():
            contender.run()  # warms up
        for _ in range(options.rounds):
            for kind, contender in running.items():
                spent, peak = contender.run()
                seconds[kind].append(spent)
                found[f"{kind}_peak_bytes"] = peak
    return found | {f"{kind}_seconds": median(values) for kind, values in seconds.items()}
