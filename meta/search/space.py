"""What a search may choose from: hydra's overrides as Optuna's distributions, and a proposal as overrides again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from meta.cli.value_types import ConfigError

__all__ = ["Space", "read"]


@dataclass(frozen=True)
class Space:
    """The searched keys, each with its distribution, and the overrides that every trial shares."""

    distributions: Mapping[str, BaseDistribution]
    keys: Mapping[str, str]  # name → as an override has it, with its + or ++
    fixed: Sequence[str]

    def propose(self, trial: Trial) -> list[str]:
        """A trial's overrides; what it has been given already stays as it is."""
        for name, distribution in self.distributions.items():
            _suggest(trial, name, distribution)
        chosen = [f"{self.keys[name]}={_as_override(trial.params[name])}" for name in self.distributions]
        return [*self.fixed, *chosen]


def read(arguments: Sequence[str], params: Mapping[str, Any]) -> Space:
    """The space of a command line.

    Args:
        arguments: its overrides; those of one value are the same in every trial.
        params: further keys with what they are searched over, as hydra.sweeper.params has them; arguments win.
    Raises: ConfigError naming the override that cannot be searched over.
    """
    parser = OverridesParser.create()
    further = [f"{key}={_as_override(value)}" for key, value in params.items()]
    given = {_name(override): override for override in parser.parse_overrides([*further, *arguments])}
    searched = {name: override for name, override in given.items() if override.is_sweep_override()}
    return Space(
        distributions={name: _distribution(override) for name, override in searched.items()},
        keys={name: override.get_key_element() for name, override in searched.items()},
        fixed=[override.input_line or "" for name, override in given.items() if name not in searched],
    )


def _name(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _distribution(override: Override) -> BaseDistribution:
    value = override.value()
    try:
        if isinstance(value, Glob):
            raise ValueError("a search takes no glob; list the choices with commas")
        if isinstance(value, ChoiceSweep):
            choices = [_choice(one) for one in value.list]
            return CategoricalDistribution(list(dict.fromkeys(choices)))
        if isinstance(value, RangeSweep):
            return _of_range(value)
        if isinstance(value, IntervalSweep):
            return _of_interval(value)
    except ValueError as error:
        raise ConfigError(
            f"{override.input_line} cannot be searched over: {str(error).rstrip('.')}."
        ) from error
    raise ConfigError(
        f"{override.input_line} cannot be searched over; expected choices a,b,c, range(start, stop, step), "
        "interval(low, high) or tag(log, interval(low, high))."
    )


def _of_range(value: RangeSweep) -> BaseDistribution:
    """Like hydra's own range it ends before its stop; in which order it is run through is the sampler's business."""
    steps = list(value.range())
    if not steps:
        raise ValueError("the range is empty")
    low, high, step = min(steps), max(steps), abs(value.step)
    if all(isinstance(one, int) for one in steps):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(float(low), float(high), step=float(step))


def _of_interval(value: IntervalSweep) -> BaseDistribution:
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    if unknown := value.tags - {"log"}:
        raise ValueError(
            f"the tag {', '.join(sorted(unknown))} is unknown; expected tag(log, interval(low, high))"
        )
    if low >= high:
        raise ValueError(f"expected interval(low, high) with low < high, got low {low} and high {high}")
    log = "log" in value.tags
    if log and low <= 0:
        raise ValueError(f"a logarithmic interval must begin above 0, got {low}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _suggest(trial: Trial, name: str, one: BaseDistribution) -> None:
    if isinstance(one, CategoricalDistribution):
        trial.suggest_categorical(name, one.choices)
    elif isinstance(one, IntDistribution):
        trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log)
    elif isinstance(one, FloatDistribution):
        trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)


def _choice(value: Any) -> str | int | float | bool:
    """Numbers as numbers, so that pictures of the study have an axis; the rest as an override is written."""
    return value if isinstance(value, bool | int | float) else str(Transformer.str(value))


def _as_override(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def described(params: Mapping[str, Any], names: Iterable[str]) -> str:
    """A proposal for people: "algorithm.inner_lr=0.21 algorithm.inner_steps=5"."""
    return " ".join(f"{name}={_as_override(params[name])}" for name in names if name in params)
