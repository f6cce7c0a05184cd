"""The pictures of a run: its learning curve, and tasks with what the adapted model made of them.

Each is written as .png, .pdf and .svg of one name, text as text in the latter two; the same run gives the same bytes.
"""

from meta.plots.classification import tasks
from meta.plots.curves import inner_steps, learning_curve
from meta.plots.images import image_rows
from meta.plots.navigation import paths
from meta.plots.predictions import predictions
from meta.plots.protocols import protocols
from meta.plots.regression import fits
from meta.plots.texts import texts
from meta.plots.xray import xray

__all__ = [
    "fits",
    "image_rows",
    "inner_steps",
    "learning_curve",
    "paths",
    "predictions",
    "protocols",
    "tasks",
    "texts",
    "xray",
]
