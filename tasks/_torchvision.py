"""Importing torchvision where its compiled operators do not fit the installed torch.

The registry's torchvision wheel is built for CUDA. Over a CPU build of torch its own operators are not
loaded, and `import torchvision` stops at "operator torchvision::nms does not exist", although neither
`torchvision.datasets` nor `torchvision.transforms` needs an operator. Declaring the schemas of the two it
asks for lets the import pass.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """`import torchvision`, with the two schemas declared only if the import fails for want of them.

    Raises: ImportError where torchvision is not installed; whatever else its import raises.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]  # the half-imported pieces would not be run again
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", SCHEMA)
    return importlib.import_module("torchvision")
