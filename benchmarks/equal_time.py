"""Accuracy at equal time: each estimator trains for the same seconds, and is tested on the same tasks.

    python -m benchmarks.equal_time --data-dir DIR [--seconds 60] [--seeds 0 1] [--write docs/equal-time.json]

Omniglot, 5-way 1-shot, five inner steps, five queries a class, eight tasks a meta-update, and what conf/ has besides.
One thread, processor time, from the second meta-update on (the first loads what it needs); each run is a process of its
own, without validation. What the file has already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from meta import evaluate
from meta.cli.configs import composed
from meta.cli.overrides import check, parse
from meta.experiment import Experiment
from neo.runtime import keep_freed_memory

__all__ = ["ESTIMATORS", "main", "table"]

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = [
    *("task=omniglot", "task.ways=5", "task.shots=1", "task.queries=5", "algorithm.inner_steps=5"),
    *("trainer.meta_batch=8", "workers=1", "device=cpu"),
]
ESTIMATORS = {
    "reverse": ["algorithm.meta_gradient=reverse"],
    "mixed": ["algorithm.meta_gradient=mixed"],
    "truncated, last 2 steps": ["algorithm.meta_gradient=truncated", "algorithm.truncated_steps=2"],
    "first_order": ["algorithm.meta_gradient=first_order"],
    "implicit": ["algorithm.meta_gradient=implicit"],
    "implicit, inner rate 0.1": ["algorithm.meta_gradient=implicit", "algorithm.inner_lr=0.1"],
    "es, 10 pairs": ["algorithm.meta_gradient=es"],
}


def trained(name: str, seed: int, seconds: float, tasks: int, data_dir: str) -> dict[str, Any]:
    """In this process: meta-updates within so many seconds, and the test after the last one."""
    keep_freed_memory()
    torch.set_num_threads(1)
    given = [*ALWAYS, *ESTIMATORS[name], f"seed={seed}", f"data_dir={data_dir}", "trainer.iterations=1000000"]
    experiment = Experiment(composed("train", check("train", parse(given), False)))
    trainer, learner = experiment.trainer, experiment.learner
    steps = trainer.steps(experiment.sampler("train"), trainer.start())
    state, _ = next(steps)
    began = time.process_time()
    while time.process_time() - began < seconds:
        state, _ = next(steps)
    found = evaluate(learner, state.params, experiment.sampler("test"), tasks, iteration=state.step)
    return {"updates": state.step, "accuracy": found.mean, "ci95": found.ci95}


def run(*settings: Any) -> dict[str, Any]:
    """trained() in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.equal_time", "--run", json.dumps(settings)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"{settings}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each estimator, a column for each seed."""
    seeds = sorted({seed for of_seeds in found.values() for seed in of_seeds})
    lines = [
        f"| estimator | meta-updates | {' | '.join(f'accuracy, seed {seed}' for seed in seeds)} |",
        f"|---|---:|{'---:|' * len(seeds)}",
    ]
    for name in ESTIMATORS:
        of_seeds = [found.get(name, {}).get(seed) for seed in seeds]
        updates = " ".join(str(one["updates"]) for one in of_seeds if one)
        cells = [f"{one['accuracy']:.1%} ± {one['ci95']:.1%}" if one else "" for one in of_seeds]
        lines.append(f"| {name} | {updates} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", default="data", help="the folder with Omniglot")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, each")
    parser.add_argument("--tasks", type=int, default=600, help="of the test")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--write", type=Path, help="a JSON file, which keeps what it has")
    given = parser.parse_args()
    if given.run:
        print(json.dumps(trained(*given.run)))
        return
    found: dict[str, dict[str, Any]] = {}
    if given.write and given.write.is_file():
        found = json.loads(given.write.read_text(encoding="utf-8"))
    for seed in given.seeds:
        for name in ESTIMATORS:
            if str(seed) in found.setdefault(name, {}):
                continue
            found[name][str(seed)] = run(
                name, seed, given.seconds, given.tasks, str(Path(given.data_dir).resolve())
            )
            print(name, seed, found[name][str(seed)], file=sys.stderr, flush=True)
            if given.write:
                given.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
