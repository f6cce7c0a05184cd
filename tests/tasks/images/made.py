"""The same small images as a folder, a table, arrays ... : a colour for each class, noise for each image."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"ant": 5, "bee": 4, "cat": 6, "dog": 4, "elk": 5, "fox": 4, "gnu": 7, "hen": 4, "ibis": 4, "jay": 5}
SPLIT = "[train]\nant\nbee\ncat\ndog\n[val]\nelk\nfox\n[test]\n# birds and all\ngnu\nhen\nibis\n"


def images(side: int = 12, channels: int = 3, counts: dict[str, int] = COUNTS) -> dict[str, list[np.ndarray]]:
    """Class → uint8 arrays (height, width, channels), or (height, width) of one channel."""
    generator = np.random.default_rng(0)
    found = {}
    for name, count in counts.items():
        colour = generator.integers(40, 216, channels)
        noise = generator.integers(-40, 40, (count, side, side, channels))
        found[name] = [np.squeeze((colour + one).astype(np.uint8)) for one in noise]
    return found


def as_folder(place: Path, found: dict[str, list[np.ndarray]], suffix: str = "png") -> Path:
    for name, arrays in found.items():
        (place / name).mkdir(parents=True)
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(place / name / f"{number:03}.{suffix}")
    return place


def as_table(place: Path, folder: Path, parts: dict[str, str] | None = None) -> Path:
    """A table of the images of a folder, in a random order; with parts, class → part, a column of those too."""
    rows = [(path.relative_to(place), path.parent.name) for path in sorted(folder.rglob("*.png"))]
    with (place / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "filename", *(["split"] if parts else [])])
        for i in np.random.default_rng(1).permutation(len(rows)):
            path, label = rows[i]
            writer.writerow([label, path, *([parts[label]] if parts else [])])
    return place / "images.csv"


def flat(found: dict[str, list[np.ndarray]]) -> tuple[np.ndarray, list[str]]:
    """All images (n, height, width, channels) with their labels, in a random order."""
    every = [(array, name) for name, arrays in found.items() for array in arrays]
    order = np.random.default_rng(2).permutation(len(every))
    return np.stack([every[i][0] for i in order]), [every[i][1] for i in order]
