"""TensorBoard: event files in the run's folder, by torch.utils.tensorboard."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from meta.loggers.logger import Logger
from meta.metrics_file import read_metrics
from meta.record import flat

__all__ = ["TensorBoard"]

FOLDER = "tensorboard"


class TensorBoard(Logger):
    """Event files in <run>/tensorboard: metrics, and at the end pictures, the result, and the configuration as hparams.

    What was logged has reached the system before the next step. A resumed run goes on in the same folder: TensorBoard
    drops what an earlier process logged after the checkpoint, so that no step is there twice.
    """

    name = extra = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None
        self._config: Mapping[str, Any] = {}
        self._folder = Path()

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._folder, self._config = folder / FOLDER, config
        logged = read_metrics(folder / "metrics.jsonl")
        after = logged[-1]["step"] if logged else 0
        self._writer = SummaryWriter(str(self._folder), purge_step=after + 1 if resumed else None)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```", after)
        self._writer.flush()

    def destination(self) -> str | None:
        return f"tensorboard --logdir {shlex.quote(str(self._folder.parent))}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        from torch.utils.tensorboard.summary import hparams

        step = result.get("iterations", 0)
        scores = {
            name: value
            for name, value in result.items()
            if name.startswith("test/") and isinstance(value, int | float)
        }
        for name, value in scores.items():
            self._writer.add_scalar(name, value, step)
        for name, path in pictures.items():
            with Image.open(path) as picture:
                pixels = numpy.asarray(picture.convert("RGB"))
            self._writer.add_image(name, pixels, step, dataformats="HWC")
        settings = {
            key: value if isinstance(value, bool | int | float) else str(value)
            for key, value in flat(self._config).items()
        }
        for summary in hparams(
            settings, scores
        ):  # in this file; add_hparams() would make a run of its own of it
            self._writer.file_writer.add_summary(summary)
        self.close()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
