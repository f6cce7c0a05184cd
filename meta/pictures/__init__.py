"""Test tasks and what the adapted model made of them, one picture a family of tasks (config: task.picture)."""

from meta.pictures.families import Picture, characters, completions, distilled, fits, images, paths, waves
from meta.pictures.shapes import labelled, masks, predictions, sequences

__all__ = [
    "Picture",
    "characters",
    "completions",
    "distilled",
    "fits",
    "images",
    "labelled",
    "masks",
    "paths",
    "predictions",
    "sequences",
    "waves",
]
