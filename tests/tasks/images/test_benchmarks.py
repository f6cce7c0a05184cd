"""The benchmarks by name, on small archives of the layouts that they are published in: none can be downloaded here."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tasks
from tasks.images import published_split
from tasks.images.benchmarks import Benchmark

# The lists that ours are compared with, beside the data: see tests/conftest.py.
SPLITS = Path(os.environ.get("NEO_DATA") or Path(__file__).parents[4] / "shared" / "data").parent / "splits"
COUNTS = {
    "mini_imagenet": (64, 16, 20),
    "tiered_imagenet": (351, 97, 160),
    "cifar_fs": (64, 16, 20),
    "fc100": (12, 4, 4),  # superclasses
    "cub": (100, 50, 50),
}
PARTS = ("train", "val", "test")


@pytest.mark.parametrize("name", COUNTS)
def test_class_lists_have_as_many_classes_as_published(name):
    split = published_split(name)
    assert tuple(len(split[part]) for part in PARTS) == COUNTS[name]


@pytest.mark.skipif(not SPLITS.is_dir(), reason=f"no lists to compare with in {SPLITS}")
@pytest.mark.parametrize("name", COUNTS)
def test_class_lists_are_those_of_the_papers(name):
    found: dict[str, list[str]] = {}
    for line in (SPLITS / f"{name}.txt").read_text().splitlines():
        if line.startswith("["):
            names = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            names.append(line)
    assert published_split(name) == found


def image(number: int, side: int = 8) -> np.ndarray:
    """(side, side, 3) uint8, another for each number."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, 2))


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def each(split: dict[str, list[str]]) -> list[tuple[str, str, list[np.ndarray]]]:
    """(part, class, two images) of a split."""
    numbered = [(part, name) for part, names in split.items() for name in names]
    return [(part, name, [image(2 * i), image(2 * i + 1)]) for i, (part, name) in enumerate(numbered)]


# Each layout writes two images of each class of a benchmark, and gives what `data` is.


def class_folders(place: Path, split: dict, *, under: str = "", parts: bool = False) -> Path:
    for part, name, images in each(split):
        folder = place / under / (part if parts else "") / name
        folder.mkdir(parents=True)
        for i, one in enumerate(images):
            (folder / f"{i}.png").write_bytes(png(one))
    return place


def ravi(place: Path, split: dict) -> Path:
    (place / "mini-imagenet" / "images").mkdir(parents=True)
    rows = {part: ["filename,label"] for part in split}
    for part, name, images in each(split):
        for i, one in enumerate(images):
            (place / "mini-imagenet" / "images" / f"{name}{i}.png").write_bytes(png(one))
            rows[part].append(f"{name}{i}.png,{name}")
    for part, lines in rows.items():
        (place / "mini-imagenet" / f"{part}.csv").write_text("\n".join(lines))
    return place


def mini_cache(place: Path, split: dict, *, val: str = "val", swapped: bool = False) -> Path:
    for part, names in split.items():
        chosen = [images for one, name, images in each(split) if one == part]
        content = {
            "image_data": np.stack([one for images in chosen for one in images]),
            "class_dict": {name: [2 * i, 2 * i + 1] for i, name in enumerate(names)},
        }
        own = {"val": "test", "test": "val"}.get(part, part) if swapped else part
        dump(place / f"mini-imagenet-cache-{val if own == 'val' else own}.pkl", content)
    return place


def split_pickles(place: Path, split: dict, pattern: str, *, named: bool = False) -> Path:
    for part, names in split.items():
        chosen = [images for one, name, images in each(split) if one == part]
        content = {
            "data": np.stack([one for images in chosen for one in images]),
            "labels": [i for i in range(len(names)) for _ in range(2)],
        }
        if named:
            content["catname2label"] = {name: i for i, name in enumerate(names)}
        dump(place / pattern.format(part), content)
    return place


def gidaris(place: Path, split: dict) -> Path:
    split_pickles(place, split, "miniImageNet_category_split_{}.pickle", named=True)
    stem = "miniImageNet_category_split_train"
    (place / f"{stem}.pickle").rename(place / f"{stem}_phase_train.pickle")
    for phase in ("val", "test"):  # of training classes; not to be taken for the validation classes
        dump(place / f"{stem}_phase_{phase}.pickle", {"data": np.stack([image(0)]), "labels": [0]})
    return place


