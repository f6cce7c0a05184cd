"""A data source: images in class folders, read once; Neo draws the tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tasks import CharacterSet, DataError
from tasks.hashing import derive, stream

SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # Pillow's names of 8-bit images; it would clip 16-bit ones
NAMES_SHOWN = 5  # in an error


class ImageFolder(CharacterSet):
    """Images folder/<class>/<any name>.png or .jpg, of any size, in colour or grey; transparency is dropped.

    Args:
        folder: of the class folders; hidden ones are left out.
        size: pixels, height and width that images are scaled to.
        channels: 3 (colour) or 1 (grey), which images are converted to.
        images_per_class: the first so many by name are used, the others are not.
        val_classes, test_classes: how many classes validate and test, ≥ 1; the others train.
        seed: which classes these are.
    Raises: DataError naming the class with too few images, or the file that cannot be read.
    Cost: some milliseconds an image at every start; tasks.cache keeps what took longer.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        size: int = 32,
        channels: int = 3,
        images_per_class: int = 20,
        val_classes: int = 5,
        test_classes: int = 5,
        seed: int = 0,
    ) -> None:
        if channels not in (1, 3) or min(size, images_per_class, val_classes, test_classes) < 1:
            raise ValueError(
                "ImageFolder: channels must be 1 or 3, and size, images_per_class, val_classes, test_classes "
                f"1 or more; got {channels}, {size}, {images_per_class}, {val_classes}, {test_classes}."
            )
        files = class_files(Path(folder).expanduser(), images_per_class)
        images = [[read(path, size, channels) for path in paths] for paths in files.values()]
        names = list(files)
        super().__init__(
            "image_folder",
            f"val={val_classes},test={test_classes},seed={seed}",  # with the name, hashed to draw tasks
            torch.from_numpy(np.array(images)),
            names,
            split(names, val_classes, test_classes, seed),
            f"{images_per_class} images of each class in {folder}",
        )


def class_files(folder: Path, images_per_class: int) -> dict[str, list[Path]]:
    """Class → its first images_per_class files, both sorted by name. Raises: DataError where it has fewer."""
    if not folder.is_dir():
        raise DataError(f"ImageFolder: there is no folder {folder}; name the one of the classes: data_dir=")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"ImageFolder: {folder} holds no class folders; expected {folder}/<class>/<image>.")
    files = {path.name: [file for file in sorted(path.iterdir()) if is_image(file)] for path in classes}
    few = [f"{name} has {len(paths)}" for name, paths in files.items() if len(paths) < images_per_class]
    if few:
        more = f" and {len(few) - NAMES_SHOWN} more" if len(few) > NAMES_SHOWN else ""
        raise DataError(
            f"ImageFolder: {', '.join(few[:NAMES_SHOWN])}{more} of the images_per_class={images_per_class} "
            f"({', '.join(SUFFIXES)}) that are expected in each class folder of {folder}. Give a smaller "
            "task.dataset.images_per_class, or move these folders away."
        )
    return {name: paths[:images_per_class] for name, paths in files.items()}


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read(path: Path, size: int, channels: int) -> np.ndarray:
    """An image as (channels, size, size) uint8. Raises: DataError naming the file."""
    try:
        with Image.open(path) as image:
            image.verify()  # checksums, which decoding does not look at
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # what Pillow raises depends on where a file is damaged
        raise DataError(f"ImageFolder: {path} is damaged or no image ({error}); replace it.") from error
    if image.mode not in MODES:
        raise DataError(f"ImageFolder: {path} is of mode {image.mode}; save it as 8-bit RGB or grey.")
    converted = image.convert("RGB" if channels == 3 else "L").resize((size, size))
    return np.asarray(converted).reshape(size, size, channels).transpose(2, 0, 1)


def split(names: list[str], val: int, test: int, seed: int) -> dict[str, list[int]]:
    """Which classes train, validate and test: disjoint, a function of the number of classes and the seed."""
    if val + test >= len(names):
        raise DataError(
            f"ImageFolder: val_classes={val} and test_classes={test} leave none of {len(names)} classes to "
            "train on; choose smaller task.dataset.val_classes and task.dataset.test_classes."
        )
    key = stream("image_folder", seed)
    order = sorted(range(len(names)), key=lambda number: derive(key, number))
    return {
        "val": sorted(order[:val]),
        "test": sorted(order[val : val + test]),
        "train": sorted(order[val + test :]),
    }
