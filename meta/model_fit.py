"""Whether model, algorithm and tasks fit together: asked where a first call has failed."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

import neo
from meta.learner import MetaLearner
from meta.problems import Problem, constant
from tasks import Batch, Task

__all__ = ["misfit", "unsuited"]

REMEDY = "Set these values to fit, or choose another model=..."


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
    """
    sets = (Batch, Task, type(task), type(task.support), type(task.query))
    if not isinstance(failure, AttributeError) or not isinstance(failure.obj, sets):
        return None
    algorithm, source = (
        OmegaConf.select(config, key) for key in ("algorithm._target_", "task.dataset._target_")
    )
    return (
        f"algorithm._target_={algorithm} does not go with the tasks of {source}: it needs .{failure.name} of "
        f"{type(failure.obj).__name__}, which has none. Choose another algorithm=... or task=..."
    )


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