def ren_tiered(place: Path, split: dict, *, npz: bool = False) -> Path:
    folder = place / "tiered-imagenet"
    for part, names in split.items():
        images = [one for own, name, two in each(split) if own == part for one in two]
        labels = np.arange(len(names), dtype=np.int32).repeat(2)
        english = ["crane" if i < 2 else f"a {name}" for i, name in enumerate(names)]  # two are called crane
        dump(folder / f"{part}_labels.pkl", {"label_specific": labels, "label_specific_str": english})
        if npz:  # OpenCV's order of channels
            np.savez(folder / f"{part}_images.npz", images=np.stack(images)[..., ::-1])
        else:
            encoded = [np.frombuffer(png(one), np.uint8) for one in images]
            dump(
                folder / f"{part}_images_png.pkl", [encoded[0][:, None], *encoded[1:]]
            )  # older OpenCV's shape
    return place


def cifar_images(split: dict) -> tuple[list[str], list[str], np.ndarray]:
    """Fine and coarse names and images (n, 3, 32, 32) of a made-up CIFAR-100, in superclasses of five each."""
    fine = sorted(name for names in published_split("cifar_fs").values() for name in names)
    coarse = sorted(name for names in published_split("fc100").values() for name in names)
    images = np.stack([image(i, 32).transpose(2, 0, 1) for i in range(2 * len(fine))])
    return fine, coarse, images


