"""The samplers and pruners of Optuna that a configuration names, and what each is told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from meta.cli.value_types import ConfigError
from meta.imports import expect_arguments

__all__ = ["pruner", "sampler"]

SAMPLERS = {
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    "qmc": "QMCSampler",
    "random": "RandomSampler",
    "tpe": "TPESampler",
}
PRUNERS = {
    "hyperband": "HyperbandPruner",
    "median": "MedianPruner",
    "none": "NopPruner",
    "percentile": "PercentilePruner",
    "successive_halving": "SuccessiveHalvingPruner",
    "threshold": "ThresholdPruner",
}
ONE_OBJECTIVE = ("cmaes",)


def sampler(name: str, options: Mapping[str, Any], seed: int, trial: int, objectives: int = 1) -> BaseSampler:
    """The sampler that proposes this trial, new for each.

    Its random draws are a function of seed and trial alone, and what it knows it reads from the study. So a search
    that was killed proposes what it would have proposed. Raises: ConfigError naming the setting.
    """
    built = _named(SAMPLERS, "sampler", name)
    if objectives > 1 and name in ONE_OBJECTIVE:
        others = ", ".join(sorted(set(SAMPLERS) - set(ONE_OBJECTIVE)))
        raise ConfigError(
            f"hydra.sweeper.sampler={name} knows one objective, and hydra.sweeper.objectives has {objectives}; choose "
            f"one of {others}."
        )
    drawn = int(numpy.random.SeedSequence([seed, trial]).generate_state(1)[0])
    if name == "qmc":  # one sequence, whose place the study knows; another seed would begin another
        settings = {"seed": seed, "independent_sampler": optuna.samplers.RandomSampler(drawn), **options}
    else:
        settings = {"seed": drawn, **options}
    found: BaseSampler = _built(built, "sampler", name, settings)
    return found


def pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """Raises: ConfigError naming the setting."""
    found: BasePruner = _built(_named(PRUNERS, "pruner", name), "pruner", name, options)
    return found


def _named(known: Mapping[str, str], kind: str, name: str) -> Any:
    if name not in known:
        raise ConfigError(f"unknown hydra.sweeper.{kind} {name!r}; expected one of {', '.join(known)}.")
    return getattr(optuna.samplers if kind == "sampler" else optuna.pruners, known[name])


def _built(target: Any, kind: str, name: str, settings: Mapping[str, Any]) -> Any:
    key = f"hydra.sweeper.{kind}_options"
    try:
        expect_arguments(target, (), settings, what=f"{kind} {name}", key=key)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # who names it wants it
            return target(**settings)
    except (TypeError, ValueError) as error:
        said = str(error)
        where = "" if key in said else f"hydra.sweeper.{kind}={name}: "
        raise ConfigError(f"{where}{said.rstrip('.')}.") from error
    except ImportError as error:
        raise ConfigError(f"hydra.sweeper.{kind}={name} needs a package: {error}. pip install it.") from error
