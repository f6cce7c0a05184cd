"""When numbers stop being numbers: a run ends at once, and says where it happened.

Looking costs one pass over losses and gradients. Only when something is found, the step is run again in pieces, from
the same parameters and tasks, to find the place.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

import neo
from meta.evaluate import Evaluation, Sampler
from meta.learner import Predictor, as_predictor
from meta.meta_batch import MetaBatch, MetaGradient
from meta.trained import Trained
from neo import LiteTensor, pytree
from neo.typing import PyTree

__all__ = ["TrainingError", "expect_finite_gradient", "expect_finite_results", "expect_finite_state"]

REMEDY = "try a smaller algorithm.inner_lr or optimizer.lr, or fewer inner steps"
BAD = "has entries that are NaN or infinite"
LONGEST_SEARCH = 1000  # inner steps


class TrainingError(RuntimeError):
    """The numbers stopped being numbers; the message names step, task and parameter, and what to try."""


def expect_finite_gradient(
    step: int, gradient: MetaGradient, batch: MetaBatch, params: PyTree, state: PyTree, sampler: Sampler
) -> None:
    """Raise TrainingError unless every task's loss and every entry of the meta-gradient is finite.

    Args:
        step: the meta-update, from 1; its tasks are those of iteration step − 1.
        batch: which took the gradient.
        params, state: those that it was taken at.
    """
    finite = torch.isfinite(gradient.loss)
    name = _bad_leaf(gradient.gradient)
    if bool(finite.all()) and name is None:
        return
    before = _bad_leaf(params)
    if before is not None:
        raise TrainingError(
            f"step {step}: the meta-parameter {before!r} {BAD} since the update before; {REMEDY}."
        )
    if not bool(finite.all()):
        slot = int(finite.to(torch.uint8).argmin())
        at = batch.step(step - 1, slot, state)
        support = sampler.sample(step - 1, [slot])[0].support

        def adapt(steps: int | None) -> Predictor:
            with neo.nn.draws(at.seed):
                return as_predictor(batch.learner.adapt(params, support, at.replace(inner_steps=steps)))

        raise TrainingError(
            f"step {step}: the query loss of task {slot} (iteration {step - 1}, slot {slot}) is "
            f"{float(gradient.loss[slot])}, expected a finite number{_inner_loop(adapt, None)}; {REMEDY}."
        )
    for slot in range(len(gradient.loss)):
        task = sampler.sample(step - 1, [slot])[0]
        alone = _bad_leaf(batch.alone(params, task, batch.step(step - 1, slot, state)).gradient)
        if alone is not None:
            where, name = f" of task {slot} (iteration {step - 1}, slot {slot})", alone
            break
    else:  # each is finite, their sum is not
        where = ""
    raise TrainingError(
        f"step {step}: the meta-gradient of {name!r}{where} {BAD}, while the losses are finite; {REMEDY}."
    )


def expect_finite_state(step: int, params: PyTree, optimizer: PyTree, state: PyTree) -> None:
    """Raise TrainingError unless all that a run carries on is finite: no other state is worth keeping."""
    for what, tree in (
        ("the meta-parameter", params),
        ("the optimiser's state", optimizer),
        ("the learner's state", state),
    ):
        name = _bad_leaf(tree)
        if name is not None:
            raise TrainingError(f"step {step}: after its update {what} {name!r} {BAD}; {REMEDY}.")


def expect_finite_results(
    what: str, results: Evaluation, trained: Trained, sampler: Sampler, steps: int | None
) -> None:
    """Raise TrainingError if adapting to a held-out task broke down: its score would mean nothing.

    Args:
        what: the tasks, "val" or "test".
        steps: inner steps; None for the algorithm's own.
    """
    finite = torch.isfinite(results.losses)
    if bool(finite.all()):
        return
    slot = int(finite.to(torch.uint8).argmin())
    support = sampler.sample(0, [slot])[0].support
    reason = _inner_loop(lambda steps: trained.adapt(support, steps, slot), steps)
    raise TrainingError(
        f"{what} task {slot} (iteration 0, slot {slot}): its query loss is {float(results.losses[slot])}, expected a "
        f"finite number{reason}; {REMEDY}."
    )


def _inner_loop(adapt: Callable[[int | None], Predictor], steps: int | None) -> str:
    """Where the inner loop of a task broke down, as the end of a sentence; nothing where no parameters adapt.

    adapt: the task's predictor after a number of inner steps, None for the algorithm's own.
    """
    found = adapt(steps)
    if found.params is None:
        return ""
    if _bad_leaf(found.params) is None:
        return ", though the adapted parameters are finite"
    for step in range(1, LONGEST_SEARCH + 1):
        name = _bad_leaf(adapt(step).params)
        if name is not None:
            return f": after inner step {step} the parameter {name!r} {BAD}"
    return f": the adapted parameters are not finite, after more than {LONGEST_SEARCH} inner steps"


def _bad_leaf(tree: PyTree) -> str | None:
    """The name of the first floating-point tensor with an entry that is NaN or infinite; None if there is none."""
    leaves, spec = pytree.flatten(tree)
    for path, leaf in zip(spec.paths(), leaves, strict=True):
        data = leaf.data if isinstance(leaf, LiteTensor) else leaf
        if (
            isinstance(data, torch.Tensor)
            and data.is_floating_point()
            and not bool(torch.isfinite(data).all())
        ) or (isinstance(data, float) and not math.isfinite(data)):
            return ".".join(map(str, path))
    return None
