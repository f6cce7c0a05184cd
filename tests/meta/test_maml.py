"""MAML against closed forms and torch's double backward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch

import neo
import neo.kernels
from meta import ANIL, MAML, Classification, MetaGradient, Reptile, Step, adapt, meta_gradient
from neo.optim import sgd
from tasks import Batch, Glyphs, Omniglot, Task
from tests.peers import learn2learn_reference, torch_reference
from tests.peers.torch_reference import relative_difference


def quadratic_meta_gradient(first_order: bool, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Neo's meta-gradient on STYLE's oracle, and its closed form."""
    generator = torch.Generator().manual_seed(3)
    n, alpha = 6, 0.07
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    centre, target, start = torch.randn(3, n, generator=generator, dtype=torch.float64)
    A, c, q = (neo.LiteTensor(value) for value in (hessian, centre, target))

    def support_loss(theta, _):
        return 0.5 * (theta - c) @ A @ (theta - c)

    def query_loss(theta):
        adapted = adapt(support_loss, theta, None, optimizer=sgd(alpha), steps=steps, first_order=first_order)
        return 0.5 * ((adapted - q) ** 2).sum()

    gradient = neo.grad(query_loss, argnums=0)(neo.LiteTensor(start)).data
    contraction = torch.eye(n, dtype=torch.float64) - alpha * hessian
    adapted = centre + torch.linalg.matrix_power(contraction, steps) @ (start - centre)
    residual = adapted - target
    return gradient, residual if first_order else torch.linalg.matrix_power(contraction, steps) @ residual


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [0, 1, 5], ids="{} steps".format)
def test_meta_gradient_matches_closed_form_on_quadratics(first_order: bool, steps: int) -> None:
    got, expected = quadratic_meta_gradient(first_order, steps)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_first_order_differs_from_second_order_on_quadratics() -> None:
    first, _ = quadratic_meta_gradient(True, 5)
    second, _ = quadratic_meta_gradient(False, 5)
    assert (first - second).norm() > 0.1 * second.norm()


# --- conv-4 with batch norm, against torch's double backward and learn2learn -----------------------------------


def random_tasks(
    ways: int, count: int, dtype: torch.dtype, size: int = 28, shots: int = 1, queries: int = 3
) -> Task:
    """Tasks of uniform noise, the same at every call."""
    generator = torch.Generator().manual_seed(11)

    def batch(per_class: int) -> Batch:
        y = torch.arange(ways).repeat_interleave(per_class).expand(count, -1).contiguous()
        return Batch(torch.rand(count, y.shape[1], 1, size, size, generator=generator).to(dtype), y)

    return Task(batch(shots), batch(queries))


def as_tuples(batch: Task) -> list[torch_reference.Task]:
    return [(task.support.x, task.support.y, task.query.x, task.query.y) for task in batch]


