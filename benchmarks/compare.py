"""One work, measured: each contender at its best setting, agreement first, then turns in rotation."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.contender import Contender, ContenderError, Missing, memory_limit
from benchmarks.flops import meta_step_flops
from benchmarks.judge import Judge, smaller
from benchmarks.problem import draw
from benchmarks.record import Found, row
from benchmarks.settings import contenders, describe, settings
from benchmarks.step import Arrays, Setting, Spec
from benchmarks.works import MetaStep, Work
from tasks import CharacterSet

__all__ = ["Options", "measure", "open_contender"]

SELECTION_TURNS = 3
HOPELESS = 1.3  # a setting whose first turn is so many times the best one's gets no second


class Choice(NamedTuple):
    """A contender's setting, its seconds a turn in the selection (0 where there was no choice), its float32 error."""

    setting: Setting
    seconds: float
    error: float | None


class Options(NamedTuple):
    """How to measure; see conf/bench.yaml."""

    peers: Sequence[str]
    device: str
    rounds: int
    quick: bool
    limit_s: float
    jax_python: str
    machine: str
    say: Callable[[str], None]  # progress, a line each


def measure(work: Work, dataset: CharacterSet, options: Options) -> Found:
    """Table of one work.

    Raises: agreement.Disagreement where a contender computes something else than Neo; ContenderError where Neo fails.
    """
    with tempfile.TemporaryDirectory(prefix="neo-bench-") as folder, ExitStack() as stack:
        problem = Path(folder) / "problem.npz"
        draw(work, dataset, problem)
        draw(smaller(work), dataset, problem.with_name("check.npz"))
        chosen, notes = _select(work, problem, options)
        rates = {"convolution": 0.0, "matmul": 0.0} if isinstance(work, MetaStep) else {}
        running: dict[str, Contender] = {}
        for peer, choice in chosen.items():
            running[peer] = stack.enter_context(open_contender(work, peer, choice.setting, problem, options))
            running[peer].check()  # warms up; that it agrees is known
        if rates:
            machine = stack.enter_context(open_contender(work, "machine", {}, problem, options))
            rates = _faster(rates, machine.check())
        seconds: dict[str, list[float]] = {peer: [] for peer in running}
        peaks: dict[str, int] = {}
        for number in range(options.rounds):
            for peer, contender in running.items():
                spent, peaks[peer] = contender.run()
                seconds[peer].append(spent)
            options.say(f"{work.name} round {number + 1}/{options.rounds}")
        if rates:
            rates = _faster(rates, machine.check())
    return Found(
        name=work.name,
        title=work.title,
        unit=work.unit,
        rounds=options.rounds,
        machine=options.machine,
        rows=tuple(
            row(
                peer,
                describe(choice.setting),
                seconds[peer],
                seconds["neo"],
                work.per_turn,
                peaks[peer],
                choice.error,
            )
            for peer, choice in chosen.items()
        ),
        notes=tuple(notes),
        flops=meta_step_flops(work) if isinstance(work, MetaStep) else None,
        rates=rates,
    )


def open_contender(work: Work, peer: str, setting: Setting, problem: Path, options: Options) -> Contender:
    """A process that is ready for its first turn."""
    spec = Spec(work.fields(), peer, setting, str(problem), options.device)
    other = peer == "jax"
    if other and not Path(options.jax_python).exists():
        raise Missing(f"no JAX environment ({options.jax_python}); make bench-jax makes one")
    return Contender(
        spec,
        limit_s=options.limit_s,
        memory=memory_limit()
        if options.device == "cpu" and not other
        else None,  # CUDA claims addresses in plenty
        python=options.jax_python if other else sys.executable,
    )


def _select(work: Work, problem: Path, options: Options) -> tuple[dict[str, Choice], list[str]]:
    """Each contender's fastest setting, and what there is to say. Every setting must agree with Neo's first.

    One process at a time: some contenders at some settings fill the memory by themselves.
    """
    chosen: dict[str, Choice] = {}
    notes: list[str] = []
    judge = Judge(work, problem.with_name("check.npz"))
    for peer in contenders(work):
        if peer not in options.peers and peer != "neo":
            continue
        grid = settings(work, peer, options.device, options.quick)
        for setting in grid:
            best = chosen[peer].seconds if peer in chosen else float("inf")
            try:
                with open_contender(judge.work, peer, setting, judge.problem, options) as contender:
                    error = judge.check(contender)
                    taken = 0.0
                    if len(grid) > 1:
                        contender.build(Spec(work.fields(), peer, setting, str(problem), options.device))
                        contender.check()  # warms up
                        taken = _fastest(contender, best)
            except Missing as missing:
                notes.append(f"{peer} did not take part: {missing}.")
                break
            except ContenderError as failure:
                if peer == "neo":
                    raise
                notes.append(f"Left out: {failure}.")
                options.say(notes[-1])
                continue
            options.say(f"{work.name} {peer}, {describe(setting)}" + (f": {taken:.4g} s" if taken else ""))
            if taken < best:
                chosen[peer] = Choice(setting, taken, error)
    return chosen, [judge.verdict(), *notes]


def _fastest(contender: Contender, best: float) -> float:
    """Seconds of the fastest of a few turns."""
    first, _ = contender.run()
    if first > HOPELESS * best:
        return first
    return min(first, *(contender.run()[0] for _ in range(SELECTION_TURNS - 1)))


def _faster(rates: dict[str, float], found: Arrays) -> dict[str, float]:
    return {name: max(rate, float(found[name])) for name, rate in rates.items()}
