"""What a run will take, foretold from one dry task: memory and time of a meta-step by every estimator, and a choice."""

from meta.planning.foretelling import Plan, plan
from meta.planning.rows import Row, Segments
from meta.planning.settling import Choice, choose, settled, settled_as_before

__all__ = ["Choice", "Plan", "Row", "Segments", "choose", "plan", "settled", "settled_as_before"]
