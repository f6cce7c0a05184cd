"""What came of a trial, as its run's folder or its error tells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from meta.interruption import STOPPED
from meta.search import objectives

__all__ = ["Outcome", "of_error", "of_folder"]


@dataclass(frozen=True)
class Outcome:
    """state: COMPLETE with values, PRUNED or FAIL; None for a run that has not ended."""

    state: TrialState | None
    values: list[float] | None = None
    reason: str = ""


def of_folder(folder: Path, names: Sequence[str], directions: Sequence[str]) -> Outcome:
    if (folder / STOPPED).exists():
        told = json.loads((folder / STOPPED).read_text(encoding="utf-8"))
        return Outcome(TrialState.PRUNED, reason=told["reason"])
    if not (folder / "result.json").exists():
        return Outcome(None)
    try:
        return Outcome(TrialState.COMPLETE, objectives.values(folder, names, directions))
    except ValueError as error:
        return Outcome(TrialState.FAIL, reason=str(error))


def of_error(error: BaseException) -> Outcome:
    """A run that failed is a finding; one that another process still writes has not ended."""
    sentence = " ".join(str(error).split()) or type(error).__name__
    return Outcome(None if isinstance(error, BlockingIOError) else TrialState.FAIL, reason=sentence)
