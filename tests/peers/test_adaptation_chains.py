"""Learners adapted, cloned and adapted again, as users of learn2learn do it: gradients beside torch's double backward,
in float64, of the same situations by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import neo
from meta import ANIL, MAML, Batched, MetaSGD, Step, Supervised, adapt, meta_gradient
from meta.problems import MSE
from tasks import Batch, Task

ALPHA = 0.1
TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}
Tensors = dict[str, torch.Tensor]


class ByNorm(Supervised):
    """The norm of the predictions as loss, as learn2learn's own tests have it; y plays no part."""

    metric = MSE

    def loss(self, prediction: Any, y: torch.Tensor) -> Any:
        return prediction.norm()

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return prediction.sum(1)


def softmax_net() -> nn.Module:
    module = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 3), nn.Softmax(dim=1)
    )
    module.register_buffer("untouched", torch.zeros(1, 2, 3))
    return module


class TwoWays(nn.Module):
    """Parts that are reached by two ways: by names of their own, and through the net that they make up."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(5, 3))
        self.net = nn.Sequential(self.body, self.head)

    def forward(self, x: Any) -> Any:
        return self.net(x) + self.head(self.body(x) * 2)


class Kronecker(nn.Module):
    """y = vec(A X Bᵀ) + b of rows x = vec(X): a linear map whose matrix is a Kronecker product."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2, 2))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Any) -> Any:
        y = torch.einsum("ab,nbc,dc->nad", self.left, x.reshape(len(x), 2, 2), self.right)
        return torch.tanh(y.reshape(len(x), 4) + self.bias)


