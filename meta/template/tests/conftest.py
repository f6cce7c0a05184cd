from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eight classes of four small images: a colour each, with noise; sizes differ, and a class is grey."""
    generator = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "images" / f"class{number}"
        folder.mkdir(parents=True)
        colour = generator.integers(40, 216, 3)
        for copy in range(4):
            shape = (20 + 4 * copy, 30, 3)
            pixels = (colour + generator.integers(-40, 40, shape)).astype(np.uint8)
            picture = Image.fromarray(pixels)
            (picture.convert("L") if number == 0 else picture).save(folder / f"{copy}.png")
    return tmp_path / "images"
