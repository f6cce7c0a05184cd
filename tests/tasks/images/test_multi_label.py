"""Images with several labels: whose part an image is, which are drawn, and what is said of data that do not fit."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tasks

NAMES = [f"label{number}" for number in range(10)]
SPLIT = (
    "[train]\nlabel0\nlabel1\nlabel2\nlabel3\n[val]\nlabel4\nlabel5\nlabel6\n[test]\nlabel7\nlabel8\nlabel9\n"
)


def made(images: int = 240, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and two labels for each image that often are of one part: label l makes column l % side bright."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 120, (images, side, side, 3), dtype=np.uint8)
    hot = np.zeros((images, len(NAMES)), dtype=np.uint8)
    hot[np.arange(images), np.arange(images) % 10] = 1
    hot[np.arange(images), (np.arange(images) * 7 + np.arange(images) // 10) % 10] = 1
    for image, row in zip(pixels, hot, strict=True):
        image[:, np.flatnonzero(row) % side] = 255
    return pixels, hot


def as_arrays(place: Path) -> Path:
    pixels, hot = made()
    np.savez(place / "data.npz", images=pixels, labels=hot, classes=np.array(NAMES))
    return place / "data.npz"


def as_table(place: Path) -> Path:
    pixels, hot = made()
    (place / "images").mkdir()
    rows = []
    for i in np.random.default_rng(1).permutation(len(pixels)):
        Image.fromarray(pixels[i]).save(place / "images" / f"{i}.png")
        rows.append([f"{i}.png", " ; ".join(NAMES[label] for label in reversed(np.flatnonzero(hot[i])))])
    with (place / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "labels"], *rows])
    return place / "data.csv"


def split(place: Path) -> Path:
    (place / "split.txt").write_text(SPLIT)
    return place / "split.txt"


def test_no_image_is_in_two_parts_and_no_label_either(tmp_path):
    data = tasks.MultiLabelImages(as_arrays(tmp_path), split=split(tmp_path))
    rows = {part: {*data.labelled(part)[1].tolist()} for part in data.parts}
    assert sum(map(len, rows.values())) == len(set.union(*rows.values()))
    _, hot = made()
    for row in rows["train"]:
        assert hot[row, 4:].max() == 0
    for row in rows["val"]:
        assert hot[row, 4:7].max() == 1
        assert hot[row, 7:].max() == 0
    assert rows["test"] == {*np.flatnonzero(hot[:, 7:].any(1)).tolist()}


def test_task_asks_for_its_labels_of_images_that_are_all_different(tmp_path):
    data = tasks.MultiLabelImages(as_arrays(tmp_path), split=split(tmp_path))
    sampler = data.sampler("train", ways=3, shots=2, queries=3, seed=0)
    together = sampler.sample(5, 40)
    assert (together.support.x.shape, together.support.y.shape) == ((40, 6, 3, 8, 8), (40, 6, 3))
    labels = sampler.draw(5, 40)[0]
    several = 0
    for task, own in zip(together, labels.tolist(), strict=True):
        x, y = torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y])
        assert len(torch.unique(x.flatten(1), dim=0)) == 15
        # Read off the pixels: a label's column is bright exactly where the target says so.
        bright = (x.amin(2) == 1).all(1)
        for place, number in enumerate(own):
            assert torch.equal(bright[:, number], y[:, place] == 1)
            assert int(task.support.y[:, place].sum()) >= 2
            assert int(task.query.y[:, place].sum()) >= 3
        several += int((y.sum(1) > 1).sum())
    assert several > 0
    alone = data.sampler("train", ways=3, shots=2, queries=3, seed=0, flip=True).sample(5, [7])
    assert torch.equal(alone.support.y[0], together.support.y[7])
    assert (
        sampler.sample(5, [7])[0].checksum() == together[7].checksum() != sampler.sample(6, [7])[0].checksum()
    )


def test_same_images_give_the_same_tasks_as_table_and_as_arrays(tmp_path):
    forms = [
        tasks.MultiLabelImages(
            place, label_column=column, split=split(tmp_path), cache_dir=tmp_path / "cache"
        )
        for place, column in ((as_arrays(tmp_path), None), (as_table(tmp_path), "labels"))
    ]
    drawn = {
        one.sampler("test", ways=3, shots=1, queries=2, seed=0).sample(0, 1)[0].checksum() for one in forms
    }
    assert len(drawn) == len({one.checksum for one in forms}) == 1


def test_labels_with_too_few_images_are_named(tmp_path):
    data = tasks.MultiLabelImages(as_arrays(tmp_path), split=split(tmp_path))
    with pytest.raises(
        ValueError, match=r"need 14 images of each of ways=3 labels, .*label\d has \d+ \(of \d+\)"
    ):
        data.sampler("train", ways=3, shots=3, queries=11, seed=0)
    with pytest.raises(ValueError, match=r"ways=9 is more than the 4 classes"):
        data.sampler("train", ways=9, shots=1, queries=1, seed=0)


def test_data_that_do_not_fit_are_refused(tmp_path):
    pixels, hot = made()
    for labels, sentence in (
        (hot.argmax(1), r"labels int64 \(240,\); expected 0 or 1 for each image and label"),
        (hot * 2, "expected 0 or 1 for each image and label"),
        (hot[:, :9], "names of 10; expected a name for each"),
    ):
        np.savez(tmp_path / "bad.npz", images=pixels, labels=labels, classes=np.array(NAMES))
        with pytest.raises(tasks.DataError, match=sentence):
            tasks.MultiLabelImages(tmp_path / "bad.npz", cache_dir=tmp_path / "cache")
    (tmp_path / "other.txt").write_text(SPLIT.replace("label9", "label99"))
    with pytest.raises(tasks.DataError, match="the split names label99, which no image has"):
        tasks.MultiLabelImages(as_arrays(tmp_path), split=tmp_path / "other.txt")
    np.savez(tmp_path / "hot.npz", images=pixels, labels=hot)
    with pytest.raises(tasks.DataError, match=r"labels uint8 \(240, 10\); expected a label"):
        tasks.Images(tmp_path / "hot.npz", cache_dir=tmp_path / "cache")