def neo_and_reference(
    reference: Callable,
    model: neo.nn.Conv4,
    batch: Task,
    dtype: torch.dtype,
    steps: int,
    first_order: bool,
    own_kernels: bool = True,
    **options,
) -> tuple[MetaGradient, dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
    params = model.init(seed=5, dtype=dtype)
    maml = MAML(model, inner_lr=0.4, inner_steps=steps, first_order=first_order)
    with contextlib.nullcontext() if own_kernels else neo.kernels.switched_off():
        result = meta_gradient(maml, params, batch)
    got = {name: gradient.data for name, gradient in result.gradient.items()}
    raw = {name: value.data for name, value in params.items()}
    loss, expected, _ = reference.meta_gradient(raw, as_tuples(batch), 0.4, steps, first_order, **options)
    return result, got, loss, expected


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize(("pool", "downsample"), [("stride", "stride"), ("max", "max_pool")])
@pytest.mark.parametrize(("head", "fused"), [("mean", True), ("flatten", True), ("flatten", False)])
def test_conv4_meta_gradient_matches_torch_double_backward(
    pool: str, downsample: str, head: str, fused: bool, first_order: bool
) -> None:
    model = neo.nn.Conv4(ways=3, hidden=8, pool=pool, head=head, fused=fused)
    batch = random_tasks(3, 2, torch.float64)
    options = {"downsample": downsample, "readout": head}
    result, got, loss, expected = neo_and_reference(
        torch_reference, model, batch, torch.float64, 3, first_order, **options
    )
    assert float(result.loss.mean()) == pytest.approx(float(loss), rel=1e-12)
    assert relative_difference(got, expected) < 1e-8
    _, _, _, other = neo_and_reference(
        torch_reference, model, batch, torch.float64, 3, not first_order, **options
    )
    assert relative_difference(got, other) > 1e-2  # first and second order are told apart


@pytest.mark.peers
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize(("pool", "downsample"), [("stride", "stride"), ("max", "max_pool")])
@pytest.mark.parametrize(("fused", "bound"), [(False, 1e-4), (True, 3e-3)], ids=["plain", "fused"])
def test_conv4_meta_gradient_matches_learn2learn(
    pool: str, downsample: str, first_order: bool, fused: bool, bound: float
) -> None:
    """Torch's kernels on both sides agree closely. Fused ones round apart, which turns ReLUs over here and there.

    That they are the same function is shown in float64, above.
    """
    model = neo.nn.Conv4(ways=5, pool=pool, head="flatten", fused=fused)
    batch = Glyphs(alphabets=4).sampler("train", ways=5, shots=1, queries=15, seed=0).sample(0, 2)
    options = {"downsample": downsample, "readout": "flatten", "own_kernels": fused}
    result, got, loss, expected = neo_and_reference(
        learn2learn_reference, model, batch, torch.float32, 1, first_order, **options
    )
    assert float(result.loss.mean()) == pytest.approx(float(loss), rel=1e-5)
    assert relative_difference(got, expected) < bound


@pytest.mark.peers
@pytest.mark.parametrize(("pool", "downsample"), [("stride", "stride"), ("max", "max_pool")])
def test_fused_conv4_matches_learn2learn_but_where_rounding_turns_a_relu_over(
    pool: str, downsample: str
) -> None:
    """Task by task: a turned ReLU moves the gradient of its own task, and most tasks have none."""
    model = neo.nn.Conv4(ways=5, pool=pool, head="flatten")
    batch = Glyphs(alphabets=4).sampler("train", ways=5, shots=1, queries=15, seed=0).sample(0, 9)
    options = {"downsample": downsample, "readout": "flatten"}
    apart = []
    for slot in range(len(batch)):
        one = batch[slot : slot + 1]
        _, got, _, expected = neo_and_reference(
            learn2learn_reference, model, one, torch.float32, 1, False, **options
        )
        apart.append(relative_difference(got, expected))
    assert sorted(apart)[len(apart) // 2] < 1e-4, apart


@pytest.mark.peers
def test_omniglot_meta_gradient_matches_learn2learn(omniglot: Omniglot) -> None:
    """On real images, where pixels are exactly 0 and 1; by torch's kernels on both sides.

    In float32 torch rounds apart from one layout to another on some processors, so that a ReLU is turned over in a task
    here and there: there the median over tasks is held to the bound, in float64 every task to a closer one.
    """
    sampler = omniglot.sampler("train", ways=5, shots=1, queries=15, seed=0)
    model, batch = neo.nn.Conv4(ways=5, fused=False), sampler.sample(0, 5)
    apart = []
    for slot in range(len(batch)):
        one = batch[slot : slot + 1]
        result, got, loss, expected = neo_and_reference(
            learn2learn_reference, model, one, torch.float32, 3, False, own_kernels=False
        )
        assert float(result.loss.mean()) == pytest.approx(float(loss), rel=1e-4)
        apart.append(relative_difference(got, expected))
    assert sorted(apart)[len(apart) // 2] < 1e-4, apart
    exact = Task(*(Batch(part.x.double(), part.y) for part in (batch.support, batch.query)))
    result, got, loss, expected = neo_and_reference(
        learn2learn_reference, model, exact, torch.float64, 3, False, own_kernels=False
    )
    assert float(result.loss.mean()) == pytest.approx(float(loss), rel=1e-12)
    assert relative_difference(got, expected) < 1e-8


def test_inner_reduction_by_shots_is_ways_times_the_mean() -> None:
    model = neo.nn.Conv4(ways=3, hidden=4)
    params, batch = model.init(seed=0, dtype=torch.float64), random_tasks(3, 1, torch.float64)
    by_shots = MAML(model, inner_lr=0.1, problem=Classification(inner_reduction="shots"))
    by_mean = MAML(model, inner_lr=0.3)
    for name, gradient in meta_gradient(by_shots, params, batch).gradient.items():
        torch.testing.assert_close(gradient.data, meta_gradient(by_mean, params, batch).gradient[name].data)


def test_zero_inner_steps_leave_params_alone() -> None:
    model = neo.nn.Conv4(ways=3, hidden=4)
    params, batch = model.init(seed=0), random_tasks(3, 1, torch.float32)
    adapted = MAML(model, inner_steps=0).adapt(params, batch[0].support, Step()).params
    assert all(adapted[name] is params[name] for name in params)


def test_meta_gradient_never_meets_torch_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("torch.autograd was called")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd.Function, "apply", refuse)
    model = neo.nn.Conv4(ways=3, hidden=4)
    result = meta_gradient(MAML(model), model.init(seed=0), random_tasks(3, 1, torch.float32))
    assert all(not g.data.requires_grad and g.data.grad_fn is None for g in result.gradient.values())


@pytest.mark.parametrize("algorithm", [MAML, Reptile, ANIL])
def test_rate_beside_an_optimizer_of_another_rate_is_refused(algorithm):
    """It would be read by nobody, and yet stand in the protocol of the result."""
    model = neo.nn.MLP(1, 2, 1)
    with pytest.raises(ValueError, match=r"inner_lr=0\.3 is the rate of SGD, and nothing would read it"):
        algorithm(model, inner_lr=0.3, inner_optimizer=neo.optim.adam(0.1))
    assert algorithm(model, inner_optimizer=neo.optim.adam(0.1)).inner.steps >= 1
