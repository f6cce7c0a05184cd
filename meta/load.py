"""A finished run, in a script or notebook."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from meta import checkpoint
from meta.checkpoint import CheckpointError, Checkpoints
from meta.experiment import Experiment
from meta.trained import Trained

__all__ = ["load"]


def load(run_dir: str | Path, which: str = "best", device: str | None = None) -> Trained:
    """What a run has learned: Trained(learner, params, state, config), of which adapt(support) gives a predictor.

        trained = meta.load("outputs/2026-01-31/12-00-00")
        predictor = trained.adapt(task.support)
        prediction = predictor(task.query.x)

    Args:
        run_dir: the run's folder. What its configuration names must be importable, as when it was trained.
        which: "best" (by validation) or "last".
        device: None for the one that the run's configuration names.
    Raises: CheckpointError where there is no such checkpoint, or it is damaged or of another format; ValueError for
        another `which`, and what the configured model and algorithm raise.
    """
    path = checkpoint_path(Path(run_dir), which)
    config = OmegaConf.create(checkpoint.read_header(path)["composed"])
    assert isinstance(config, DictConfig)
    if device is not None:
        config.device = device
    experiment = Experiment(config)
    return experiment.trained(checkpoint.load(path, experiment.trainer.start(experiment.device)))


def checkpoint_path(folder: Path, which: str) -> Path:
    """The checkpoint of a run that `which` names. Raises: ValueError, CheckpointError as load() has them."""
    if which not in ("last", "best"):
        raise ValueError(f"unknown checkpoint={which!r}; expected 'last' or 'best' (by validation).")
    checkpoints = Checkpoints(folder / "checkpoints")
    path = checkpoints.last() if which == "last" else checkpoints.best()
    if path is None:
        raise CheckpointError(
            f"{checkpoints.folder} holds no best checkpoint: no validation ran. Use the last one, checkpoint=last "
            '(in Python, which="last").'
        )
    return path
