"""Character sets to test with: generated ones and tiny synthetic Omniglots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tasks
from tests.tasks.synthetic import HALVES, TINY, entries, write_zip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Writes the two zips of a tiny Omniglot into a folder, and makes tasks.omniglot expect no more than that."""
    monkeypatch.setattr("tasks.omniglot.CHARACTERS", {half: len(names) for half, names in TINY.items()})
    monkeypatch.setattr("tasks.omniglot.IMAGES_PER_CLASS", 2)

    def write(place: Path) -> Path:
        for half in HALVES:
            write_zip(place / f"{half}.zip", entries(half, TINY[half]))
        return place

    return write


@pytest.fixture(scope="session")
def glyphs() -> tasks.Glyphs:
    """A small family: 12 training, 6 validation and 6 test characters of 20 images."""
    return tasks.Glyphs(alphabets=4, characters=6)
