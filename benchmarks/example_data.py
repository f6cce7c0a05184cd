"""The made-up data of docs/datasets.md: python -m benchmarks.example_data FOLDER

Leaves doses.csv (task=table), intents.csv (tokens), scenes/ (multi_label) and outlines/ (segmentation): the same bytes
at every call.
"""

from __future__ import annotations

import csv
import math
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 210, 40),
    "white": (240, 240, 240),
    "violet": (160, 60, 200),
}
KINDS = ("disc", "square", "triangle", "ring", "bar")
THINGS = [(colour, kind) for colour in COLOURS for kind in KINDS]
VERBS = (
    "play start hear",
    "stop halt end",
    "buy order purchase",
    "find search locate",
    "share send forward",
    "rate review score",
)
NOUNS = (
    "song track tune",
    "film movie video",
    "taxi cab ride",
    "meal dinner pizza",
    "book novel story",
    "mail message note",
)
FILLERS = (
    "please",
    "now",
    "could",
    "you",
    "i",
    "want",
    "to",
    "the",
    "a",
    "my",
    "me",
    "for",
    "today",
    "again",
    "quickly",
)


def doses(path: Path) -> None:
    """60 patients of 25 rows: what a dose leaves in the blood, and what that does; each has a clearance of its own."""
    draw = random.Random(0)
    rows = []
    for patient in range(60):
        clearance, volume, strength = draw.uniform(0.1, 0.6), draw.uniform(5, 20), draw.uniform(0.5, 2)
        for _ in range(25):
            dose, hours = draw.uniform(10, 100), draw.uniform(0.5, 12)
            left = dose / volume * math.exp(-clearance * hours)
            effect = strength * left / (left + 1)
            rows.append([f"p{patient:02}", round(dose, 2), round(hours, 3), round(left, 4), round(effect, 4)])
    _write(path, ["patient", "dose_mg", "hours", "concentration", "effect"], rows)


def intents(path: Path) -> None:
    """36 classes of 30 sentences: one of three verbs and one of three nouns for each, among other words."""
    draw = random.Random(0)
    rows = []
    for verbs in VERBS:
        for nouns in NOUNS:
            for _ in range(30):
                words = draw.sample(FILLERS, draw.randint(2, 6))
                words += [draw.choice(verbs.split()), draw.choice(nouns.split())]
                draw.shuffle(words)
                rows.append([" ".join(words), f"{verbs.split()[0]} {nouns.split()[0]}"])
    _write(path, ["text", "label"], rows)


def scenes(folder: Path) -> None:
    """1,500 images of 24x24 with one to three of 30 things; scenes.csv says which."""
    draw = random.Random(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(1500):
        image = _ground(draw, 24)
        own = draw.sample(THINGS, draw.choice([1, 2, 2, 3]))
        corners = draw.sample([(1, 1), (12, 1), (1, 12), (12, 12)], len(own))
        for (colour, kind), corner in zip(own, corners, strict=True):
            _thing(image, kind, COLOURS[colour], corner, draw.randint(8, 10))
        image.save(folder / "images" / f"{number:04}.png")
        rows.append([f"{number:04}.png", ";".join(" ".join(thing) for thing in own)])
    _write(folder / "scenes.csv", ["path", "label"], rows)


def outlines(folder: Path) -> None:
    """30 classes of 20 images of 32x32 with three things, and a mask of the one that is of the class."""
    draw = random.Random(1)
    for colour, kind in THINGS:
        place = folder / f"{colour} {kind}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(20):
            image, mask = _ground(draw, 32), Image.new("L", (32, 32))
            corners = draw.sample([(1, 1), (16, 1), (1, 16), (16, 16)], 3)
            others = draw.sample([thing for thing in THINGS if thing[0] != colour], 2)
            for (other, shape), corner in zip(others, corners[1:], strict=True):
                _thing(image, shape, COLOURS[other], corner, draw.randint(9, 13))
            size = draw.randint(9, 13)
            _thing(image, kind, COLOURS[colour], corners[0], size)
            _thing(mask, kind, 255, corners[0], size)
            image.save(place / f"{number}.bmp")
            mask.save(place / f"{number}.png")


def _ground(draw: random.Random, side: int) -> Image.Image:
    dark = [draw.randint(0, 60) for _ in range(3)]
    return Image.new("RGB", (side, side), (dark[0], dark[1], dark[2]))


def _thing(
    image: Image.Image, kind: str, colour: tuple[int, ...] | int, corner: tuple[int, int], size: int
) -> None:
    (x, y), on = corner, ImageDraw.Draw(image)
    box = [x, y, x + size, y + size]
    if kind == "disc":
        on.ellipse(box, fill=colour)
    elif kind == "square":
        on.rectangle(box, fill=colour)
    elif kind == "triangle":
        on.polygon([(x, y + size), (x + size, y + size), (x + size / 2, y)], fill=colour)
    elif kind == "ring":
        on.ellipse(box, outline=colour, width=2)
    else:
        on.rectangle([x, y + size / 3, x + size, y + 2 * size / 3], fill=colour)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.example_data FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    doses(folder / "doses.csv")
    intents(folder / "intents.csv")
    scenes(folder / "scenes")
    outlines(folder / "outlines")


if __name__ == "__main__":
    main()
