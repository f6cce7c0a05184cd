"""What torch itself can do in bfloat16 on the processor at hand."""

from __future__ import annotations

import pytest
import torch

__all__ = ["needs_lstm"]


def _lstm_runs() -> bool:
    """oneDNN has no kernel for it on some processors."""
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.nn.LSTM(3, 5)(torch.zeros(2, 4, 3))
    except RuntimeError:
        return False
    return True


needs_lstm = pytest.mark.skipif(
    not _lstm_runs(), reason="torch's LSTM does not run under autocast to bfloat16 on this processor"
)
