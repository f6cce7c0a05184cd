"""One work, measured: each contender at its best setting, agreement first, then turns in rotation."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.contender import Contender, ContenderError, Missing, memory_limit
from benchmarks.flops import meta_step_flops
from benchmarks.judge import Judge
from benchmarks.problem import draw
from benchmarks.record import Found, Row, row
from benchmarks.settings import contenders, describe, settings
from benchmarks.step import Arrays, Setting, Spec
from benchmarks.works import MetaModule, MetaStep, Work
from tasks import CharacterSet

__all__ = ["Options", "measure", "open_contender"]

SELECTION_TURNS = 3
HOPELESS = 1.3  # a setting whose first turn is so many times the best one's gets no second
HOPELESS_COLD = (
    2.0  # and one whose first of all, which warms up, is so many times that, unless it compiles then
)
LONG_S = 10.0  # turns that long are alike: one tells enough


class Choice(NamedTuple):
    """A contender's setting, its seconds a turn in the selection (0 where there was no choice), its float32 error."""

    setting: Setting
    seconds: float
    error: float | None


class Problem(NamedTuple):
    """A work of one size, and the file that it starts from."""

    work: Work
    path: Path


Chosen = dict[tuple[str, str], Choice]  # (contender, name of the problem's file) → its choice


class Options(NamedTuple):
    """How to measure; see conf/bench.yaml."""

    peers: Sequence[str]
    device: str
    clock: str
    rounds: int
    quick: bool
    limit_s: float
    jax_python: str
    machine: str
    note: str | None
    say: Callable[[str], None]  # progress, a line each


def measure(work: Work, dataset: CharacterSet, options: Options) -> Found:
    """Table of one work, with rows for each of its sizes.

    Raises: agreement.Disagreement where a contender computes something else than Neo; ContenderError where Neo fails.
    """
    with tempfile.TemporaryDirectory(prefix="neo-bench-") as folder:
        problems = [Problem(one, Path(folder) / f"{i}.npz") for i, one in enumerate(work.variants())]
        for one, path in problems:
            draw(one, dataset, path)
        judge = Judge(work, Path(folder) / "check.npz")
        draw(judge.work, dataset, judge.problem)
        chosen, notes = _select(work, problems, judge, options)
        rates = {"convolution": 0.0, "matmul": 0.0} if isinstance(work, MetaStep) else {}
        rows = [row for problem in problems for row in _turns(problem, chosen, rates, options)]
    return Found(
        name=work.name,
        title=work.title,
        unit=work.unit,
        rounds=options.rounds,
        machine=options.machine,
        rows=tuple(rows),
        notes=(judge.verdict(), *notes, *filter(None, [options.note])),
        flops=meta_step_flops(work) if isinstance(work, MetaStep) else None,
        rates=rates,
    )


def _turns(problem: Problem, chosen: Chosen, rates: dict[str, float], options: Options) -> list[Row]:
    """Rows of one size: each contender at its choice takes a turn a round. rates: raised to what is measured now."""
    work, path = problem
    best = {peer: choice for (peer, size), choice in chosen.items() if size == path.name}
    with ExitStack() as stack:
        running: dict[str, Contender] = {}
        for peer, choice in best.items():
            running[peer] = stack.enter_context(open_contender(work, peer, choice.setting, path, options))
            running[peer].check()  # warms up; that it agrees is known
        if rates:
            machine = stack.enter_context(open_contender(work, "machine", {}, path, options))
            rates.update(_faster(rates, machine.check()))
        seconds: dict[str, list[float]] = {peer: [] for peer in running}
        peaks: dict[str, int] = {}
        for number in range(options.rounds):
            for peer, contender in running.items():
                spent, peaks[peer] = contender.run()
                seconds[peer].append(spent)
            options.say(f"{work.name} round {number + 1}/{options.rounds}")
        if rates:
            rates.update(_faster(rates, machine.check()))
    return [
        row(
            peer,
            describe(choice.setting),
            seconds[peer],
            seconds["neo"],
            work.per_turn,
            peaks[peer],
            choice.error,
            work.meta_batch if isinstance(work, MetaModule) else None,
        )
        for peer, choice in best.items()
    ]


def open_contender(work: Work, peer: str, setting: Setting, problem: Path, options: Options) -> Contender:
    """A process that is ready for its first turn."""
    spec = Spec(work.fields(), peer, setting, str(problem), options.device, options.clock)
    other = peer == "jax"
    if other and not Path(options.jax_python).exists():
        raise Missing("", f"no JAX environment ({options.jax_python}); make bench-jax makes one")
    return Contender(
        spec,
        limit_s=options.limit_s,
        memory=memory_limit()
        if options.device == "cpu" and not other
        else None,  # CUDA claims addresses in plenty
        python=options.jax_python if other else sys.executable,
    )


def _select(
    work: Work, problems: Sequence[Problem], judge: Judge, options: Options
) -> tuple[Chosen, list[str]]:
    """Each contender's fastest setting at each size, and what there is to say. Each must agree with Neo's first.

    One process at a time: some contenders at some settings fill the memory by themselves.
    """
    chosen: Chosen = {}
    notes: list[str] = []
    for peer in contenders(work):
        if peer not in options.peers and peer != "neo":
            continue
        failures: list[ContenderError] = []
        for setting in (grid := settings(work, peer, options.device, options.quick)):
            try:
                with open_contender(judge.work, peer, setting, judge.problem, options) as contender:
                    error = judge.check(contender)
                    for one, path in problems:
                        best = chosen[peer, path.name].seconds if (peer, path.name) in chosen else math.inf
                        taken = 0.0
                        if len(grid) > 1:
                            contender.build(
                                contender.spec._replace(work=one.fields(), problem=str(path), setting=setting)
                            )
                            taken = _fastest(contender, best, compiles=peer == "jax")
                        if taken < best:
                            chosen[peer, path.name] = Choice(setting, taken, error)
                        said = f"{work.name} {path.stem} {peer}, {describe(setting)}"
                        options.say(said + (f": {taken:.4g} s" if taken else ""))
            except ContenderError as failure:
                failures.append(failure)
                options.say(f"Left out: {failure}.")
                if isinstance(failure, Missing):
                    break
        if failures and all((peer, path.name) not in chosen for _, path in problems):
            if peer == "neo":
                raise failures[0]
            notes.append(f"{peer} did not take part: {failures[0].why}.")
        else:
            notes += [f"Left out: {failure}." for failure in failures]
    return chosen, notes


def _fastest(contender: Contender, best: float, compiles: bool) -> float:
    """Seconds of the fastest of a few turns, after one that warms up; fewer of a slow contender.

    compiles: in the turn that warms up, whose time then tells nothing.
    """
    cold, _ = contender.run()
    if not compiles and cold > HOPELESS_COLD * best:
        return cold
    first, _ = contender.run()
    if first > HOPELESS * best or first > LONG_S:
        return first
    return min(first, *(contender.run()[0] for _ in range(SELECTION_TURNS - 1)))


def _faster(rates: dict[str, float], found: Arrays) -> dict[str, float]:
    return {name: max(rate, float(found[name])) for name, rate in rates.items()}