def cifar_python(place: Path, split: dict) -> Path:
    fine, coarse, images = cifar_images(split)
    folder = place / "cifar-100-python"
    dump(
        folder / "meta",
        {b"fine_label_names": [name.encode() for name in fine], b"coarse_label_names": coarse},
    )
    for i, half in enumerate(("train", "test")):
        content = {
            "data": images[i::2].reshape(len(fine), -1),
            "fine_labels": list(range(len(fine))),
            "coarse_labels": [number // 5 for number in range(len(fine))],
        }
        dump(folder / half, content)
    return place


def cifar_binary(place: Path, split: dict) -> Path:
    fine, coarse, images = cifar_images(split)
    folder = place / "cifar-100-binary"
    folder.mkdir()
    (folder / "fine_label_names.txt").write_text("\n".join(fine) + "\n\n")
    (folder / "coarse_label_names.txt").write_text("\n".join(coarse) + "\n\n")
    for i, half in enumerate(("train", "test")):
        rows = [
            bytes([number // 5, number]) + images[2 * number + i].tobytes() for number in range(len(fine))
        ]
        (folder / f"{half}.bin").write_bytes(b"".join(rows))
    return place


def arrays(place: Path, split: dict) -> Path:
    folder = place / "mini-imagenet"
    folder.mkdir()
    for part, names in split.items():
        chosen = [images for one, name, images in each(split) if one == part]
        images = np.stack([one for images in chosen for one in images])
        np.savez(folder / f"{part}.npz", images=images, labels=np.array(names).repeat(2))
    return place


LAYOUTS: dict[str, tuple[type[Benchmark], Callable[[Path, dict], Path], bool]] = {
    # name: (benchmark, what writes it, whether it names its classes)
    "mini: csv": (tasks.MiniImagenet, ravi, True),
    "mini: npz": (tasks.MiniImagenet, arrays, True),
    "mini: folders": (tasks.MiniImagenet, class_folders, True),
    "mini: folders by part": (
        tasks.MiniImagenet, lambda place, split: class_folders(place, split, under="miniImagenet", parts=True), True,
    ),
    "mini: learn2learn": (
        tasks.MiniImagenet, lambda place, split: mini_cache(place, split, val="validation"), True,
    ),
    "mini: Ren": (tasks.MiniImagenet, lambda place, split: mini_cache(place, split, swapped=True), True),
    "mini: Gidaris": (tasks.MiniImagenet, gidaris, True),
    "tiered: Ren": (tasks.TieredImagenet, ren_tiered, False),
    "tiered: npz": (tasks.TieredImagenet, lambda place, split: ren_tiered(place, split, npz=True), False),
    "tiered: folders": (
        tasks.TieredImagenet,
        lambda place, split: class_folders(place, split, under="tiered_imagenet", parts=True),
        True,
    ),
    "CIFAR-FS: python": (tasks.CifarFS, cifar_python, True),
    "CIFAR-FS: binary": (tasks.CifarFS, cifar_binary, True),
    "CIFAR-FS: Bertinetto": (
        tasks.CifarFS, lambda place, split: class_folders(place, split, under="cifar100/data"), True,
    ),
    "CIFAR-FS: MetaOptNet": (
        tasks.CifarFS, lambda place, split: split_pickles(place, split, "CIFAR_FS_{}.pickle"), False,
    ),
    "FC100: python": (tasks.FC100, cifar_python, True),
    "FC100: MetaOptNet": (
        tasks.FC100,
        lambda place, split: split_pickles(
            place, {part: [f"{name}{i}" for name in names for i in range(5)] for part, names in split.items()},
            "FC100/FC100_{}.pickle",
        ),
        False,
    ),
    "CUB": (tasks.CUB, lambda place, split: class_folders(place, split, under="CUB_200_2011/images"), True),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_benchmark_is_read_from_its_layout_under_its_published_split(tmp_path, layout, caplog):
    benchmark, write, named = LAYOUTS[layout]
    split = published_split(benchmark.key)
    data = benchmark(write(tmp_path, split), size=8)
    assert data.images.shape[1:] == (3, 8, 8)
    for part, names in split.items():
        found = [data.names[i] for i in data.parts[part].tolist()]
        assert len(found) == benchmark.published[part]
        if named:
            assert {benchmark.known(name) for name in found} == {*names}
        task = data.sampler(part, ways=5, shots=1, queries=1, seed=0).sample(0, 2)
        assert task.query.x.shape == (2, 5, 3, 8, 8)
    assert data.index.counts == [2] * len(data.names)
    assert ("of the 600 images of a class" in caplog.text) == (benchmark.images_per_class == 600)
    again = benchmark(tmp_path, size=8)  # from the cache
    assert again.checksum == data.checksum


def test_layouts_of_one_benchmark_hold_the_same_images(tmp_path):
    """Among them pickles with val and test in each other's place, which the names of the classes set right."""
    checksums = {}
    for layout, (benchmark, write, named) in LAYOUTS.items():
        if benchmark is tasks.MiniImagenet or layout in ("tiered: Ren", "tiered: npz"):
            place = tmp_path / re.sub(r"\W", "", layout)
            place.mkdir()
            data = benchmark(write(place, published_split(benchmark.key)), size=None)
            checksums.setdefault((benchmark.key, named), set()).add(data.checksum)
    assert [len(found) for found in checksums.values()] == [1, 1]


def test_pixels_of_cifar_are_those_of_the_file(tmp_path):
    data = tasks.CifarFS(cifar_python(tmp_path, {}), size=32)
    fine, _, images = cifar_images({})
    number = data.names.index("apple")
    start = sum(data.index.counts[:number])
    found = {data.images[row].numpy().tobytes() for row in data.index.rows[start : start + 2]}
    at = fine.index("apple")
    assert found == {images[2 * at].tobytes(), images[2 * at + 1].tobytes()}


def missing_class(place: Path) -> None:
    split = published_split("mini_imagenet")
    class_folders(place, {**split, "val": split["val"][:-1]})


def no_part(place: Path) -> None:
    split = published_split("mini_imagenet")
    split_pickles(place, {**split, "val": split["val"][:-1]}, "miniImageNet_category_split_{}.pickle")


def too_many(place: Path) -> None:
    class_folders(place, published_split("mini_imagenet"))


def code(place: Path) -> None:
    for part in PARTS:
        dump(place / f"mini-imagenet-cache-{part}.pkl", {"image_data": Path("a")})


def other_pickle(place: Path) -> None:
    for part in PARTS:
        dump(place / f"mini-imagenet-cache-{part}.pkl", {"images": np.zeros(2)})


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda place: None, r"mini-ImageNet: nothing of it in .*; expected mini-imagenet-cache-train\.pkl"),
        (missing_class, r"has no images of n09256479; expected"),
        (no_part, r"has 64 / 15 / 20 classes to train, validate and test, expected 64 / 16 / 20"),
        (too_many, r"n01532829 has 2, .* and 95 more images, expected the 1 of each class"),
        (code, r"mini-imagenet-cache-train\.pkl asks for pathlib.*, which could run code"),
        (other_pickle, r"has no image_data and no class_dict, only images"),
    ],
)  # fmt: skip
def test_what_is_not_the_benchmark_is_refused(tmp_path, write, sentence, monkeypatch):
    if write is too_many:
        monkeypatch.setattr(tasks.MiniImagenet, "images_per_class", 1)
    write(tmp_path)
    with pytest.raises(tasks.DataError, match=sentence):
        tasks.MiniImagenet(tmp_path)
