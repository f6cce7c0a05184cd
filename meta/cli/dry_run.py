"""scripts/train.py --dry-run: what a run would be, one meta-step of it, and nothing written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from tqdm import tqdm

from meta import run_summary
from meta.checkpoint import named_params
from meta.cli import folders, sweeps
from meta.cli.configs import composed
from meta.cli.overrides import ConfigError, value_of
from meta.distributed import launched
from meta.divergence import expect_finite_gradient
from meta.experiment import Experiment
from meta.planning import plan, settled
from meta.problems import constant
from meta.sizes import format_size
from meta.targets import expect_targets
from meta.trainer import State
from neo import pytree

__all__ = ["FLAG", "DryRun"]

FLAG = "--dry-run"
NO_LOGGER = "meta.loggers.Logger"  # logger=none
SHOWN = 24  # parameters that are told one by one
WRITTEN = (
    ".hydra/, record.json, train.log, metrics.jsonl, checkpoints/, plots/, test.safetensors, result.json"
)


class DryRun:
    """job and before of a command (meta.cli.command.run).

    expect_free: raises where a folder cannot be a new run's.
    """

    def __init__(self, expect_free: Callable[[Path], None]) -> None:
        self.expect_free, self.folder = expect_free, Path()

    def before(self, config_name: str, overrides: Sequence[Override], sweeping: bool) -> Sequence[str]:
        """Note where the run would write, and have hydra write nothing."""
        if sweeping or launched(os.environ).size > 1:
            raise ConfigError(f"{FLAG} looks at one run in one process; leave -m and torchrun out.")
        if value_of(overrides, "resume") is not None:
            raise ConfigError(f"{FLAG} is of a run that is to begin; leave resume out.")
        sweeps.expect_no_sweep(overrides)
        config = composed(config_name, [one.input_line or "" for one in overrides], with_hydra=True)
        expect_targets(config)
        self.folder = Path(str(config.hydra.run.dir))
        self.expect_free(self.folder)
        return "hydra.run.dir=.", folders.QUIET, "hydra/job_logging=stdout"

    def job(self, config: DictConfig) -> None:
        config, chosen = settled(config)
        named = _loggers(config)
        config = config.copy()
        config.logger = None  # whose summary would ask a logger that has not been started
        experiment = Experiment(config)
        samplers = {part: experiment.sampler(part) for part in ("train", "val", "test")}
        state = experiment.start()
        print(run_summary.summary(experiment, state, self.folder, resumed=False))
        print(f"writes  {WRITTEN}; checkpoints of {format_size(_size(state))} each" + named)
        if chosen:
            print(chosen)
        print("\n" + _parameters(state) + "\n", flush=True)
        experiment.expect_adaptation(state, samplers["val"])
        print(_step(experiment, state, samplers["train"]), flush=True)
        print(_cost(config))
        print("dry run: nothing was written.")


def _step(experiment: Experiment, state: State, sampler: Any) -> str:
    """Take the first meta-step; what came of it."""
    trainer = experiment.trainer
    batch = trainer.batch(state)
    began = time.monotonic()
    _, found = next(trainer.steps(sampler, state, batch))
    expect_finite_gradient(1, found, batch, state.params, state.state, sampler)
    metric = experiment.problem.metric
    gradients: list[Any] = [constant(leaf) for leaf in pytree.leaves(found.gradient)]
    norm = sum(float(leaf.double().square().sum()) for leaf in gradients) ** 0.5
    return (
        f"step 1  loss {float(found.loss.mean()):.4g}, {metric.name} {metric.format(float(found.score.mean()))}, norm "
        f"of the meta-gradient {norm:.3g}; {time.monotonic() - began:.3g} s, the first"
    )


def _cost(config: DictConfig) -> str:
    try:
        found = plan(config, own_only=True)
    except ValueError as error:  # a system that does not tell what a process takes
        return f"cost    unknown: {error}"
    seconds, iterations = found.seconds(), int(config.trainer.iterations)
    return (
        f"cost    {seconds:.3g} s a step and {tqdm.format_interval(seconds * iterations)} for {iterations} steps, "
        f"without validation and test; peak memory {format_size(found.peak())}. In parts: scripts/plan.py"
    )


def _parameters(state: State) -> str:
    named, _ = named_params(state.params)
    lines = [
        (name, str(tuple(leaf.shape)), str(leaf.dtype).partition(".")[2]) for name, leaf in named.items()
    ]
    left_out = len(lines) - SHOWN
    width = max((len(name) for name, _, _ in lines[:SHOWN]), default=0)
    told = [f"  {name:<{width}}  {dtype} {shape}" for name, shape, dtype in lines[:SHOWN]]
    return "\n".join(["meta-parameters", *told, *([f"  and {left_out} more"] if left_out > 0 else [])])


def _loggers(config: DictConfig) -> str:
    nodes = {key: node for key, node in (config.logger or {}).items() if node is not None}
    targets = [config.logger._target_] if "_target_" in nodes else [node._target_ for node in nodes.values()]
    named = [target for target in targets if target != NO_LOGGER]
    return f"; logged by {', '.join(named)}" if named else ""


def _size(state: State) -> int:
    leaves = [
        leaf for leaf in pytree.leaves((state.params, state.optimizer, state.state)) if hasattr(leaf, "numel")
    ]
    return sum(leaf.numel() * leaf.dtype.itemsize for leaf in leaves)
