"""Where the code of a module asks whether something is a torch.Tensor, which Neo's tensors are not."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import torch

__all__ = ["tensor_questions"]

_ASKS = re.compile(
    r"isinstance\(.*\bTensor\b|\bis_tensor\(|\btype\(.*\)\s*(?:is|==|in)\b.*\bTensor\b|hasattr\(.*['\"](?:grad_fn|requires_grad|data_ptr)"
)
_ANSWERED = re.compile(r"LiteTensor|is_tensor_like")


def tensor_questions(module: torch.nn.Module) -> list[str]:
    """The lines of its classes and bases, torch's left out: "net.py:12: if torch.is_tensor(x):"; [] without source."""
    found = []
    for kind in dict.fromkeys(base for part in module.modules() for base in type(part).__mro__):
        if kind.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        try:
            lines, first = inspect.getsourcelines(kind)
            file = Path(inspect.getsourcefile(kind) or "").name
        except (OSError, TypeError):  # typed into a console, say
            continue
        found += [
            f"{file}:{first + i}: {line.strip()}"
            for i, line in enumerate(lines)
            if _ASKS.search(line) and not _ANSWERED.search(line)
        ]
    return found
