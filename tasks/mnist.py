"""MNIST: 60,000 and 10,000 handwritten digits, 28x28. LeCun, Bottou, Bengio, Haffner 1998, Proc. IEEE 86:2278.

Read straight from the four idx files, gzipped or not; no torchvision unless they have to be downloaded.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from tasks._torchvision import import_torchvision
from tasks.download import downloading, move
from tasks.errors import DataError

__all__ = ["Digits", "load_mnist"]

PLACES = (Path("data"), Path("..") / "shared" / "data")  # searched where no data_dir is given
LAYOUTS = ("MNIST/raw", "mnist/MNIST/raw", "")  # of torchvision, beside other data, or the files alone
IMAGES, LABELS = 2051, 2049  # the idx magic numbers: uint8 with three axes, uint8 with one
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}


@dataclass(frozen=True)
class Digits:
    """x: (n, 784) float32 in [0, 1], strokes bright; y: (n,) int64 in [0, 10)."""

    x: torch.Tensor
    y: torch.Tensor

    def to(self, device: str | torch.device) -> Digits:
        return Digits(self.x.to(device), self.y.to(device))

    def __len__(self) -> int:
        return len(self.y)


def load_mnist(data_dir: str | Path | None = None) -> tuple[Digits, Digits]:
    """Training and test digits.

    Args:
        data_dir: folder with MNIST/raw/ (as torchvision has it), mnist/MNIST/raw/, or the files; downloaded into it
            where it has none. None searches data and ../shared/data, and downloads into data.
    Raises: DataError where the files are missing, and cannot be downloaded, or damaged.
    """
    places = PLACES if data_dir is None else (Path(data_dir),)
    raw = find(places)
    if raw is None:
        fetch(places[0])
        raw = find(places)
    if raw is None:
        raise DataError(_missing(places, "and a download did not bring them"))
    return _read(raw, "train"), _read(raw, "test")


def find(places: Sequence[Path]) -> Path | None:
    """The first folder with all four files; None if there is none."""
    names = [name for images, labels, _ in FILES.values() for name in (images, labels)]
    for place in places:
        for layout in LAYOUTS:
            if all(_file(place / layout, name) is not None for name in names):
                return place / layout
    return None


def fetch(data_dir: Path) -> None:
    """Download into data_dir/MNIST/raw with torchvision. Raises: DataError where that fails."""
    try:
        torchvision = import_torchvision()
    except ImportError as error:
        raise DataError(_missing([data_dir], "and torchvision is not installed to download them")) from error
    try:
        with downloading(data_dir) as folder:
            torchvision.datasets.MNIST(str(folder), download=True)
            for file in (folder / "MNIST" / "raw").iterdir():
                move(file, data_dir / "MNIST" / "raw" / file.name)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            _missing([data_dir], f"and the download failed ({' '.join(str(error).split())})")
        ) from error


def read_idx(path: Path, magic: int, axes: int) -> np.ndarray:
    """A uint8 array in idx format, gzipped if the name ends in .gz. Raises: DataError for any other content."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"MNIST: {path} cannot be read ({error}); delete it and get it again.") from error
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(
            f"MNIST: {path} has {len(content)} bytes, expected an idx header of {header}; get it again."
        )
    found, *shape = struct.unpack(f">{1 + axes}i", content[:header])
    if found != magic:
        raise DataError(f"MNIST: {path} begins with the number {found}, expected {magic}; get it again.")
    body = np.frombuffer(content, np.uint8, offset=header)
    if min(shape) < 0 or body.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"MNIST: {path} holds {body.size} bytes behind its header, which promises {' x '.join(map(str, shape))}; "
            "it is cut short or damaged, get it again."
        )
    return body.reshape(shape)


def _read(raw: Path, part: str) -> Digits:
    images_name, labels_name, count = FILES[part]
    images = read_idx(_existing(raw, images_name), IMAGES, 3)
    labels = read_idx(_existing(raw, labels_name), LABELS, 1)
    if images.shape != (count, 28, 28) or labels.shape != (count,) or labels.max() > 9:
        raise DataError(
            f"MNIST: {raw} has {part} images {images.shape} and labels {labels.shape} up to {labels.max()}, expected "
            f"({count}, 28, 28) and ({count},) up to 9; get the published files."
        )
    x = torch.from_numpy(images.reshape(count, -1).astype(np.float32) / 255)
    return Digits(x, torch.from_numpy(labels.astype(np.int64)))


def _file(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _existing(folder: Path, name: str) -> Path:
    path = _file(folder, name)
    if path is None:
        raise DataError(f"MNIST: {folder / name} is gone; get it again.")
    return path


def _missing(places: Sequence[Path], why: str) -> str:
    where = " or ".join(map(str, places))
    return (
        f"MNIST: no train-images-idx3-ubyte and its three companions in {where} (MNIST/raw, mnist/MNIST/raw), {why}; "
        "put them there, or give another data_dir."
    )
