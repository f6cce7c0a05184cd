"""Images with masks: which pixels a task asks for, the layouts, and what is said of images without a mask."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tasks
from tasks.task import IGNORED

CLASSES = {f"class{number}": 5 + number % 2 for number in range(10)}
PROTOCOL = {"ways": 2, "shots": 1, "queries": 2, "seed": 0}


def made() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Class → images (16, 16, 3) with masks (16, 16) of 0 and 1: a bright square of even size, of another place."""
    generator = np.random.default_rng(0)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, count in CLASSES.items():
        found[name] = []
        for _ in range(count):
            image = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            mask = np.zeros((16, 16), dtype=np.uint8)
            row, column = 2 * generator.integers(0, 5, 2)
            mask[row : row + 6, column : column + 6] = 1
            image[mask > 0] = 255
            found[name].append((image, mask))
    return found


def as_folder(place: Path, beside: bool = False) -> Path:
    """With beside, images as .bmp (which lose nothing) and masks as .png of 255 in one folder."""
    for name, pairs in made().items():
        for number, (image, mask) in enumerate(pairs):
            folders = (place / name,) * 2 if beside else (place / name / "images", place / name / "masks")
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folders[0] / f"{number}.{'bmp' if beside else 'png'}")
            Image.fromarray(mask * (255 if beside else 1)).save(folders[1] / f"{number}.png")
    return place


def as_table(place: Path) -> Path:
    folder = as_folder(place / "files")
    images = sorted(folder.rglob("images/*.png"), key=lambda path: path.name)
    rows = [[path, path.parents[1] / "masks" / path.name, path.parents[1].name] for path in images]
    with (place / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "mask", "class"], *rows])
    return place / "data.csv"


def test_task_asks_for_the_pixels_of_its_classes(tmp_path):
    data = tasks.Segmentation(as_folder(tmp_path / "data"), fractions=(0.4, 0.3, 0.3))
    sampler = data.sampler("train", **PROTOCOL)
    together = sampler.sample(3, 5)
    assert (together.support.x.shape, together.query.y.shape) == ((5, 2, 3, 16, 16), (5, 4, 16, 16))
    assert together.batched
    for task in together:
        assert not task.batched
        for part, each in ((task.support, 1), (task.query, 2)):
            bright = (part.x == 1).all(1)
            assert torch.equal(part.y > 0, bright)
            labels = torch.tensor([1] * each + [2] * each)
            assert torch.equal(part.y.flatten(1).max(1).values, labels)
    alone = sampler.sample(3, [2])[0]
    assert alone.checksum() == together[2].checksum() != sampler.sample(4, [2])[0].checksum()
    one = data.sampler("test", **{**PROTOCOL, "ways": 1})
    assert one.sample(0, 2).query.y.unique().tolist() == [0, 1]


def test_masks_move_with_their_images(tmp_path):
    """Bright pixels are those of the mask, black ones are from outside, in images of which no pixel is black."""
    data = tasks.Segmentation(as_folder(tmp_path / "data"), fractions=(0.4, 0.3, 0.3))
    data.images.clamp_(min=1)
    plain = data.sampler("train", **PROTOCOL).sample(3, 20)
    task = data.sampler("train", **PROTOCOL, crop=3, flip=True).sample(3, 20)
    for part, before in ((task.support, plain.support), (task.query, plain.query)):
        label = before.y.flatten(2).max(2).values[:, :, None, None]  # of each image
        expected = torch.where((part.x == 1).all(2), label, 0)
        assert torch.equal(part.y, expected.masked_fill((part.x == 0).all(2), IGNORED))
        outside = (part.y == IGNORED).flatten(2).sum(2)
        assert len(outside.unique()) > 3
        assert int(outside.max()) <= 16**2 - 13**2
    mirrored = data.sampler("train", **PROTOCOL, flip=True).sample(3, 20)
    same = (mirrored.query.x == plain.query.x).flatten(2).all(2)
    assert torch.equal(mirrored.query.y[same], plain.query.y[same])
    assert torch.equal(mirrored.query.y[~same], plain.query.y[~same].flip(2))
    assert 20 < int(same.sum()) < 60  # of 80


def test_colours_leave_masks_as_they_are(tmp_path):
    data = tasks.Segmentation(as_folder(tmp_path / "data"), fractions=(0.4, 0.3, 0.3))
    plain, coloured = (
        data.sampler("train", **PROTOCOL, colour=colour).sample(0, 4).query for colour in (0.0, 0.4)
    )
    assert not torch.equal(plain.x, coloured.x)
    assert torch.equal(plain.y, coloured.y)


def test_augmented_task_depends_on_nothing_but_its_place(tmp_path):
    data = tasks.Segmentation(as_folder(tmp_path / "data"), fractions=(0.4, 0.3, 0.3))
    sampler = data.sampler("train", **PROTOCOL, crop=3, flip=True)
    together, alone = sampler.sample(5, 4)[2], sampler.sample(5, [2])[0]
    assert together.checksum() == alone.checksum() != sampler.sample(6, [2])[0].checksum()


def test_same_images_give_the_same_tasks_in_every_layout(tmp_path):
    forms = [as_folder(tmp_path / "one"), as_folder(tmp_path / "two", beside=True), as_table(tmp_path)]
    drawn = [
        tasks.Segmentation(one, fractions=(0.4, 0.3, 0.3), cache_dir=tmp_path / "cache").sampler(
            "val", **PROTOCOL
        )
        for one in (*forms, forms[0])  # the last from the cache
    ]
    assert len({one.sample(0, 1)[0].checksum() for one in drawn}) == 1


def test_masks_are_scaled_by_the_nearest_pixel(tmp_path):
    data = tasks.Segmentation(as_folder(tmp_path / "data"), size=8)
    assert data.masks.unique().tolist() == [0, 255]
    assert data.masks.view(len(data.images), -1).gt(0).sum(1).unique().tolist() == [
        9
    ]  # of 36 of four times as many


def test_images_and_masks_that_do_not_fit_are_named(tmp_path):
    place = as_folder(tmp_path / "data")
    (place / "class3" / "masks" / "2.png").unlink()
    with pytest.raises(
        tasks.DataError, match=r"1 files of .* have no mask, or no image.*class3/images/2\.png"
    ):
        tasks.Segmentation(place)
    (place / "class3" / "images" / "2.png").unlink()
    for path in place.rglob("masks/*.png"):
        Image.open(path).resize((10, 10)).save(path)
    with pytest.raises(
        tasks.DataError, match=r"images are 16x16 pixels and masks 10x10; .*task\.dataset\.size"
    ):
        tasks.Segmentation(place)
    with pytest.raises(tasks.DataError, match="is no folder of class folders and no table"):
        tasks.Segmentation(tmp_path / "nothing")
    for part in ("train", "val", "test"):
        (tmp_path / "split" / part / "a").mkdir(parents=True)
    with pytest.raises(tasks.DataError, match=r"has train, val and test; .*task\.dataset\.split"):
        tasks.Segmentation(tmp_path / "split")


def test_labels_of_pixels_have_the_shape_of_the_images():
    with pytest.raises(ValueError, match=r"PixelBatch: x must be .* got x \(2, 3, 4, 4\) and y \(2, 4, 5\)"):
        tasks.PixelBatch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 5, dtype=torch.int64))
