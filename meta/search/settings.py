"""What a search is told, looked at before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import FloatDistribution

from meta.cli.value_types import ConfigError, expect_type
from meta.experiment import build
from meta.search import objectives, samplers, space

__all__ = ["check", "looked_for"]

AT_LEAST = {"n_trials": 1, "n_jobs": 1, "max_failures": 1, "seed": 0}


def check(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Raise ConfigError, naming the setting, for a search that cannot be.

    Args:
        config: composed, with hydra's own part, from the overrides of one value.
        overrides: all of the command line.
    """
    settings = config.hydra.sweeper
    given = [
        one.input_line or "" for one in overrides if not one.key_or_group.startswith(("hydra.", "hydra/"))
    ]
    searched = space.read(given, settings.params or {}).distributions
    if not searched:
        raise ConfigError(
            "the search was given nothing to search over; give a range to some value, as "
            "'algorithm.inner_lr=tag(log, interval(0.01, 1))' or algorithm.inner_steps=1,5."
        )
    for key, one in searched.items():
        if isinstance(one, FloatDistribution):
            _expect_fractions(config, key, one)
    for key, least in AT_LEAST.items():
        value = settings[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"hydra.sweeper.{key}={value} must be an integer ≥ {least}.")
    wanted = list(settings.objectives)
    samplers.sampler(settings.sampler, settings.sampler_options, settings.seed, 0, len(wanted))
    samplers.pruner(settings.pruner, settings.pruner_options)
    if settings.pruner != "none" and not objectives.prunable(wanted):
        raise ConfigError(
            f"hydra.sweeper.pruner={settings.pruner} stops a trial by its validation score; it needs "
            f"hydra.sweeper.objectives=[score], got [{','.join(wanted)}]."
        )
    if config.trainer.get("patience"):
        raise ConfigError(
            f"trainer.patience={config.trainer.patience} stops runs without a result, which a search takes for no use; "
            "leave it out, and stop trials with hydra.sweeper.pruner=median."
        )
    if config.trainer.val_every == 0 and any(name == "score" or name.startswith("val/") for name in wanted):
        raise ConfigError(
            "the search looks for the best validation score, and trainer.val_every=0 leaves none; choose "
            "trainer.val_every ≥ 1."
        )


def _expect_fractions(config: DictConfig, key: str, given: FloatDistribution) -> None:
    """interval() has fractions between its ends, whatever these are."""
    try:
        if OmegaConf.select(config, key) is not None:
            expect_type(config, key, 0.5)
    except ConfigError:
        low, high = f"{given.low:g}", f"{given.high:g}"
        raise ConfigError(
            f"{key} takes no fractions, and interval({low}, {high}) has them; write int(interval({low}, {high}))."
        ) from None


def looked_for(config: DictConfig) -> list[str]:
    """The overrides that tell the search what its objectives are called, and their directions.

    Raises: ConfigError for an objective or a direction that cannot be.
    """
    settings = OmegaConf.to_container(config.hydra.sweeper)
    assert isinstance(settings, dict)
    metric = build(config.task.problem).metric
    ways = objectives.directions(settings["objectives"], settings["directions"], metric)
    called = objectives.names(settings["objectives"], metric)
    return [f"hydra.sweeper.directions=[{','.join(ways)}]", f"hydra.sweeper.names=[{','.join(called)}]"]
