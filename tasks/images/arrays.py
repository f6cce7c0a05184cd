"""Images that are arrays: .npz, .npy, safetensors; and any indexable of (image, label), as torchvision's sets."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tasks.errors import DataError, shortened
from tasks.images.listing import Found, Listing, Stored

__all__ = ["ARRAYS", "LABELS", "array_file", "array_listing", "indexable", "joined_labels"]

ARRAYS = (".npz", ".npy", ".safetensors")
LABELS = "labels.npy"  # beside a .npy of images
IMAGE_KEYS = ("images", "image", "x", "data", "image_data")
LABEL_KEYS = ("labels", "label", "y", "targets")
NAME_KEYS = ("classes", "names", "class_names")  # the name of label 0, of label 1, ...


def array_file(file: Path, separator: str | None = None) -> Found:
    """uint8 images (n, height, width), (n, height, width, channels) or (n, channels, height, width), with n labels.

    .npz and .safetensors: under `images` and `labels`; names of labels that are numbers may be under `classes`.
    .npy: with `labels.npy` beside it; or without labels, (classes, images, ...): of each class as many.
    A .npz is held in memory while it is read, the others are not.
    separator: labels are (n, labels), 0 or 1, and the class of an image is the names of all of its own, joined by it.

    read() raises: DataError for arrays that are missing, of another shape or dtype, or hold Python objects.
    """
    beside = file.with_name(LABELS)
    files = [file, beside] if file.suffix.lower() == ".npy" and beside.is_file() else [file]
    return Found(files, lambda: _read(files, separator))


def _read(files: Sequence[Path], separator: str | None) -> Listing:
    file = files[0]
    try:
        arrays = _arrays(file)
        if len(files) > 1:
            arrays["labels"] = np.load(files[1], allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(
            f"images: {file} cannot be read ({error}); save plain arrays, without objects."
        ) from error
    images = _one(file, arrays, IMAGE_KEYS)
    if file.suffix.lower() == ".npy" and len(files) == 1 and images.ndim in (4, 5) and separator is None:
        flat = images.reshape(-1, *images.shape[2:])
        return array_listing(flat, np.arange(len(images)).repeat(images.shape[1]), str(file))
    names = next((arrays[key] for key in NAME_KEYS if key in arrays), None)
    return array_listing(images, _one(file, arrays, LABEL_KEYS), str(file), names, separator)


def array_listing(
    images: Any,
    labels: Any,
    where: str,
    names: Sequence[Any] | None = None,
    separator: str | None = None,
) -> Listing:
    """Of arrays in memory, or on disk. names: of labels 0, 1, ...; separator: as array_file has it."""
    labels = np.asarray(labels)
    if separator is not None:
        classes = _several(len(images), labels, where, names, separator)
        return Listing([Stored(images, i, where) for i in range(len(images))], classes)
    if len(images) != len(labels) or labels.ndim != 1 or labels.dtype.kind not in "iuUS":
        raise DataError(
            f"images: {where} has {len(images)} images and labels {labels.dtype} {labels.shape}; expected a label, a "
            "whole number or a name, for each image."
        )
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if names is not None:
        if int(labels.max(initial=0)) >= len(names):
            raise DataError(
                f"images: {where} has the label {labels.max()}, and names of {len(names)} classes."
            )
        classes = [str(names[label]) for label in labels.tolist()]
    else:
        classes = [str(label) for label in labels.tolist()]
    return Listing([Stored(images, i, where) for i in range(len(images))], classes)


def indexable(data: Any) -> Found:
    """Anything with len(data) and data[i] → (image, label): a Pillow image or a uint8 array, and a number or a name.

    Where data.classes are names, as torchvision has them, they are those of the labels.
    """
    return Found(None, lambda: _listed(data))


def _listed(data: Any) -> Listing:
    names = getattr(data, "classes", None)
    labels = getattr(data, "targets", None)  # torchvision's: without decoding an image
    labels = [data[i][1] for i in range(len(data))] if labels is None else list(labels)
    if names is not None and all(isinstance(label, int | np.integer) for label in labels):
        outside = [
            f"element {i} has {label}" for i, label in enumerate(labels) if not 0 <= label < len(names)
        ]
        if outside:
            raise DataError(
                f"images: {type(data).__name__} has names of {len(names)} classes, and {shortened(outside)}; leave out "
                "what has no label."
            )
        labels = [names[label] for label in labels]
    where = type(data).__name__
    return Listing([Stored(_First(data), i, where) for i in range(len(labels))], [str(one) for one in labels])


def joined_labels(labels: Iterable[str], separator: str) -> str:
    """Several labels of an image as one class: sorted, each once."""
    return separator.join(sorted({label.strip() for label in labels} - {""}))


def _several(
    images: int, labels: np.ndarray, where: str, names: Sequence[Any] | None, separator: str
) -> list[str]:
    """The class of each image, of labels (images, labels)."""
    if labels.ndim != 2 or len(labels) != images or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"images: {where} has {images} images and labels {labels.dtype} {labels.shape}; expected 0 or 1 for each "
            "image and label, (images, labels). With one label an image, task=images."
        )
    known = (
        [str(number) for number in range(labels.shape[1])] if names is None else [str(name) for name in names]
    )
    if len(known) != labels.shape[1] or any(separator in name for name in known):
        raise DataError(
            f"images: {where} has labels {labels.shape} and names of {len(known)}; expected a name for each, without "
            f"{separator!r} in it."
        )
    return [joined_labels((known[i] for i in row.nonzero()[0]), separator) for row in labels]


class _First:
    """The images of an indexable of (image, label)."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Any:
        return self.data[index][0]


def _arrays(file: Path) -> dict[str, Any]:
    kind = file.suffix.lower()
    if kind == ".npy":
        return {"images": np.load(file, mmap_mode="r", allow_pickle=False)}
    if kind == ".npz":
        with np.load(file, allow_pickle=False) as found:
            return {key: found[key] for key in found.files}
    with safe_open(file, "numpy") as opened:
        keys = list(opened.keys())
        return {key: opened.get_slice(key) if key in IMAGE_KEYS else opened.get_tensor(key) for key in keys}


def _one(file: Path, arrays: dict[str, Any], keys: Sequence[str]) -> Any:
    found = next((arrays[key] for key in keys if key in arrays), None)
    if found is None:
        raise DataError(
            f"images: {file} has no {keys[0]}: expected an array called one of {', '.join(keys)}, got "
            f"{', '.join(arrays) or 'none'}."
        )
    return _Slices(found) if hasattr(found, "get_shape") else found


class _Slices:
    """A tensor of a safetensors file, read element by element."""

    def __init__(self, found: Any) -> None:
        self.found, self.shape = found, tuple(found.get_shape())
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Any:
        return self.found[index]
