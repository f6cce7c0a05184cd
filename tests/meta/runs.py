"""A run in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from meta.plots import canvas
from meta.run import Run


def train(config: DictConfig, folder: Path, **options: Any) -> dict[str, Any]:
    """Train in a folder, with pictures as PNG alone: PDF and SVG, of which tests/meta/test_plots.py and the commands'
    tests have an eye, would take another half a second a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "FORMATS", {"png": canvas.FORMATS["png"]})
        return Run(config, folder, **options).train()
