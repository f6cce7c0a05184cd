"""Reading MNIST: idx files in every place and form, and clear words about damaged ones."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import DataError
from tasks import mnist as digits
from tasks.mnist import IMAGES, LABELS, load_mnist, read_idx


def idx(magic: int, array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}i", magic, *array.shape) + array.tobytes()


def write(raw: Path, compress: bool = False, count: int = 4) -> Path:
    """A tiny MNIST of `count` images each."""
    raw.mkdir(parents=True)
    images = np.arange(count * 784, dtype=np.int64).reshape(count, 28, 28).astype(np.uint8)
    for images_name, labels_name, _ in digits.FILES.values():
        for name, content in (
            (images_name, idx(IMAGES, images)),
            (labels_name, idx(LABELS, np.arange(count, dtype=np.uint8))),
        ):
            if compress:
                (raw / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (raw / name).write_bytes(content)
    return raw


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(digits, "FILES", {part: (*names[:2], 4) for part, names in digits.FILES.items()})
    monkeypatch.setattr(digits, "fetch", lambda data_dir: None)  # a test asks for no connection


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("layout", digits.LAYOUTS)
def test_digits_are_found_in_every_layout(tmp_path, layout, compress):
    write(tmp_path / "data" / layout, compress)
    train, test = load_mnist(tmp_path / "data")
    assert train.x.shape == (4, 784)
    assert train.x.dtype == torch.float32
    assert train.x[0, 255] == 1.0
    assert train.x[0, 51] == torch.tensor(51) / 255
    assert test.y.tolist() == [0, 1, 2, 3]


def test_digits_are_searched_in_the_usual_places_when_no_folder_is_given(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    write(tmp_path / "shared" / "data" / "mnist" / "MNIST" / "raw")
    monkeypatch.chdir(tmp_path / "here")
    assert len(load_mnist()[0]) == 4


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda content: content[:-1], "holds 3135 bytes behind its header, which promises 4 x 28 x 28"),
        (lambda content: content + b"x", "holds 3137 bytes behind its header"),
        (lambda content: content[:7], "has 7 bytes, expected an idx header of 16"),
        (lambda content: b"\x00\x00\x08\x01" + content[4:], "begins with the number 2049, expected 2051"),
    ],
)
def test_damaged_file_is_refused_by_name(tmp_path, damage, sentence):
    raw = write(tmp_path / "raw")
    path = raw / digits.FILES["train"][0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path.name} {sentence}"):
        load_mnist(raw)


def test_cut_gzip_is_refused_by_name(tmp_path):
    raw = write(tmp_path / "raw", compress=True)
    path = raw / f"{digits.FILES['test'][1]}.gz"
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match=rf"{path.name} cannot be read"):
        load_mnist(raw)


def test_wrong_count_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"train images \(3, 28, 28\) and labels \(3,\) up to 2, expected \(4, 28, 28\)"
    ):
        load_mnist(write(tmp_path / "raw", count=3))


def test_missing_digits_are_said_with_the_places_searched(tmp_path):
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte .* give another data_dir"):
        load_mnist(tmp_path)


def test_real_digits_have_their_published_size(monkeypatch):
    monkeypatch.undo()
    place = Path(os.environ.get("NEO_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
    raw = digits.find([place])
    if raw is None:
        pytest.skip(f"no MNIST in {place}; set NEO_DATA to a folder that has MNIST/raw")
    labels = read_idx(raw / digits.FILES["test"][1], LABELS, 1)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert read_idx(raw / digits.FILES["test"][0], IMAGES, 3).shape == (10_000, 28, 28)
