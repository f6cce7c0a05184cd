"""The layouts in which the few-shot benchmarks are passed on: which images and classes each holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import DataError
from tasks.images.arrays import array_listing
from tasks.images.listing import PARTS, Found, Listing, Stored, together
from tasks.images.pickles import read_pickle

__all__ = ["cifar100", "mini_pickles", "png_pickles", "split_pickles"]


def mini_pickles(place: Path) -> Found | None:
    """mini-imagenet-cache-train.pkl and so on, of Ren et al. 2018 and learn2learn: image_data, class_dict."""
    files = _files(place, "mini-imagenet-cache-{}.pkl")
    return None if files is None else Found([*files.values()], lambda: _mini(files))


def _mini(files: dict[str, Path]) -> Listing:
    # Parts are by the names of the classes, and not by file: in the code of Ren et al. val and test are each other's.
    items: list[Path | Stored] = []
    classes: list[str] = []
    for file in files.values():
        images, class_dict = _entries(file, read_pickle(file), "image_data", "class_dict")
        for name, rows in class_dict.items():
            items += [Stored(images, int(row), str(file)) for row in rows]
            classes += [_text(name)] * len(rows)
    return Listing(items, classes)


def split_pickles(*names: str) -> Callable[[Path], Found | None]:
    """Pickles of data (n, height, width, 3) and labels, a file a part, as of MetaOptNet, TADAM and learn2learn.

    names: of the files, with {} for the part; the first that is there.
    """

    def find(place: Path) -> Found | None:
        files = _files(place, *names)
        if files is None:
            return None
        return Found(
            [*files.values()], lambda: together({part: _split(part, file) for part, file in files.items()})
        )

    return find


def _split(part: str, file: Path) -> Listing:
    content = read_pickle(file)
    images, labels = _entries(file, content, "data", "labels")
    known = {number: name for name, number in _plain(content).get("catname2label", {}).items()}
    named = [_text(known.get(label, f"{part} {label}")) for label in np.asarray(labels).tolist()]
    return array_listing(np.asarray(images), np.array(named), str(file))


def png_pickles(place: Path) -> Found | None:
    """tiered-ImageNet of Ren et al. 2018: train_images_png.pkl, a list of PNGs, with train_labels.pkl, and so on.

    Its classes have numbers and English names and no WordNet ids, and a name may come twice. Where the images are only
    there as train_images.npz, which their code makes with OpenCV, the channels are blue, green, red and are turned.
    """
    labels = _files(place, "{}_labels.pkl", "tiered-imagenet-{}_labels.pkl")
    if labels is None:
        return None
    images = _files(
        place,
        *(f"{stem}{{}}_images{end}" for end in ("_png.pkl", ".npz") for stem in ("", "tiered-imagenet-")),
    )
    if images is None:
        raise DataError(
            f"images: {place} has train_labels.pkl, val_labels.pkl and test_labels.pkl, and not all of "
            "train_images_png.pkl, val_images_png.pkl and test_images_png.pkl; get these too."
        )
    return Found(
        [*labels.values(), *images.values()],
        lambda: together({part: _pngs(part, labels[part], images[part]) for part in PARTS}),
    )


def _pngs(part: str, labels_file: Path, file: Path) -> Listing:
    images: Any
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            images = arrays["images"][..., ::-1]
    else:
        images = read_pickle(file)
    content = _plain(read_pickle(labels_file))
    labels = np.asarray(content.get("label_specific", content.get("labels")))
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"images: {labels_file} has no label_specific for each of the {len(images)} images of {file}; get "
            "both again."
        )
    english = content.get("label_specific_str")
    return Listing(
        [Stored(images, i, str(file)) for i in range(len(images))],
        [
            f"{part} {number}" + (f" {_text(english[number])}" if english else "")
            for number in labels.tolist()
        ],
    )


def cifar100(name: Callable[[str, str], str]) -> Callable[[Path], Found | None]:
    """CIFAR-100's own files, training and test images together: cifar-100-python/, or cifar-100-binary/.

    name: of (superclass, class), what a class is called.
    """

    def find(place: Path) -> Found | None:
        for folder in (place, place / "cifar-100-python"):
            if (folder / "meta").is_file():
                return found([folder / one for one in ("meta", "train", "test")], _cifar_python)
        for folder in (place, place / "cifar-100-binary"):
            if (folder / "fine_label_names.txt").is_file():
                names = ("fine_label_names.txt", "coarse_label_names.txt", "train.bin", "test.bin")
                return found([folder / one for one in names], _cifar_binary)
        return None

    def found(files: list[Path], read: Callable[[list[Path]], tuple[Any, ...]]) -> Found:
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise DataError(f"images: there is no {' and no '.join(missing)}; unpack all of the archive.")
        return Found(files, lambda: listing(files[0].parent, *read(files)))

    def listing(folder: Path, images: np.ndarray, fine: list[str], coarse: list[str]) -> Listing:
        classes = [name(superclass, one) for superclass, one in zip(coarse, fine, strict=True)]
        return array_listing(images.reshape(-1, 3, 32, 32), np.array(classes), str(folder))

    return find


def _cifar_python(files: list[Path]) -> tuple[Any, ...]:
    names = _entries(files[0], read_pickle(files[0]), "fine_label_names", "coarse_label_names")
    keys = ("data", "fine_labels", "coarse_labels")
    halves = [_entries(file, read_pickle(file), *keys) for file in files[1:]]
    images, fine, coarse = (np.concatenate([np.asarray(half[i]) for half in halves]) for i in range(3))
    return images, [_text(names[0][i]) for i in fine], [_text(names[1][i]) for i in coarse]


def _cifar_binary(files: list[Path]) -> tuple[Any, ...]:
    fine_names, coarse_names = (file.read_text(encoding="utf-8").split() for file in files[:2])
    rows = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 2 + 3 * 32 * 32) for file in files[2:]])
    return rows[:, 2:], [fine_names[i] for i in rows[:, 1]], [coarse_names[i] for i in rows[:, 0]]


def _files(place: Path, *names: str) -> dict[str, Path] | None:
    """The file of each part, the first of these names that is there; None where a part has none."""
    found = {}
    for part in PARTS:
        wanted = [
            name.format(word)
            for name in names
            for word in ((part, "validation") if part == "val" else (part,))
        ]
        there = next((place / name for name in wanted if (place / name).is_file()), None)
        if there is None:
            return None
        found[part] = there
    return found


def _plain(content: Any) -> Mapping[str, Any]:
    """A dict with text for its keys, which Python 2 wrote as bytes."""
    if not isinstance(content, Mapping):
        raise DataError(f"images: expected a dict in a pickle of a benchmark, got {type(content).__name__}.")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _entries(file: Path, content: Any, *keys: str) -> list[Any]:
    found = _plain(content)
    missing = [key for key in keys if key not in found]
    if missing:
        raise DataError(
            f"images: {file} has no {' and no '.join(missing)}, only {', '.join(found)}; get it from where it is "
            "published."
        )
    return [found[key] for key in keys]
