"""From a configuration to the objects that it names, and to the protocol that a published number must come with."""

from __future__ import annotations

import platform
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from meta.algorithms import MetaLearner
from meta.divergence import expect_finite_results
from meta.evaluate import Evaluation, evaluate
from meta.loggers import Logger
from meta.parallel import Workers
from meta.trainer import Trainer
from neo.typing import Params
from tasks import CharacterSet, EpisodeSampler

__all__ = ["Experiment", "resolve_device", "versions"]


class Experiment:
    """What conf/train.yaml describes, built when first asked for.

    Raises: what the named classes raise for a value out of its range; see resolve_device.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        if config.evaluation.batch_norm != "batch":
            raise ValueError(
                f"evaluation.batch_norm={config.evaluation.batch_norm!r} is no policy that there is; expected 'batch' "
                "(the statistics of the images at hand)."
            )

    @cached_property
    def dataset(self) -> CharacterSet:
        return build(self.config.task.dataset)

    @cached_property
    def learner(self) -> MetaLearner:
        learner: MetaLearner = build(self.config.algorithm, model=build(self.config.model))
        learner.workers = Workers(resolve_workers(self.config.workers, self.device))
        return learner

    @cached_property
    def trainer(self) -> Trainer:
        return build(self.config.trainer)(self.learner, build(self.config.optimizer))

    @cached_property
    def logger(self) -> Logger:
        return build(self.config.logger)

    def sampler(self, part: str) -> EpisodeSampler:
        """The tasks of "train" (by task.seed), or of "val" and "test" (by evaluation.seed, the same for every run)."""
        task, training = self.config.task, part == "train"
        return self.dataset.sampler(
            part,
            ways=task.ways,
            shots=task.shots,
            queries=task.queries,
            seed=task.seed if training else self.config.evaluation.seed,
            rotations=task.rotations if training else task.test_rotations,
            device=self.device,
        )

    def evaluate(self, params: Params, sampler: EpisodeSampler, tasks: int) -> Evaluation:
        """Results on the first tasks of a sampler. Raises: TrainingError where adapting to one of them breaks down."""
        evaluation, steps = self.config.evaluation, self.config.evaluation.inner_steps
        results = evaluate(self.learner, params, sampler, tasks, steps=steps, batch=evaluation.batch)
        expect_finite_results(
            getattr(sampler, "part", "held-out"), results, self.learner, params, sampler, steps
        )
        return results

    def protocol(self) -> dict[str, Any]:
        """How the numbers of this run came about, as plain numbers and strings."""
        protocol = OmegaConf.to_container(self.config.protocol, resolve=True)
        assert isinstance(protocol, dict)
        return {str(key): value for key, value in protocol.items()} | {
            "dataset": self.dataset.name,
            "split": self.dataset.split,
        }

    def about(self) -> dict[str, Any]:
        """What a checkpoint says of the run that it is of."""
        return {
            "config": OmegaConf.to_container(self.config, resolve=True),
            "composed": OmegaConf.to_container(
                self.config, resolve=False
            ),  # references kept, so that values can change
            "seeds": {
                "seed": self.config.seed,
                "task": self.config.task.seed,
                "evaluation": self.config.evaluation.seed,
            },
            "data": self.dataset.describe(),
            "versions": versions(),
        }


def build(node: DictConfig, **arguments: Any) -> Any:
    """The object that a config node names by _target_. Raises: what its constructor raised, unwrapped."""
    try:
        return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


def resolve_device(device: str) -> torch.device:
    """auto, cpu, cuda or cuda:1 → the device. Raises: ValueError where there is no such device here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device} is no device; choose device=auto, cpu or cuda.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={device} was asked for, but torch {torch.__version__} finds {torch.cuda.device_count()} CUDA "
            "devices here; choose device=cpu or device=auto, or install a CUDA build of torch."
        )
    return chosen


def resolve_workers(workers: int | str, device: torch.device) -> int | None:
    """How many threads tasks run on; None on a GPU, where kernels queue up anyway.

    Raises: ValueError for what is neither auto nor a number of threads.
    """
    if workers != "auto" and not (isinstance(workers, int) and workers >= 1):
        raise ValueError(f"workers={workers} is no number of threads; choose workers=auto or workers ≥ 1.")
    if device.type != "cpu":
        return None
    return torch.get_num_threads() if workers == "auto" else int(workers)


def device_name(device: torch.device) -> str:
    """What a result says of the machine: the GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    try:
        neo = version("neo-meta")
    except PackageNotFoundError:  # a checkout that is not installed
        neo = "checkout"
    return {
        "neo": neo,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
