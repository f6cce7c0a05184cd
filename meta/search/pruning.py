"""What a trial's process tells the study at each validation, and whether the study's pruner wants it to go on.

All that training knows of Optuna: a function of a step and a score, which gives a reason to stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["reporter"]

log = logging.getLogger(__name__)


def reporter(settings: Mapping[str, Any]) -> Callable[[int, float], str | None]:
    """For the trial that settings tell of, those of hydra.sweeper; for any other run what never stops it.

    The trial may be in any process on any machine that reaches the storage. Where the storage fails, the run goes on.
    """
    number = settings.get("trial")
    if number is None or list(settings["objectives"]) != [
        "score"
    ]:  # Optuna takes reports of one objective alone
        return lambda step, score: None
    trial = _trial(settings, int(number))
    reported = set(trial.study.trials[int(number)].intermediate_values)  # before it was killed and went on

    def report(step: int, score: float) -> str | None:
        try:
            if step not in reported:
                trial.report(score, step)
            if not trial.should_prune():
                return None
        except Exception as error:
            log.warning("trial %s could not report step %s: %s", number, step, " ".join(str(error).split()))
            return None
        return (
            f"stopped at step {step} by the {settings['pruner']} pruner: its validation score, {score:.4g}, falls "
            "behind the other trials'"
        )

    return report


def _trial(settings: Mapping[str, Any], number: int) -> Any:
    import optuna  # here, for most runs are no trials

    from meta.search.samplers import pruner
    from meta.search.study import storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name=settings["study_name"],
        storage=storage(settings["storage"]),
        pruner=pruner(settings["pruner"], settings["pruner_options"]),
    )
    return optuna.trial.Trial(study, study.trials[number]._trial_id)
