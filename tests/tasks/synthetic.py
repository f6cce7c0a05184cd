"""Tiny synthetic Omniglots, as zips or folders, whole or damaged."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

HALVES = ("images_background", "images_evaluation")
# What tiny Omniglots hold: half → "Alphabet/character01"; two drawings of each.
TINY = {
    HALVES[0]: ["Greek/character01", "Greek/character02", "Latin/character01"],
    HALVES[1]: ["ULOG/character01"],
}


def png(seed: int, side: int = 105) -> bytes:
    """A one-bit PNG of paper (white) with a few strokes' worth of black pixels."""
    paper = np.random.default_rng(seed).random((side, side)) > 0.1
    buffer = io.BytesIO()
    Image.fromarray(paper).save(buffer, "PNG")
    return buffer.getvalue()


def entries(half: str, characters: list[str]) -> dict[str, bytes]:
    """path → PNG of two drawings of each character, named as the published archives name them."""
    return {
        f"{half}/{name}/{number:04}_{drawing:02}.png": png(100 * number + drawing)
        for number, name in enumerate(characters, start=1)
        for drawing in (1, 2)
    }


def write_zip(path: Path, content: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_folder(place: Path, content: Mapping[str, bytes]) -> None:
    for name, data in content.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
