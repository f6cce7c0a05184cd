"""Whether every contender computes what Neo computes, and how exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks import agreement
from benchmarks.contender import Contender
from benchmarks.settings import describe
from benchmarks.step import Arrays, Setting
from benchmarks.works import MetaModule, MetaStep, Work

__all__ = ["Judge", "smaller"]


def smaller(work: Work) -> Work:
    """What agreement is checked on: two tasks of a meta-batch tell as much as all, and float64 takes its time."""
    if isinstance(work, MetaModule):
        return replace(work, meta_batch=2)
    return replace(work, meta_batch=min(work.meta_batch, 2)) if isinstance(work, MetaStep) else work


class Judge:
    """Compares each contender's result with Neo's first.

    Args:
        work: made smaller here.
        problem: the file of the smaller work.
    """

    def __init__(self, work: Work, problem: Path) -> None:
        self.work, self.problem = smaller(work), problem
        self._expected: Arrays | None = None
        self._worst = 0.0

    def check(self, contender: Contender) -> float | None:
        """The contender's float32 error, where the work is compared in float64; None elsewhere.

        Leaves the contender built for the smaller problem. Raises: agreement.Disagreement.
        """
        setting = contender.spec.setting
        result = self._result(contender, setting, self.work.check_dtype)
        if self._expected is None:
            self._expected = result
        who = f"{self.work.name}: {contender.spec.peer} ({describe(setting)})"
        difference = agreement.check(who, result, "neo", self._expected, self.work.tolerance)
        self._worst = max(self._worst, difference)
        if self.work.check_dtype == "float32":
            return None
        return agreement.difference(self._result(contender, setting, "float32"), self._expected)

    def verdict(self) -> str:
        """A sentence for the report."""
        allowed = f"relative; at most {self.work.tolerance:g} is allowed"
        return f"In {self.work.check_dtype} the results agree to {self._worst:.1e} ({allowed})."

    def _result(self, contender: Contender, setting: Setting, dtype: str) -> Arrays:
        spec = contender.spec
        contender.build(
            spec._replace(
                work=self.work.fields(), problem=str(self.problem), setting={**setting, "dtype": dtype}
            )
        )
        return contender.check()
