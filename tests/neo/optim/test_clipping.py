"""Clipping against torch.nn.utils, and differentiated, also at a gradient of zero."""

from __future__ import annotations

import pytest
import torch

import neo
from neo.optim import adam, clip_by_global_norm, clip_by_value, clipped, global_norm, sgd


def tree(scale: float = 1.0) -> dict:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in ((3, 4), (5,)))
    return {"a": neo.LiteTensor(a), "b": [neo.LiteTensor(b)]}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_equals_torchs(scale: float) -> None:
    grads = tree(scale)
    theirs = [torch.zeros(3, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)]

    def reset() -> None:
        for parameter, gradient in zip(theirs, (grads["a"], grads["b"][0]), strict=True):
            parameter.grad = gradient.data.clone()

    reset()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.7)
    got = clip_by_global_norm(grads, 0.7)
    torch.testing.assert_close(global_norm(grads).data, norm, rtol=1e-12, atol=0)
    torch.testing.assert_close(got["a"].data, theirs[0].grad, rtol=1e-12, atol=0)
    torch.testing.assert_close(got["b"][0].data, theirs[1].grad, rtol=1e-12, atol=0)
    reset()
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    got = clip_by_value(grads, 0.5)
    assert torch.equal(got["a"].data, theirs[0].grad)
    assert torch.equal(got["b"][0].data, theirs[1].grad)


def test_clipped_optimizer_steps_by_clipped_gradients() -> None:
    params, grads = tree(), tree(10.0)
    got, _ = clipped(sgd(0.1), norm=1.0, value=5.0).step(params, grads, None)
    expected, _ = sgd(0.1).step(params, clip_by_global_norm(clip_by_value(grads, 5.0), 1.0), None)
    assert torch.equal(got["a"].data, expected["a"].data)
    assert clipped(adam(0.1), norm=1.0).init(params).steps == 0


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_clipping_in_an_inner_loop_is_differentiable(scale: float) -> None:
    def after(theta, max_norm):
        optimizer = clipped(sgd(0.1), norm=max_norm)
        for _ in range(2):
            theta, _ = optimizer.step(theta, theta * theta * scale, None)
        return torch.sum(theta * theta)

    theta, norm = (neo.LiteTensor(value, dtype=torch.float64) for value in ([0.3, -1.2, 0.7], 0.5))
    assert neo.gradcheck(after, (theta, norm), order=2)


def test_gradient_of_zero_gives_no_nan() -> None:
    zero = neo.LiteTensor([0.0, 0.0], dtype=torch.float64)
    first = neo.grad(lambda g: torch.sum(clip_by_global_norm(g, 1.0) * 3.0), argnums=0)
    assert first(zero).tolist() == [3.0, 3.0]  # below the limit clipping is the identity
    assert neo.grad(lambda g: torch.sum(first(g)), argnums=0)(zero).tolist() == [0.0, 0.0]


def test_what_cannot_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="clipped: say how"):
        clipped(sgd(0.1))
    with pytest.raises(ValueError, match="max_norm ≥ 0, got -1"):
        clip_by_global_norm(tree(), -1.0)
    with pytest.raises(ValueError, match="limit ≥ 0, got -1"):
        clip_by_value(tree(), -1.0)
    with pytest.raises(ValueError, match="at least one tensor"):
        global_norm({})
