"""A policy over actions, its score-function gradient, and the gradient through a step along it, as meta-RL has it."""

import torch
from torch.distributions import Categorical

import neo

STATES = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4).sin()
ACTIONS = torch.tensor([0, 2, 1, 2, 0])
RETURNS = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.2], dtype=torch.float64)
LATER = torch.tensor([0.2, 1.5, -1.0, 0.7, 0.4], dtype=torch.float64)


class ActorModule(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)

    def forward(self, states):
        return Categorical(logits=self.head(torch.tanh(self.body(states))))


def weights():
    torch.manual_seed(0)
    return {name: w.detach().double() for name, w in ActorModule().named_parameters()}


def functional(params, states):
    h = torch.tanh(torch.nn.functional.linear(states, params["body.weight"], params["body.bias"]))
    return Categorical(logits=torch.nn.functional.linear(h, params["head.weight"], params["head.bias"]))


def reinforce(policy, returns):
    """−E[R log π(a|s)], with a bonus of entropy."""
    return -(policy.log_prob(ACTIONS) * returns).mean() - 0.01 * policy.entropy().mean()


def surrogate(policy, old, returns):
    """The clipped ratio of PPO, whose denominator is a constant."""
    ratio = torch.exp(policy.log_prob(ACTIONS) - old.log_prob(ACTIONS).detach())
    return -torch.min(ratio * returns, torch.clamp(ratio, 0.8, 1.2) * returns).mean()


def meta_loss(params, grad, policy):
    first = policy(params, STATES)
    step = grad(lambda p: reinforce(policy(p, STATES), RETURNS), params)
    adapted = {name: params[name] - 0.5 * step[name] for name in params}
    after = policy(adapted, STATES)
    return reinforce(after, LATER) + surrogate(after, first, LATER)


def by_torch(policy=functional):
    leaves = {name: w.clone().requires_grad_() for name, w in weights().items()}

    def grad(fn, params):
        return dict(
            zip(
                params, torch.autograd.grad(fn(params), list(params.values()), create_graph=True), strict=True
            )
        )

    loss = meta_loss(leaves, grad, policy)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def by_neo(policy):
    def grad(fn, params):
        return neo.grad(fn, argnums=0)(params)

    params = {name: neo.LiteTensor(w) for name, w in weights().items()}
    return neo.value_and_grad(lambda p: meta_loss(p, grad, policy), argnums=0)(params)


def agree(ours, theirs):
    torch.testing.assert_close(ours[0].data, theirs[0], rtol=0, atol=1e-8)
    for name, expected in theirs[1].items():
        torch.testing.assert_close(ours[1][name].data, expected, rtol=0, atol=1e-8)


def test_meta_gradient_of_a_policy_matches_torchs_double_backward():
    agree(by_neo(functional), by_torch())


def test_meta_gradient_of_a_converted_policy_matches_torchs_double_backward():
    model, _ = neo.nn.from_torch(ActorModule().double())
    agree(by_neo(model), by_torch())


def test_actions_are_a_pure_function_of_the_seed_and_constants():
    params = {name: neo.LiteTensor(w) for name, w in weights().items()}

    def loss(params):
        policy = functional(params, STATES)
        actions = policy.sample()
        return -(policy.log_prob(actions) * RETURNS).sum(), actions

    def drawn(seed):
        with neo.nn.draws(seed):
            return neo.grad(loss, argnums=0, has_aux=True)(params)

    (gradient, actions), (again, same) = drawn(3), drawn(3)
    assert torch.equal(neo.functions.registry.raw(actions), neo.functions.registry.raw(same))
    assert all(torch.equal(gradient[name].data, again[name].data) for name in gradient)
    leaves = {name: w.clone().requires_grad_() for name, w in weights().items()}
    expected = -(functional(leaves, STATES).log_prob(neo.functions.registry.raw(actions)) * RETURNS).sum()
    for name, found in zip(leaves, torch.autograd.grad(expected, list(leaves.values())), strict=True):
        torch.testing.assert_close(gradient[name].data, found)
