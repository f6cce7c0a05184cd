"""capture: the same numbers as the step itself, on the CPU by being it, on a GPU by replaying its recording."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo


def step(params, x, y, scale=1.0):
    def loss(params):
        return F.cross_entropy(torch.tanh(x @ params["w"]) * scale, y)

    return neo.value_and_grad(loss, argnums=0)(params)


def arguments(device="cpu", rows=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w, x = torch.randn(4, 3, generator=generator), torch.randn(rows, 4, generator=generator)
    y = torch.randint(0, 3, (rows,), generator=generator)
    return {"w": neo.LiteTensor(w, device=device)}, x.to(device), y.to(device)


def assert_same(found, expected):
    assert torch.equal(found[0].data, expected[0].data)
    assert torch.equal(found[1]["w"].data, expected[1]["w"].data)


def test_on_the_cpu_a_captured_step_is_the_step():
    captured = neo.capture(step)
    assert captured.__name__ == "step"
    for seed in range(2):
        assert_same(captured(*arguments(seed=seed), scale=2.0), step(*arguments(seed=seed), scale=2.0))


def test_a_captured_step_is_differentiated_like_the_step():
    params, x, y = arguments()
    outer = lambda step: neo.grad(lambda p: (step(p, x, y)[1]["w"] ** 2).sum(), argnums=0)(params)  # noqa: E731
    assert torch.equal(outer(neo.capture(step))["w"].data, outer(step)["w"].data)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_replays_give_the_numbers_of_the_step():
    captured = neo.capture(step)
    kept = []
    for seed, rows, scale in (
        (0, 8, 1.0),
        (1, 8, 1.0),
        (2, 5, 1.0),
        (3, 8, 2.0),
    ):  # replay, new shape, new constant
        given = arguments("cuda", rows, seed)
        kept.append((captured(*given, scale=scale), step(*given, scale=scale)))
    for found, expected in kept:  # earlier results outlive later replays
        torch.testing.assert_close(found[0].data, expected[0].data)
        torch.testing.assert_close(found[1]["w"].data, expected[1]["w"].data)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_a_step_that_waits_is_refused_by_name():
    def waits(x):
        return x * float(x.sum().item())

    with pytest.raises(neo.CaptureError, match=r"waits.*must not wait"):
        neo.capture(waits)(neo.rand((3,), device="cuda"))
