"""The MAML meta-gradient by learn2learn 0.2.0, with its own MAML class on a torch module."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from benchmarks.conv4 import Downsample, Readout, conv4_like
from tests.peers.build_learn2learn import UNAVAILABLE
from tests.peers.torch_reference import Task


def import_learn2learn() -> ModuleType:
    """learn2learn, or a skip of the calling test that says why it is not there.

    With NEO_REQUIRE_PEERS set, as in continuous integration, the test fails instead: parity must be shown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gym and learn2learn use what newer libraries deprecate
            import learn2learn
    except ImportError as error:
        why = UNAVAILABLE.read_text(encoding="utf-8").strip() if UNAVAILABLE.exists() else str(error)
        message = f"learn2learn 0.2.0 is not installed: {why}; run tests/peers/build_learn2learn.py"
        if os.environ.get("NEO_REQUIRE_PEERS"):
            pytest.fail(message)
        pytest.skip(message)
    return learn2learn


def meta_gradient(
    params: dict[str, torch.Tensor],
    tasks: Sequence[Task],
    inner_lr: float,
    inner_steps: int,
    first_order: bool,
    *,
    downsample: Downsample = "stride",
    readout: Readout = "mean",
) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
    """What torch_reference.meta_gradient returns for the same arguments, as learn2learn computes it.

    Skips the calling test where learn2learn is not installed.
    """
    learn2learn = import_learn2learn()
    model = conv4_like(params, tasks[0][0].shape[-1], downsample, readout)
    maml = learn2learn.algorithms.MAML(model, lr=inner_lr, first_order=first_order)
    losses, accuracies = [], []
    for support_x, support_y, query_x, query_y in tasks:
        learner = maml.clone()
        for _ in range(inner_steps):
            learner.adapt(F.cross_entropy(learner(support_x), support_y))
        logits = learner(query_x)
        losses.append(F.cross_entropy(logits, query_y))
        accuracies.append((logits.argmax(1) == query_y).double().mean().item())
    meta_loss = torch.stack(losses).mean()
    meta_loss.backward()
    grads = {name: param.grad for name, param in model.named_parameters()}
    return meta_loss.detach(), grads, sum(accuracies) / len(accuracies)
