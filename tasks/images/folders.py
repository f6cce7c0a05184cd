"""Images as files: class folders, with or without train, val and test above them, and tables of paths and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.errors import DataError, shortened
from tasks.images.arrays import ARRAYS, LABELS, array_file, joined_labels
from tasks.images.listing import PARTS, Found, Listing, joined, together

__all__ = ["class_folders", "find", "parts_of", "table"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
TABLES = (".csv", ".tsv")
NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
NOT_CLASSES = ("neo-cache",)  # what Neo itself writes into a folder of data
PATH_COLUMNS = ("path", "image", "filename", "file", "image_path", "file_name")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
PART_COLUMNS = ("split", "part", "partition")


def find(
    data: Path,
    path_column: str | None = None,
    label_column: str | None = None,
    separator: str | None = None,
) -> Found:
    """What there is in a folder, or in a file of a table or of arrays.

    A folder is read as class folders, <class>/<any name>.png, in folders below them too; or, where it has all of train,
    val and test (a folder, a table or arrays each), as those parts; or as its only table or arrays, where it has no
    folders but images/.

    separator: images have several labels each, which in a table lie between such separators and in arrays are 0 or 1
        (images, labels); the class of an image is then all of them, joined.

    Raises: DataError where nothing like that is there, a class is empty or in two parts, or a table cannot be read.
    """
    if data.is_dir():
        parts = _parts(data)
        if parts:
            return _joined(parts, path_column, label_column, separator)
        alone = _only_file(data)
        return class_folders(data) if alone is None else find(alone, path_column, label_column, separator)
    if not data.is_file():
        raise DataError(
            f"images: there is no {data}; name a folder of class folders, a table or arrays: data_dir=..."
        )
    kind = data.suffix.lower()
    if kind in TABLES:
        return table(data, path_column=path_column, label_column=label_column, separator=separator)
    if kind in ARRAYS:
        return array_file(data, separator)
    raise DataError(
        f"images: {data} is no folder, and none of {', '.join((*TABLES, *ARRAYS))}; name one of these: data_dir=..."
    )


def class_folders(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> Found:
    """Images folder/<class>/**/<any name>.png; hidden ones are left out. Links are followed."""
    places = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    places = [path for path in places if path.name not in NOT_CLASSES and wanted(path.name)]
    paths: list[Path] = []
    classes: list[str] = []
    empty = []
    for place in places:
        found = sorted(_images(place))
        paths += found
        classes += [place.name] * len(found)
        if not found:
            empty.append(place.name)
    if not paths or empty:
        what = f"no images in {shortened(empty)} of {folder}" if empty else f"{folder} holds no class folders"
        raise DataError(
            f"images: {what}; expected {folder}/<class>/<image>, with images of {', '.join(SUFFIXES)}. Move what is no "
            "class away."
        )
    return Found(paths, lambda: Listing(paths, classes))


def table(
    file: Path,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    folder: Path | None = None,
    separator: str | None = None,
) -> Found:
    """A .csv or .tsv with a header: a column of paths, one of labels, and where there is one, `split` with the parts.

    Paths are taken from `folder`, by default that of the table, or its images/.
    Raises: DataError for a column that is missing, a row without a label, images that are missing, a class in two
        parts.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"images: {file} cannot be read as a table ({error}); save it as UTF-8.") from error
    path_key = _column(file, header, "path", path_column, PATH_COLUMNS)
    label_key = _column(file, header, "label", label_column, LABEL_COLUMNS)
    part_key = next((name for name in header if name.lower() in PART_COLUMNS), None)

    bare = [f"row {number}" for number, row in enumerate(rows, 2) if not (row[path_key] and row[label_key])]
    if bare or not rows:
        what = f"{shortened(bare)} of {file} {'have' if len(bare) > 1 else 'has'} no path or no label"
        raise DataError(
            f"images: {what if rows else f'{file} has no rows'}; a row is an image with its class."
        )
    place = folder or file.parent
    paths = [place / row[path_key] for row in rows]
    if not paths[0].exists() and (place / "images" / rows[0][path_key]).exists():
        paths = [place / "images" / row[path_key] for row in rows]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"images: {len(missing)} of {len(paths)} images of {file} are not there: {shortened(missing)}. Paths are "
            f"relative to {place}."
        )
    labels = [row[label_key].strip() for row in rows]
    if separator is not None:
        labels = [joined_labels(one.split(separator), separator) for one in labels]
    every = Listing(paths, labels)
    files = [file, *paths]
    if part_key is None:
        return Found(files, lambda: every)
    own = [_part(file, number, row[part_key]) for number, row in enumerate(rows, 2)]
    every = together({part: every.rows([i for i, one in enumerate(own) if one == part]) for part in PARTS})
    return Found(files, lambda: every)


def parts_of(data: Path) -> Found | None:
    """What is in train, val and test of a folder; None where it has not all of them."""
    parts = _parts(data)
    return _joined(parts) if parts else None


def _joined(parts: dict[str, Path], *columns: str | None) -> Found:
    return joined({part: find(place, *columns) for part, place in parts.items()})


def _parts(data: Path) -> dict[str, Path]:
    """train, val and test of a folder, each a folder or else a file; {} where it has not all of them."""
    found = {}
    for part, names in NAMES.items():
        places = [data / name for name in names] + [
            data / f"{name}{suffix}" for name in names for suffix in (*TABLES, *ARRAYS)
        ]
        there = next((place for place in places if place.exists()), None)
        if there is not None:
            found[part] = there
    if "train" in found and "test" in found and "val" not in found:
        raise DataError(
            f"images: {data} has train and test, but no val; move some classes of train into {data}/val, for "
            "validation chooses by classes that nothing trains on."
        )
    return found if len(found) == len(PARTS) else {}


def _only_file(data: Path) -> Path | None:
    """The one table, or arrays, of a folder with no class folders."""
    folders = {path.name for path in data.iterdir() if path.is_dir() and not path.name.startswith(".")}
    files = [path for path in data.iterdir() if path.suffix.lower() in (*TABLES, *ARRAYS)]
    files = [path for path in files if path.name != LABELS]
    return files[0] if len(files) == 1 and folders <= {"images", *NOT_CLASSES} else None


def _images(place: Path) -> list[Path]:
    return [
        Path(folder, name)
        for folder, _, names in os.walk(place, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]


def _column(file: Path, header: list[str], what: str, named: str | None, usual: Sequence[str]) -> str:
    found = [name for name in header if name == named or (named is None and name.lower() in usual)]
    if not found:
        expected = repr(named) if named else f"one of {', '.join(usual)}"
        raise DataError(
            f"images: {file} has no {what} column: expected {expected} in its first line, got "
            f"{', '.join(header) or 'nothing'}. Name it by task.dataset.{what}_column=..."
        )
    return found[0]


def _part(file: Path, number: int, value: str | None) -> str:
    for part, names in NAMES.items():
        if (value or "").strip().lower() in names:
            return part
    raise DataError(f"images: row {number} of {file} is of the split {value!r}; expected train, val or test.")
