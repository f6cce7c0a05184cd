"""The command of the README, on small images for a few iterations."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
SMALL = [
    "task.dataset.images_per_class=4",
    "task.dataset.val_classes=2",
    "task.dataset.test_classes=2",
    "task.ways=2",
    "task.queries=2",
    "model.hidden=4",
    "trainer.iterations=3",
    "trainer.meta_batch=2",
    "trainer.log_every=1",
    "trainer.val_tasks=2",
    "evaluation.tasks=4",
    "device=cpu",
]


def test_command_of_the_readme_trains(images, tmp_path):
    command = ["train", "--config-dir", "conf", "experiment=own_images", f"data_dir='{images}'", *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", "neo", *command, f"hydra.run.dir='{tmp_path / 'run'}'"],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["protocol"]["algorithm"] == "my_project.algorithm.MultiStepMAML"
    assert 0 <= result["test/accuracy"] <= 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["train/first_step_loss"] > 0
