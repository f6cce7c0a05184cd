"""Whether model, algorithm and tasks fit together: asked before training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

import neo
from meta.learner import MetaLearner, ModelPredictor, Unsuited
from meta.problems import Classification, Problem, constant
from tasks import Batch, Task

__all__ = ["Looking", "explained", "too_many_outputs"]

REMEDY = "Set these values to fit, or choose another model=..."


@contextmanager
def explained(
    learner: MetaLearner, problem: Problem, task: Callable[[], Any], config: DictConfig
) -> Iterator[None]:
    """What a learner raises on a task, said of what the user chose where that is why: algorithm and task, or the model.

    task: draws it again, to look at.
    """
    try:
        yield
    except Exception as error:
        found = task()
        reason = unsuited(found, config, error) or misfit(learner, problem, found, config, error)
        if reason is None:
            raise
        raise ValueError(reason) from error


def misfit(
    learner: MetaLearner, problem: Problem, task: Any, config: DictConfig, failure: Exception
) -> str | None:
    """Why the model alone, at its initial parameters, fails on a task's query set; None where it does not.

    Only for sets of examples with a target each (batch.x, batch.y), and learners that keep their model as `model`.

    Args:
        config: of the run, whose `model` is named with what it was set to.
        failure: what the learner raised. An error of another kind explains nothing: the learner may call its model
            with more than an input.
    """
    model, query = getattr(learner, "model", None), task.query
    if model is None or not (hasattr(query, "x") and hasattr(query, "y")):
        return None
    tensors = constant(query.x)
    try:
        with neo.nn.draws(0):
            params = model.init(seed=0, device=tensors.device)
            prediction = model(params, query.x)
    except type(failure) as error:
        return f"{_named(config)} cannot take the inputs of these tasks, {_shape(query.x)}: {_words(error)}. {REMEDY}"
    except Exception:
        return None
    try:
        problem.query_loss(lambda x: prediction, query)
    except type(failure) as error:
        return (
            f"{_named(config)} gives predictions {_shape(prediction)}, which do not fit the targets of these tasks, "
            f"{_shape(query.y)}: {_words(error)}. {REMEDY}"
        )
    except Exception:
        return None
    return None


def unsuited(task: Any, config: DictConfig, failure: Exception) -> str | None:
    """Why an algorithm and a family of tasks do not go together, where one asks for what the other does not have.

    An algorithm that learns images of its own, say, has none for tasks that are environments to act in.

    failure: what the learner raised: Unsuited where it knows itself, AttributeError where it does not.
    """
    sets = (Batch, Task, type(task), type(task.support), type(task.query))
    if isinstance(failure, Unsuited):
        reason = failure.reason
    elif isinstance(failure, AttributeError) and isinstance(failure.obj, sets):
        reason = f"it needs .{failure.name} of {type(failure.obj).__name__}, which has none"
    else:
        return None
    algorithm, source = (
        OmegaConf.select(config, key) for key in ("algorithm._target_", "task.dataset._target_")
    )
    return (
        f"algorithm._target_={algorithm} does not go with the tasks of {source}: {reason}. Choose another "
        "algorithm=... or task=..."
    )


class Looking:
    """A learner, which remembers the predictor that it adapted last."""

    def __init__(self, learner: MetaLearner) -> None:
        self.learner = learner
        self.predictor: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)

    def adapt(self, *arguments: Any) -> Any:
        self.predictor = found = self.learner.adapt(*arguments)
        return found


def too_many_outputs(
    predictor: Any, problem: Problem, task: Any, ways: int | None, config: DictConfig
) -> str | None:
    """Why a classifier's head does not fit, though its predictions can be scored: it has more outputs than classes.

    They would take their share of every softmax, and of a loss that is reduced by the number of outputs. None where it
    fits, and for a predictor that is no model's own prediction.

    Args:
        ways: of the training tasks; None where they have no number of their own.
    Cost: one prediction of a support set.
    """
    if ways is None or not isinstance(problem, Classification) or not isinstance(predictor, ModelPredictor):
        return None
    with neo.nn.draws(None):
        prediction = constant(predictor(task.support.x))
    if prediction.ndim != 2 or prediction.shape[1] <= ways:
        return None
    return (
        f"{_named(config)} has {prediction.shape[1]} outputs, and the tasks have {ways} classes: set its number of "
        f"outputs to {ways}, which a configuration says as ${{task.ways}}.{_of_a_module(config)}"
    )


def _of_a_module(config: DictConfig) -> str:
    """How a torch module is told its number of outputs."""
    if "module" not in config.model:
        return ""
    return " A module is told by an argument of its own: model.options.NAME='${task.ways}'."


def _named(config: DictConfig) -> str:
    node: Any = OmegaConf.to_container(config.model, resolve=True)
    settings = " ".join(
        f"model.{key}={json.dumps(value)}"
        for key, value in node.items()
        if key != "_target_" and not isinstance(value, dict)
    )
    return f"the model {node['_target_']} ({settings})"


def _shape(tensor: Any) -> str:
    return (
        f"{tuple(tensor.shape)} {constant(tensor).dtype}" if hasattr(tensor, "shape") else repr(type(tensor))
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
