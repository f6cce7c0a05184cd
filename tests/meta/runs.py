"""A run in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from meta.run import Run


def train(config: DictConfig, folder: Path, **options: Any) -> dict[str, Any]:
    return Run(config, folder, **options).train()
