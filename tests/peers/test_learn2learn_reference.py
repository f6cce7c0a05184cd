"""The two references agree: learn2learn's MAML, and double-backward written out in torch."""

import pytest
import torch

from benchmarks.conv4 import Conv4
from tests.peers import learn2learn_reference, torch_reference
from tests.peers.torch_reference import Task, relative_difference

WAYS, SHOTS, QUERIES, SIZE = 3, 2, 4, 32  # 2x2 pixels are left before the readout
INNER = {"inner_lr": 0.4, "inner_steps": 2}
ARCHITECTURES = [("stride", "mean"), ("stride", "flatten"), ("max_pool", "mean"), ("max_pool", "flatten")]


def draw_tasks(number: int, dtype: torch.dtype) -> list[Task]:
    """Tasks of uniform noise, each class a little brighter than the one before; the same at every call."""
    rng = torch.Generator().manual_seed(0)

    def draw(per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(WAYS).repeat_interleave(per_class)
        x = (
            torch.rand((len(y), 1, SIZE, SIZE), generator=rng, dtype=torch.float64)
            + 0.2 * y[:, None, None, None]
        )
        return x.to(dtype), y

    return [(*draw(SHOTS), *draw(QUERIES)) for _ in range(number)]


def draw_params(downsample: str, readout: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Parameters of a narrow Conv4, batch norm's included, none of them at its neutral value; always the same."""
    rng = torch.Generator().manual_seed(1)
    model = Conv4(image_size=SIZE, filters=8, ways=WAYS, downsample=downsample, readout=readout)
    scale = {name: 1.0 if name.startswith("norm") else 0.3 for name, _ in model.named_parameters()}
    centre = {name: float(name.startswith("norm") and name.endswith("weight")) for name in scale}
    return {
        name: (
            centre[name] + scale[name] * 0.5 * torch.randn(p.shape, generator=rng, dtype=torch.float64)
        ).to(dtype)
        for name, p in model.named_parameters()
    }


@pytest.mark.peers
@pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
@pytest.mark.parametrize(("downsample", "readout"), ARCHITECTURES)
def test_references_agree_in_float32(downsample, readout, first_order):
    params, tasks = draw_params(downsample, readout, torch.float32), draw_tasks(3, torch.float32)
    options = {"first_order": first_order, "downsample": downsample, "readout": readout}
    loss, grads, accuracy = torch_reference.meta_gradient(params, tasks, **INNER, **options)
    peer_loss, peer_grads, peer_accuracy = learn2learn_reference.meta_gradient(
        params, tasks, **INNER, **options
    )
    assert relative_difference(grads, peer_grads) < 1e-4
    torch.testing.assert_close(loss, peer_loss, rtol=1e-5, atol=0)
    assert accuracy == peer_accuracy


@pytest.mark.parametrize(("downsample", "readout"), ARCHITECTURES)
def test_torch_reference_first_order_differs_from_second(downsample, readout):
    params, tasks = draw_params(downsample, readout, torch.float64), draw_tasks(2, torch.float64)
    second, first = (
        torch_reference.meta_gradient(
            params, tasks, **INNER, first_order=order, downsample=downsample, readout=readout
        )
        for order in (False, True)
    )
    assert first[0] == second[0]  # the order changes the gradient, never the loss
    assert relative_difference(first[1], second[1]) > 1e-2


@pytest.mark.peers
def test_learn2learn_reference_first_order_differs_from_second():
    params, tasks = draw_params("stride", "mean", torch.float32), draw_tasks(2, torch.float32)
    _, second, _ = learn2learn_reference.meta_gradient(params, tasks, **INNER, first_order=False)
    _, first, _ = learn2learn_reference.meta_gradient(params, tasks, **INNER, first_order=True)
    assert relative_difference(first, second) > 1e-2


def test_torch_reference_matches_finite_differences_in_a_random_direction():
    params, tasks = draw_params("stride", "flatten", torch.float64), draw_tasks(2, torch.float64)
    rng = torch.Generator().manual_seed(2)
    direction = {name: torch.randn(p.shape, generator=rng, dtype=p.dtype) for name, p in params.items()}

    def loss(step: float) -> torch.Tensor:
        moved = {name: p + step * direction[name] for name, p in params.items()}
        return torch_reference.meta_gradient(moved, tasks, **INNER, first_order=False, readout="flatten")[0]

    _, grads, _ = torch_reference.meta_gradient(params, tasks, **INNER, first_order=False, readout="flatten")
    slope = sum((grads[name] * direction[name]).sum() for name in grads)
    step = 1e-8  # short: the inner gradient, and so the loss, jumps where a ReLU changes side
    torch.testing.assert_close(slope, (loss(step) - loss(-step)) / (2 * step), rtol=1e-5, atol=0)