class Replicas(nn.Module):
    """As nn.DataParallel splits a batch over replicas of one module and gathers what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Any) -> Any:
        return torch.cat([self.module(chunk) for chunk in torch.chunk(x, 3)])


class DataParallel(nn.Module):
    """The wrapper itself, which without a GPU calls its module."""

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = nn.DataParallel(nn.Linear(4, 3))

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.wrapped(x))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "softmax": softmax_net,
    "two ways": TwoWays,
    "kronecker": Kronecker,
    "replicas": Replicas,
    "data parallel": DataParallel,
}


def module_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().double()


def inputs(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return list(torch.randn(number, 6, 4, generator=generator, dtype=torch.float64))


def task() -> Task:
    support, query = (Batch(x[None], torch.zeros(1, 6, dtype=torch.int64)) for x in inputs(2))
    return Task(support, query)


def leaves(module: nn.Module) -> Tensors:
    return {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters() if p.requires_grad}


def call(module: nn.Module, params: Tensors, x: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(module, params, (x,))


def stepped(module: nn.Module, params: Tensors, x: torch.Tensor, first_order: bool = False) -> Tensors:
    """One step on the norm of the predictions."""
    at = {n: p.detach().requires_grad_() for n, p in params.items()} if first_order else params
    grads = torch.autograd.grad(call(module, at, x).norm(), list(at.values()), create_graph=not first_order)
    return {n: p - ALPHA * g for (n, p), g in zip(params.items(), grads, strict=True)}


def gradients(loss: torch.Tensor, params: Tensors) -> Tensors:
    grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(params, grads, strict=True))


def agree(ours: Any, theirs: Tensors) -> None:
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name].data, expected, **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
    assert max(float(g.abs().max()) for g in theirs.values()) > 1e-6


def norm_of(model: Any) -> Callable[[Any, torch.Tensor], Any]:
    return lambda params, x: model(params, x).norm()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_meta_gradient_after_steps_on_one_batch_is_torchs(name, steps, first_order):
    module, batch = module_of(name), task()
    model, params = neo.nn.from_torch(module)
    learner = MAML(model, inner_lr=ALPHA, inner_steps=steps, first_order=first_order, problem=ByNorm())
    found = meta_gradient(learner, params, batch)
    first = adapted = leaves(module)
    for _ in range(steps):
        adapted = stepped(module, adapted, batch.support.x[0], first_order)
    loss = call(module, adapted, batch.query.x[0]).norm()
    torch.testing.assert_close(found.loss[0], loss.detach(), **TOLERANCE)
    agree(found.gradient, gradients(loss, first))


@pytest.mark.parametrize("name", MODELS)
def test_first_order_gradient_is_that_at_the_adapted_parameters(name):
    module, batch = module_of(name), task()
    model, params = neo.nn.from_torch(module)
    learner = MAML(model, inner_lr=ALPHA, inner_steps=3, first_order=True, problem=ByNorm())
    adapted = learner.adapt(params, batch[0].support, Step()).params
    at = {key: value.data.clone().requires_grad_() for key, value in adapted.items()}
    agree(
        meta_gradient(learner, params, batch).gradient,
        gradients(call(module, at, batch.query.x[0]).norm(), at),
    )
    exact = meta_gradient(MAML(model, inner_lr=ALPHA, inner_steps=3, problem=ByNorm()), params, batch)
    with pytest.raises(AssertionError):
        agree(meta_gradient(learner, params, batch).gradient, {n: g.data for n, g in exact.gradient.items()})


@pytest.mark.parametrize("name", ["softmax", "two ways"])
def test_clones_of_an_adapted_learner_go_ways_of_their_own(name):
    """Adapt, clone twice, adapt the clones on other batches: the gradient of both losses to where it began."""
    module = module_of(name)
    model, params = neo.nn.from_torch(module)
    optimizer = neo.optim.sgd(ALPHA)
    a, b, c, d = inputs(4)

    def chain(params: Any) -> Any:
        parent = adapt(norm_of(model), params, a, optimizer=optimizer, steps=1)
        left = adapt(norm_of(model), parent, b, optimizer=optimizer, steps=2)
        right = adapt(norm_of(model), parent, c, optimizer=optimizer, steps=1, first_order=True)
        return norm_of(model)(left, d) * 2 + norm_of(model)(right, d) + norm_of(model)(parent, d)

    first = leaves(module)
    parent = stepped(module, first, a)
    left = stepped(module, stepped(module, parent, b), b)
    right = stepped(module, parent, c, first_order=True)
    loss = sum(weight * call(module, p, d).norm() for weight, p in ((2, left), (1, right), (1, parent)))
    agree(neo.grad(chain, argnums=0)(params), gradients(loss, first))


def test_clone_sees_no_later_change_of_its_parent():
    """Both take the same step from the same parameters, one after the other, and arrive at the same place."""
    module = module_of("softmax")
    model, params = neo.nn.from_torch(module)
    x = inputs(1)[0]
    one, other = (adapt(norm_of(model), params, x, optimizer=neo.optim.sgd(ALPHA), steps=1) for _ in range(2))
    assert all(torch.equal(one[key].data, other[key].data) for key in params)
    expected = stepped(module, leaves(module), x)
    for key in params:
        torch.testing.assert_close(one[key].data, expected[key].detach(), **TOLERANCE)


def test_detached_learner_gives_its_parent_no_gradient():
    model, params = neo.nn.from_torch(module_of("softmax"))
    a, b = inputs(2)

    def loss(params: Any) -> Any:
        adapted = adapt(norm_of(model), params, a, optimizer=neo.optim.sgd(ALPHA), steps=1)
        return norm_of(model)(neo.stop_gradient(adapted), b)

    gradient = neo.grad(loss, argnums=0)(params)
    assert all(not bool(g.data.any()) for g in gradient.values())


@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_of_the_rates_of_meta_sgd_is_torchs(steps):
    module, batch = module_of("softmax"), task()
    model, _ = neo.nn.from_torch(module)
    learner = MetaSGD(model, inner_lr=ALPHA, inner_steps=steps, problem=ByNorm())
    params = {"params": model.params(), "rates": learner.init(seed=0)["rates"]}
    found = meta_gradient(learner, params, batch)
    first = adapted = leaves(module)
    rates = {name: torch.full_like(p, ALPHA).requires_grad_() for name, p in first.items()}
    for _ in range(steps):
        loss = call(module, adapted, batch.support.x[0]).norm()
        grads = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
        adapted = {n: p - rates[n] * g for (n, p), g in zip(adapted.items(), grads, strict=True)}
    loss = call(module, adapted, batch.query.x[0]).norm()
    expected = torch.autograd.grad(loss, [*first.values(), *rates.values()])
    agree(found.gradient["params"], dict(zip(first, expected, strict=False)))
    agree(found.gradient["rates"], dict(zip(rates, expected[len(first) :], strict=True)))


def test_parameters_that_the_loss_does_not_use_stay_and_get_zeros():
    params = {str(i): neo.LiteTensor(torch.randn(3, dtype=torch.float64)) for i in range(4)}

    def loss(params: Any, _: Any) -> Any:
        return sum(params[key].norm() for key in ("0", "2"))

    def outer(params: Any) -> Any:
        return loss(adapt(loss, params, None, optimizer=neo.optim.sgd(ALPHA), steps=1), None)

    adapted = adapt(loss, params, None, optimizer=neo.optim.sgd(ALPHA), steps=1)
    gradient = neo.grad(outer, argnums=0)(params)
    for key, value in params.items():
        if key in ("1", "3"):
            assert torch.equal(adapted[key].data, value.data)
            assert not bool(gradient[key].data.any())
        else:  # p − α p/‖p‖ has the norm ‖p‖ − α, whose gradient is p/‖p‖
            torch.testing.assert_close(gradient[key].data, value.data / value.data.norm(), **TOLERANCE)


@pytest.mark.parametrize("frozen", ["0.weight", "2.weight", "4.bias"])
def test_frozen_parameters_neither_adapt_nor_get_a_gradient(frozen):
    module, batch = module_of("softmax"), task()
    module.get_parameter(frozen).requires_grad_(False)
    model, params = neo.nn.from_torch(module)
    assert frozen not in params
    learner = MAML(model, inner_lr=ALPHA, inner_steps=2, problem=ByNorm())
    first = adapted = leaves(module)
    for _ in range(2):
        adapted = stepped(module, adapted, batch.support.x[0])
    loss = call(module, adapted, batch.query.x[0]).norm()
    agree(meta_gradient(learner, params, batch).gradient, gradients(loss, first))


def test_head_alone_adapts_and_everything_gets_a_gradient():
    module, batch = module_of("two ways"), task()
    model, params = neo.nn.from_torch(module)
    assert {name.split(".")[0] for name in params} == {"body", "head"}
    learner = ANIL(model, inner_lr=ALPHA, inner_steps=2, problem=ByNorm())
    first = adapted = leaves(module)
    for _ in range(2):
        head = {name: p for name, p in adapted.items() if name.startswith("head.")}
        loss = call(module, adapted, batch.support.x[0]).norm()
        grads = torch.autograd.grad(loss, list(head.values()), create_graph=True)
        adapted = adapted | {n: p - ALPHA * g for (n, p), g in zip(head.items(), grads, strict=True)}
    loss = call(module, adapted, batch.query.x[0]).norm()
    agree(meta_gradient(learner, params, batch).gradient, gradients(loss, first))


# --- updates that are learned ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapting", [False, True], ids=["fixed in a task", "adapting in a task"])
def test_learned_update_of_every_gradient_gets_its_gradient(adapting):
    """θ ← θ − α φ ∘ ∇L, φ like θ; adapting, φ first takes a step of its own on the loss after the step."""
    module = module_of("softmax")
    model, params = neo.nn.from_torch(module)
    a, b = inputs(2)

    def ours(params: Any, phi: Any) -> Any:
        for _ in range(2):

            def after(phi: Any, params: Any = params) -> Any:
                gradient = neo.grad(norm_of(model), argnums=0)(params, a)
                return {n: params[n] - ALPHA * phi[n] * gradient[n] for n in params}

            if adapting:
                slope = neo.grad(lambda phi, after=after: norm_of(model)(after(phi), a), argnums=0)(phi)
                phi = {n: phi[n] - 0.5 * slope[n] for n in phi}
            params = after(phi)
        return norm_of(model)(params, b)

    first = adapted = leaves(module)
    start = phi = {n: torch.ones_like(p).requires_grad_() for n, p in first.items()}
    for _ in range(2):
        grads = gradients_of(call(module, adapted, a).norm(), adapted)

        def moved(phi: Tensors, adapted: Tensors = adapted, grads: Tensors = grads) -> Tensors:
            return {n: p - ALPHA * phi[n] * grads[n] for n, p in adapted.items()}

        if adapting:
            own = {n: p.clone() for n, p in phi.items()}  # as this step uses it; earlier steps used it too
            slope = gradients_of(call(module, moved(own), a).norm(), own)
            phi = {n: p - 0.5 * slope[n] for n, p in phi.items()}
        adapted = moved(phi)
    loss = call(module, adapted, b).norm()
    phis = {n: neo.LiteTensor(torch.ones_like(p.data)) for n, p in params.items()}
    of_params, of_phi = neo.grad(ours, argnums=(0, 1))(params, phis)
    expected = torch.autograd.grad(loss, [*first.values(), *start.values()])
    agree(of_params, dict(zip(first, expected, strict=False)))
    agree(of_phi, dict(zip(start, expected[len(first) :], strict=True)))


def gradients_of(loss: torch.Tensor, params: Tensors) -> Tensors:
    return dict(zip(params, torch.autograd.grad(loss, list(params.values()), create_graph=True), strict=True))


def test_gradients_transformed_by_kronecker_products_get_their_gradient():
    """θ ← θ − α A ∇L B for every matrix θ, with A and B learned: KFO's update."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)).double()
    model, params = neo.nn.from_torch(module)
    a, b = inputs(2)
    factors = {
        f"{name}.{side}": torch.eye(n, dtype=torch.float64) + 0.1 * torch.randn(n, n)
        for name, p in module.named_parameters()
        for side, n in zip(("left", "right"), p.shape, strict=True)
    }

    def ours(params: Any, factors: Any) -> Any:
        for _ in range(2):
            gradient = neo.grad(norm_of(model), argnums=0)(params, a)
            params = {
                n: params[n] - ALPHA * factors[f"{n}.left"] @ gradient[n] @ factors[f"{n}.right"]
                for n in params
            }
        return norm_of(model)(params, b)

    first = adapted = leaves(module)
    theirs = {n: f.clone().requires_grad_() for n, f in factors.items()}
    for _ in range(2):
        grads = gradients_of(call(module, adapted, a).norm(), adapted)
        adapted = {
            n: p - ALPHA * theirs[f"{n}.left"] @ grads[n] @ theirs[f"{n}.right"] for n, p in adapted.items()
        }
    expected = torch.autograd.grad(call(module, adapted, b).norm(), [*first.values(), *theirs.values()])
    found = neo.grad(ours, argnums=(0, 1))(params, {n: neo.LiteTensor(f) for n, f in factors.items()})
    agree(found[0], dict(zip(first, expected, strict=False)))
    agree(found[1], dict(zip(theirs, expected[len(first) :], strict=True)))


