"""Results that are finite and yet worth nothing: a loss that explodes, a score that guessing would reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meta.problems import metric_of

__all__ = ["LossWatch", "chance_warning"]

EXPLODED = 1e6  # times the loss before training
REMEDY = "a smaller optimizer.lr or algorithm.inner_lr may help, or optimizer=adam with algorithm.inner_clip"


class LossWatch:
    """Tells once when the training loss has become EXPLODED times what it was before training.

    Args:
        before: the loss of the initial meta-parameters; of a negative one, a log-likelihood's, the size counts. One
            task's is enough: tasks differ by a hundredfold at most, say sinusoids of amplitude 0.5 and 5.
    """

    def __init__(self, before: float) -> None:
        self.before, self._told = before, before == 0  # a loss of 0 tells nothing of the size of others

    def warning(self, step: int, loss: float) -> str | None:
        """What there is to say after this step, the first time that there is something."""
        if self._told or not loss > EXPLODED * abs(self.before):
            return None
        self._told = True
        return (
            f"step {step}: the training loss is {loss:.3g}, and was about {self.before:.3g} before training. The run "
            f"goes on, but has most likely diverged; {REMEDY}."
        )


def chance_warning(result: Mapping[str, Any], part: str = "test") -> str | None:
    """What there is to say of a result whose 95% interval does not lie on the better side of chance.

    result: of a run or an evaluation, with <part>/<metric>, <part>/ci95 and <part>/chance; None where nobody knows what
        guessing reaches.
    """
    metric, chance = metric_of(result), result.get(f"{part}/chance")
    if chance is None:
        return None
    score, ci95 = result[f"{part}/{metric.name}"], result[f"{part}/ci95"] or 0.0
    better = 1 if metric.higher_is_better else -1
    rounding = 1e-6 * abs(chance)  # scores are means in float32: always one class is not better than chance
    if score is not None and better * (score - chance) - ci95 > rounding:
        return None
    return (
        f"warning: this {metric.name} is no better than guessing, which reaches {metric.format(chance)}. Look at the "
        "learning curve: a loss that still falls asks for more trainer.iterations, one that does not for another "
        "algorithm.inner_lr or optimizer.lr."
    )
