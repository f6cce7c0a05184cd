"""A finished run, in a script or notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from meta import checkpoint
from meta.checkpoint import CheckpointError, Checkpoints
from meta.experiment import Experiment
from meta.resume import expect_own
from meta.trained import Trained

__all__ = ["load"]


def load(run_dir: str | Path, which: str = "best", device: str | None = None) -> Trained:
    """What a run has learned: Trained(learner, params, state, config), of which adapt(support) gives a predictor.

        trained = meta.load("outputs/2026-01-31/12-00-00")
        predictor = trained.adapt(task.support)
        prediction = predictor(task.query.x)

    Args:
        run_dir: the run's folder. What its configuration names must be importable, as when it was trained.
        which: "best" (by validation), "last", or "ensemble": the trainer.keep_best best by validation, whose
            predictions are averaged, see meta.ensemble.
        device: None for the one that the run's configuration names.
    Raises: CheckpointError where there is no such checkpoint, or it is damaged, of another format, or of another run
        than the folder's other files; ValueError for another `which`, and what the configured model and algorithm
        raise.
    """
    paths = checkpoint_paths(Path(run_dir), which)
    for path in paths:
        expect_own(Path(run_dir), path)
    config = OmegaConf.create(checkpoint.read_header(paths[0])["composed"])
    assert isinstance(config, DictConfig)
    if device is not None:
        config.device = device
    experiment = Experiment(config)
    return loaded(experiment, paths, which)


def loaded(experiment: Experiment, paths: Sequence[Path], which: str) -> Trained:
    """What the checkpoints of a run hold, of which checkpoint_paths() gave the paths."""
    like = experiment.trainer.start(experiment.device)
    states = [checkpoint.load(path, like) for path in paths]
    return experiment.ensemble(states) if which == "ensemble" else experiment.trained(states[0])


def checkpoint_paths(folder: Path, which: str) -> list[Path]:
    """The checkpoints of a run that `which` names, the best first: one, or several of an ensemble.

    Raises: ValueError, CheckpointError as load() has them.
    """
    if which not in ("last", "best", "ensemble"):
        raise ValueError(
            f"unknown checkpoint={which!r}; expected 'last', 'best' (by validation), or 'ensemble' (of the best)."
        )
    folder = folder / "checkpoints"
    if which == "last":
        return [Checkpoints(folder).last()]
    best = Checkpoints(folder).best()
    if best is None:
        Checkpoints(folder).last()  # where there is none at all, it says so
        raise CheckpointError(
            f"{folder} holds no best checkpoint: no validation ran. Use the last one, checkpoint=last "
            '(in Python, which="last").'
        )
    if which == "best":
        return [best]
    trainer = checkpoint.read_header(best)["config"]["trainer"]
    members = Checkpoints(folder, **{key: trainer[key] for key in ("keep_best",) if key in trainer}).ranked()
    if not members:
        raise CheckpointError(
            f"{folder} holds no checkpoints for an ensemble, the run had trainer.keep_best=0. Use the best "
            'one, checkpoint=best (in Python, which="best").'
        )
    return members