def test_loss_that_is_learned_gets_its_gradient():
    """A network scores predictions in the inner loop, cross-entropy in the outer one."""
    torch.manual_seed(2)
    module, critic = (
        module_of("two ways"),
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(),
    )
    model, params = neo.nn.from_torch(module)
    judge, weights = neo.nn.from_torch(critic)
    a, b = inputs(2)
    y = torch.arange(6) % 3

    def ours(params: Any, weights: Any) -> Any:
        gradient = neo.grad(lambda params: judge(weights, model(params, a)).mean(), argnums=0)(params)
        adapted = {n: params[n] - ALPHA * gradient[n] for n in params}
        return F.cross_entropy(model(adapted, b), y)

    first, theirs = leaves(module), leaves(critic)
    grads = gradients_of(call(critic, theirs, call(module, first, a)).mean(), first)
    adapted = {n: p - ALPHA * grads[n] for n, p in first.items()}
    expected = torch.autograd.grad(
        F.cross_entropy(call(module, adapted, b), y),
        [*first.values(), *theirs.values()],
        allow_unused=True,
        materialize_grads=True,
    )
    found = neo.grad(ours, argnums=(0, 1))(params, weights)
    agree(found[0], dict(zip(first, expected, strict=False)))
    agree(found[1], dict(zip(theirs, expected[len(first) :], strict=True)))


def test_tasks_side_by_side_and_in_one_call_give_the_same_gradient():
    module = module_of("two ways")
    model, params = neo.nn.from_torch(module)
    xs = inputs(6)
    y = torch.zeros(3, 6, dtype=torch.int64)
    batch = Task(Batch(torch.stack(xs[:3]), y), Batch(torch.stack(xs[3:]), y))
    learner = MAML(model, inner_lr=ALPHA, inner_steps=2, problem=ByNorm())
    found = meta_gradient(learner, params, batch).gradient
    at_once = meta_gradient(learner, params, batch, workers=Batched(None)).gradient
    first = leaves(module)
    loss = torch.zeros((), dtype=torch.float64)
    for support, query in zip(batch.support.x, batch.query.x, strict=True):
        adapted = stepped(module, stepped(module, first, support), support)
        loss = loss + call(module, adapted, query).norm() / 3
    expected = gradients(loss, first)
    agree(found, expected)
    agree(at_once, expected)
