"""Images of one's own from the command line, in each of the forms that they may have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meta.metrics_file import read_metrics
from meta.plots import canvas
from meta.task_results import load
from tests.meta.cli.test_commands import call
from tests.tasks.images import made

SMALL = [
    "task=images",
    "task.dataset.size=16",
    "task.dataset.fractions=[0.4,0.3,0.3]",
    "task.ways=3",
    "task.queries=2",
    "task.crop=2",
    "task.flip=true",
    "task.colour=0.2",
    "model.hidden=4",
    "trainer.meta_batch=2",
    "trainer.iterations=4",
    "trainer.log_every=1",
    "trainer.val_every=2",
    "trainer.checkpoint_every=2",
    "trainer.val_tasks=2",
    "evaluation.tasks=4",
    "device=cpu",
]


@pytest.fixture(scope="module", autouse=True)
def pictures_as_png_alone():
    """PDF and SVG, of which tests/meta/test_plots.py has an eye, would take half a second a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "FORMATS", {"png": canvas.FORMATS["png"]})
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The same images as a folder of class folders, a table and a .npz."""
    place = tmp_path_factory.mktemp("images")
    found = made.images(20)
    made.as_table(place, made.as_folder(place / "data", found))
    images, labels = made.flat(found)
    np.savez(place / "images.npz", images=images, labels=np.array(labels))
    return place


@pytest.fixture(scope="module")
def finished(place) -> Path:
    return trained(place, "data", "finished")


def trained(place: Path, data: str, name: str, *arguments: str) -> Path:
    done = call(place, "train", *SMALL, f"data_dir={data}", f"hydra.run.dir={name}", *arguments)
    assert done.code == 0, done.stderr
    return place / name


def numbers(run: Path) -> tuple[list, list, dict]:
    """What a run logged, the tasks that it was tested on and its result, without times."""
    lines = [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read_metrics(run / "metrics.jsonl")
    ]
    result = json.loads((run / "result.json").read_text())
    return lines, load(run / "test.safetensors").record.checksums.tolist(), result["test/accuracy"]


@pytest.mark.slow
def test_folder_table_and_arrays_train_to_the_same_bits(place, finished):
    for data in ("images.csv", "images.npz"):
        assert numbers(trained(place, data, f"of {data}".replace(" ", "_"))) == numbers(finished)
    with Image.open(finished / "plots" / "tasks.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    # Colours of the images: more of them than of the frames and letters.
    assert (np.ptp(pixels, axis=2) > 40).mean() > 0.1


def test_run_on_images_stops_and_goes_on_to_the_same_bits(place, finished):
    run = trained(place, "data", "stopped", "trainer.iterations=2")
    done = call(place, "train", "resume=stopped", "trainer.iterations=4")
    assert done.code == 0, done.stderr
    assert numbers(run) == numbers(finished)
    for name, *arguments in (("evaluate", "tasks=3", "ways=2"), ("replay", "hardest=2")):
        done = call(place, name, "run_dir=stopped", "device=cpu", *arguments)
        assert done.code == 0, done.stderr


def test_sweep_over_images_meets_the_same_tasks(place, finished):
    arms = ("data_dir=data", "algorithm.inner_lr=0.1,0.4", "hydra.sweep.dir=sweep")
    done = call(place, "train", "-m", *SMALL, *arms)
    assert done.code == 0, done.stderr
    first, second = (numbers(place / "sweep" / arm) for arm in ("0", "1"))
    assert second == numbers(finished)
    assert first[1] == second[1]
    assert first[0] != second[0]


def test_tasks_of_varied_ways_and_shots_train_and_test(place):
    """Prototypes of as many classes as there are, here of grey images; and a head of as many outputs as the most."""
    varied = ("task.varied=true", "task.ways=4", "task.queries=2", "task.dataset.fractions=[0.4,0.3,0.3]")
    grey = ("task.dataset.channels=1", "task.mean=[0.5]", "task.std=[0.25]")
    for algorithm, more in (("protonet", grey), ("maml", ())):
        run = trained(place, "images.npz", algorithm, *varied, *more, f"algorithm={algorithm}", "seed=1")
        protocol = json.loads((run / "result.json").read_text())["protocol"]
        assert (protocol["varied"], protocol["mean"]) == (True, [0.5] if more else None)
    done = call(
        place, "train", *SMALL, "data_dir=images.npz", *varied, "batched=true", "hydra.run.dir=batched"
    )
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert "batched=true" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data_dir=nowhere"], "there is no"),
        (["data_dir=data", "task.queries=9"], "need 10 images of each class, and"),
        (["data_dir=data", "task.ways=6"], "ways=6 is more than the 4 classes of images train"),
        (["data_dir=images.csv", "task.dataset.label_column=kind"], "no label column: expected 'kind'"),
    ],
)
def test_bad_images_are_said_in_a_sentence_before_training(place, arguments, sentence):
    done = call(place, "train", *SMALL, *arguments, "hydra.run.dir=refused")
    assert done.code == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "refused" / "checkpoints").exists()
