"""Tables, labels, masks and tokens by the commands: what is typed, and what is said of data that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from meta.metrics_file import read_metrics
from tests.meta.cli.test_commands import call
from tests.meta.test_other_shapes import MADE

SMALL = [
    "trainer.meta_batch=2",
    "trainer.log_every=1",
    "trainer.val_tasks=2",
    "evaluation.tasks=4",
    "device=cpu",
]


@pytest.mark.slow
@pytest.mark.parametrize("task", MADE)
def test_task_trains_resumes_and_is_evaluated(task, tmp_path):
    given = [f"task={task}", *MADE[task](tmp_path), *SMALL]
    for run, iterations in (("whole", 4), ("stopped", 2)):
        done = call(tmp_path, "train", *given, f"trainer.iterations={iterations}", f"hydra.run.dir={run}")
        assert done.code == 0, done.stderr
    done = call(tmp_path, "train", "resume=stopped", "trainer.iterations=4")
    assert done.code == 0, done.stderr
    whole, resumed = (
        [line["train/loss"] for line in read_metrics(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "stopped")
    )
    assert whole == resumed
    assert len(whole) == 4
    done = call(tmp_path, "evaluate", "run_dir=whole", "tasks=3")
    assert done.code == 0, done.stderr


def damaged_table(place: Path) -> list[str]:
    (place / "t.csv").write_text(
        "who,x,y\n" + "".join(f"g{i // 4},{i},{'?' if i == 9 else i}\n" for i in range(40))
    )
    return ["task=table", f"data_dir={place / 't.csv'}", "task.dataset.group=who", "task.dataset.outputs=[y]"]


def without_labels(place: Path) -> list[str]:
    (place / "t.csv").write_text("path,tags\na.png,x;y\n")
    return ["task=multi_label", f"data_dir={place / 't.csv'}"]


def without_masks(place: Path) -> list[str]:
    (place / "fss" / "cat").mkdir(parents=True)
    (place / "fss" / "cat" / "1.jpg").write_bytes(b"")
    return ["task=segmentation", f"data_dir={place / 'fss'}"]


def objects(place: Path) -> list[str]:
    np.savez(place / "t.npz", tokens=np.array([[1], [1, 2]], dtype=object), labels=np.array([0, 1]))
    return ["task=tokens", f"data_dir={place / 't.npz'}"]


def another_model(place: Path) -> list[str]:
    return ["task=segmentation", *MADE["segmentation"](place), "model=conv4", "task.dataset.size=16"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (damaged_table, "line 11, column y: '?'"),
        (without_labels, "has no label column: expected one of label"),
        (without_masks, "1 files of"),
        (objects, "expected a .csv or .tsv in UTF-8 with a header, or an .npz of plain arrays"),
        (another_model, "the model must give as many pixels as it takes"),
    ],
)
def test_what_does_not_fit_is_a_sentence_before_training(
    make: Callable[[Path], list[str]], sentence, tmp_path
):
    done = call(tmp_path, "train", *make(tmp_path), *SMALL, "hydra.run.dir=run")
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
