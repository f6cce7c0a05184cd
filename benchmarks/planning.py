"""Foretold and measured peak memory, side by side: for docs/meta-gradients.md.

    python -m benchmarks.planning [--works W1 W2 W3 resnet transformer] [--write docs/planning.json]

Each work is planned once, as scripts/plan.py does, and then trained for a few steps by each estimator and number of
inner steps, each run in a process of its own, whose peak the system tells when it ends. Time is that of the plan.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from meta.cli.configs import composed
from meta.cli.overrides import check, parse
from meta.planning import plan
from meta.sizes import format_size

__all__ = ["WORKS", "Transformer", "main", "table"]

ROOT = Path(__file__).resolve().parents[1]
WORKS = {
    "W1": (["trainer.meta_batch=32"], (1, 10)),
    "W2": (["model=conv4_maxpool", "trainer.meta_batch=32"], (1, 10)),
    "W3": (
        ["model=conv4_maxpool", "task.ways=20", "trainer.meta_batch=16", "algorithm.inner_steps=5"],
        (5, 10),
    ),
    "resnet": (["model=resnet18", "task.queries=5", "trainer.meta_batch=4"], (1, 5)),
    "transformer": (
        ["model=torch", "model.module=benchmarks.planning.Transformer", "trainer.meta_batch=8"],
        (5, 10),
    ),
}
ALWAYS = ["algorithm.inner_lr=0.01", "workers=2"]
SHORT = ["trainer.iterations=3", "trainer.val_every=0", "evaluation.tasks=20"]


class Transformer(torch.nn.Module):
    """Four layers of width 64 over the rows of an image."""

    def __init__(self, ways: int = 5, size: int = 28, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.rows = torch.nn.Linear(size, width)
        self.places = torch.nn.Parameter(0.02 * torch.randn(size, width))
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, ways)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.rows(x.squeeze(1)) + self.places).mean(1))


def measured(overrides: list[str]) -> int:
    """The peak bytes of a run in a process of its own, whose own children, of which it has none, would count too."""
    with tempfile.TemporaryDirectory(prefix="neo-plan-") as folder:
        command = [sys.executable, "-c", RUN, *overrides, f"hydra.run.dir={folder}/run"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"{' '.join(overrides)}: {done.stderr}")
    return int(done.stdout.strip().splitlines()[-1])


# VmHWM and not what the parent's wait tells, in which the parent's own peak counts.
RUN = """
from meta.cli.train import main
from meta.planning.memory import peak_of_process
main()
print(peak_of_process())
"""


def rows(name: str) -> list[dict[str, Any]]:
    overrides, steps_tried = WORKS[name]
    overrides = [*overrides, *ALWAYS]
    config = composed("train", check("train", parse([*overrides, *SHORT]), False))
    began = time.perf_counter()
    foretold = plan(config, exact_only=True)
    spent = time.perf_counter() - began
    found = []
    for row in foretold.rows:
        for steps in steps_tried if row is foretold.own else steps_tried[-1:]:
            said = foretold.peak(row, steps)
            settings = [f"algorithm.{key}={value}" for key, value in row.settings_at(steps).items()]
            seen = measured([*overrides, *SHORT, *settings, f"algorithm.inner_steps={steps}"])
            process = foretold.measured["process"]
            one = {"work": name, "estimator": row.title_at(steps), "steps": steps}
            one |= {"foretold": said, "measured": seen, "process": process, "plan_seconds": spent}
            found.append(one)
            print(one, file=sys.stderr, flush=True)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Markdown. "of the run's own": less what Python and torch take in any process."""
    lines = [
        "| work | estimator | inner steps | foretold | measured | off by | off by, of the run's own |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        off = one["foretold"] - one["measured"]
        of_all, of_own = off / one["measured"], off / (one["measured"] - one["process"])
        lines.append(
            f"| {one['work']} | {one['estimator']} | {one['steps']} | {format_size(one['foretold'])} | "
            f"{format_size(one['measured'])} | {of_all:+.1%} | {of_own:+.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--write", type=Path, help="a JSON file, which keeps what it has of other works")
    given = parser.parse_args()
    kept: dict[str, Any] = {}
    if given.write and given.write.is_file():
        kept = json.loads(given.write.read_text(encoding="utf-8"))
    for name in given.works:
        kept[name] = rows(name)
        if given.write:
            given.write.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(table([one for name in WORKS for one in kept.get(name, [])]))


if __name__ == "__main__":
    main()
