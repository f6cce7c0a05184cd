"""search.json in a search's folder: what it has found so far, for a report; and the same in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from meta.files import write_json
from meta.metrics_file import plain
from meta.report.searches import SEARCH
from meta.search.space import described as settings

__all__ = ["described", "sentence", "write"]

WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}


def write(folder: Path, study: optuna.Study, names: Sequence[str]) -> None:
    """Trials by the names of their folders; best has one, or with several objectives the Pareto front."""
    directions = [direction.name.lower() for direction in study.directions]
    content = {
        "study": study.study_name,
        "objectives": [{"name": name, "direction": way} for name, way in zip(names, directions, strict=True)],
        "trials": {
            str(trial.number): {
                "state": WORDS.get(trial.state, "unfinished"),
                "params": trial.params,
                "values": trial.values if trial.state == TrialState.COMPLETE else None,
            }
            for trial in study.trials
        },
        "best": [str(trial.number) for trial in _best(study)],
    }
    write_json(folder / SEARCH, plain(content))


def described(trial: FrozenTrial, names: Sequence[str]) -> str:
    """ "accuracy 0.91 with algorithm.inner_lr=0.2"; of one without values, why."""
    said = str(trial.user_attrs.get("reason", ""))
    if trial.state == TrialState.COMPLETE:
        said = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, trial.values, strict=True))
    elif trial.state == TrialState.FAIL:
        said = f"failed: {said}"
    return f"{said} with {settings(trial.params, trial.params)}"


def sentence(study: optuna.Study, names: Sequence[str]) -> str:
    count = Counter(WORDS.get(trial.state, "unfinished") for trial in study.trials)
    said = f"study {study.study_name}: " + ", ".join(f"{number} {word}" for word, number in count.items())
    best = _best(study)
    if not best:
        return f"{said}; none has a result"
    which = "Pareto front" if len(names) > 1 else "best"
    return f"{said}; {which}: " + "; ".join(f"trial {one.number}, {described(one, names)}" for one in best)


def _best(study: optuna.Study) -> list[FrozenTrial]:
    if not any(trial.state == TrialState.COMPLETE for trial in study.trials):
        return []
    return study.best_trials if len(study.directions) > 1 else [study.best_trial]
