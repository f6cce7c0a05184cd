"""Policy gradients at every order: against expectations that are sums over all trajectories, and from episodes."""

from __future__ import annotations

import itertools

import pytest
import torch
from hydra import compose, initialize_config_module

import meta
import neo
from benchmarks import policy_gradients as tabular
from meta.checkpoint import Checkpoints, read_header
from meta.evaluate_run import evaluate_run
from meta.experiment import Experiment
from meta.metrics_file import read_metrics
from meta.parallel import Batched
from meta.reinforcement import categorical, gaussian
from meta.reinforcement.baselines import linear, mean
from meta.reinforcement.surrogates import SURROGATES
from meta.replay import replay_run
from meta.resume import resumed_config
from neo import LiteTensor
from tasks import Arms, Environment, Episodes, Task
from tests.meta.runs import train
from tests.meta.test_run import assert_same_run

THETA = torch.tensor([[0.3, -0.5], [0.8, 0.1]], dtype=torch.float64)


def trajectories(world):
    """All of them, (steps, trajectories): states, actions, and the probability of the transitions alone."""
    states, actions, chances = [], [], []
    count = len(world.rewards)
    for acts in itertools.product(range(2), repeat=world.horizon):
        for later in itertools.product(range(count), repeat=world.horizon - 1):
            path = (0, *later)
            chance = 1.0
            for t in range(world.horizon - 1):
                chance *= float(world.transitions[path[t], acts[t], path[t + 1]])
            states.append(path)
            actions.append(acts)
            chances.append(chance)
    return torch.tensor(states).T, torch.tensor(actions).T, torch.tensor(chances, dtype=torch.float64)


def enumerated(world, surrogate, advantages):
    """E of the surrogate over trajectories drawn at THETA, as a function of the logits that it differentiates."""
    states, actions, chances = trajectories(world)
    drawn = torch.log_softmax(THETA, -1)[states, actions].sum(0).exp() * chances
    torch.testing.assert_close(drawn.sum(), torch.ones_like(drawn.sum()))
    A = advantages(states, actions)

    def value(logits):
        terms = SURROGATES[surrogate](torch.log_softmax(logits, -1)[states, actions], A)
        return (terms.sum(0) * drawn).sum()

    return value


def exact(world, order):
    """Derivatives of J at THETA, by PyTorch's autograd."""
    found = lambda logits: tabular.expected_return(world, logits)  # noqa: E731
    if order == 1:
        return torch.autograd.functional.jacobian(found, THETA)
    return torch.autograd.functional.hessian(found, THETA)


def returns_to_go(world, states, actions):
    return world.rewards[states, actions].flip(0).cumsum(0).flip(0)


# --- all trajectories ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogate_has_the_derivatives_of_the_return_to_its_order(surrogate, horizon):
    world = tabular.mdp(1, horizon=horizon, states=2)

    def advantages(states, actions):  # less a baseline of state and time, which has no expectation
        time = torch.arange(horizon)[:, None]
        return returns_to_go(world, states, actions) - (1.7 * states - 0.9 * time + 0.4)

    value = enumerated(world, surrogate, advantages)
    theta = LiteTensor(THETA)
    torch.testing.assert_close(neo.grad(value, argnums=0)(theta).data, exact(world, 1))
    hessian = neo.hessian(value)(theta).data
    right = surrogate == "dice" or (surrogate == "lvc" and horizon == 1)
    assert torch.allclose(hessian, exact(world, 2), atol=1e-10) == right


def test_dice_has_the_third_derivative():
    world = tabular.mdp(1, horizon=3, states=2)
    value = enumerated(world, "dice", lambda *path: returns_to_go(world, *path))
    third = neo.jacobian(neo.hessian(value))(LiteTensor(THETA)).data
    expected = torch.autograd.functional.jacobian(
        lambda x: torch.autograd.functional.hessian(
            lambda y: tabular.expected_return(world, y), x, create_graph=True
        ),
        THETA,
    )
    torch.testing.assert_close(third, expected)


def test_hessians_of_lvc_and_naive_lack_the_terms_that_are_said():
    """E Σₜ Aₜ (∇² + ∇∇ᵀ) for lvc and E Σₜ Aₜ ∇² for naive, with ∇log π of each step by PyTorch."""
    world = tabular.mdp(1, horizon=3, states=2)
    states, actions, chances = trajectories(world)
    drawn = torch.log_softmax(THETA, -1)[states, actions].sum(0).exp() * chances
    A = returns_to_go(world, states, actions)
    table = lambda logits: torch.log_softmax(logits, -1)  # noqa: E731
    first = torch.autograd.functional.jacobian(table, THETA)[states, actions].flatten(2)
    second = torch.stack(
        [
            torch.stack(
                [
                    torch.autograd.functional.hessian(lambda x, s=s, a=a: table(x)[s, a], THETA).reshape(4, 4)
                    for a in range(2)
                ]
            )
            for s in range(2)
        ]
    )[states, actions]
    weights = (A * drawn)[..., None, None]
    without = (weights * second).sum((0, 1))
    outer = (weights * first[..., :, None] * first[..., None, :]).sum((0, 1))
    for surrogate, expected in (("naive", without), ("lvc", without + outer)):
        value = enumerated(world, surrogate, lambda *path: returns_to_go(world, *path))
        found = neo.hessian(value)(LiteTensor(THETA)).data.reshape(4, 4)
        torch.testing.assert_close(found, expected)


def test_mean_of_the_other_episodes_leaves_the_hessian_unbiased():
    """Over all pairs of trajectories: the baseline of one is the return of the other."""
    world = tabular.mdp(1, horizon=2, states=2)
    states, actions, chances = trajectories(world)
    drawn = torch.log_softmax(THETA, -1)[states, actions].sum(0).exp() * chances
    to_go = returns_to_go(world, states, actions)
    one, other = (
        torch.tensor(list(side)) for side in zip(*itertools.product(range(len(drawn)), repeat=2), strict=True)
    )
    pairs = torch.stack([to_go[:, one], to_go[:, other]], dim=-1)  # (steps, pairs, 2)
    empty = Episodes(pairs, pairs, pairs)
    A = torch.stack([pairs[:, i] - mean(empty, pairs[:, i]) for i in range(pairs.shape[1])], 1)

    def value(logits):
        log_probs = torch.log_softmax(logits, -1)[states, actions]
        both = torch.stack([log_probs[:, one], log_probs[:, other]], dim=-1)
        return (SURROGATES["dice"](both, A).sum(0).mean(-1) * drawn[one] * drawn[other]).sum()

    assert float(A.abs().max()) > 0.1
    torch.testing.assert_close(neo.hessian(value)(LiteTensor(THETA)).data, exact(world, 2))


# --- from episodes ---------------------------------------------------------------------------------------------------


def test_exact_meta_gradient_is_that_of_torch():
    world = tabular.mdp(1)
    theta = tabular.start(world).requires_grad_()
    (inner,) = torch.autograd.grad(tabular.expected_return(world, theta), theta, create_graph=True)
    loss = -tabular.expected_return(world, theta + tabular.ALPHA * inner)
    (expected,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(tabular.exact_meta_gradient(world, theta.detach()), expected)


def test_meta_gradient_of_maml_agrees_with_the_exact_one_by_dice_and_not_by_the_naive_surrogate():
    world = tabular.mdp(2000)
    theta = tabular.start(world)
    expected = tabular.exact_meta_gradient(world, theta).flatten()

    def deviation(surrogate):
        found = tabular.estimates(world, theta, surrogate, repeats=60)
        return ((found.mean(0) - expected) / (found.std(0) / 60**0.5)).abs().max()

    # 2.64: that one of 6 entries lies further off is 5% likely where all are right.
    assert deviation("dice") < 2.64
    assert deviation("naive") > 10


def test_linear_baseline_takes_away_what_state_and_time_explain():
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(6, 50, 2, generator=generator)
    time = torch.arange(6)[:, None] / 100
    returns = 3 - seen[..., 0] + 2 * seen[..., 1] ** 2 + 40 * time - 9 * time**3
    found = linear(Episodes(seen, seen, returns), returns)
    torch.testing.assert_close(found, returns, atol=1e-3, rtol=1e-3)
    assert found.dtype == returns.dtype


def test_loss_is_minus_the_discounted_return_and_the_score_has_no_discount():
    world = tabular.mdp(5)
    model = lambda x: x @ LiteTensor(100 * torch.eye(3, 2, dtype=torch.float64))  # noqa: E731
    for surrogate in SURROGATES:
        problem = meta.PolicyGradient(categorical, surrogate=surrogate, discount=0.5)
        with neo.nn.draws(0):
            happened = world.run(lambda seen: categorical(model(seen).data).sample())
        with neo.nn.draws(0):
            loss, score = problem.query_loss(model, world)
        weights = 0.5 ** torch.arange(5, dtype=torch.float64)[:, None]
        torch.testing.assert_close(loss.data, -(happened.rewards * weights).sum(0).mean())
        torch.testing.assert_close(score, happened.rewards.sum(0).mean())


def test_normalized_advantages_make_the_gradient_independent_of_the_size_of_rewards():
    gradients = []
    for scale in (1.0, 1000.0):
        world = tabular.mdp(50)
        scaled = type(world)(world.transitions, scale * world.rewards, world.episodes, world.horizon)
        problem = meta.PolicyGradient(categorical, normalize=True)
        with neo.nn.draws(3):
            loss = lambda logits, scaled=scaled, problem=problem: problem.support_loss(  # noqa: E731
                lambda x: x @ logits, scaled
            )
            gradients.append(neo.grad(loss, argnums=0)(LiteTensor(tabular.start(world))).data)
    torch.testing.assert_close(*gradients)


# --- in the loops ----------------------------------------------------------------------------------------------------


def learner(**options):
    return meta.MAML(
        tabular.policy_model,
        problem=meta.PolicyGradient(categorical),
        **{"inner_lr": 0.5, "inner_steps": 2, **options},
    )


def one_gradient(learner, seed=0):
    world = tabular.mdp(30)
    params = {"logits": LiteTensor(tabular.start(world))}
    with neo.nn.draws(seed):
        return learner.task_gradient(params, Task(world, world), meta.Step(seed=seed)).gradient["logits"].data


def test_mixed_mode_meets_the_same_trajectories_as_reverse_mode():
    reverse = one_gradient(learner())
    for options in ({}, {"mixed_segment": 1}):
        torch.testing.assert_close(one_gradient(learner(meta_gradient="mixed", **options)), reverse)
    assert not torch.allclose(one_gradient(learner(), seed=1), reverse)
    assert not torch.allclose(one_gradient(learner(first_order=True)), reverse)


def test_every_inner_step_has_trajectories_of_its_own(monkeypatch):
    happened, run = [], Environment.run

    def kept(self, act):
        found = run(self, act)
        happened.append(found.actions)
        return found

    monkeypatch.setattr(Environment, "run", kept)
    one_gradient(learner(inner_lr=0.0))
    assert len(happened) == 3
    for one, other in itertools.combinations(happened, 2):
        assert not torch.equal(one, other)


def test_batched_tasks_draw_each_for_itself_and_meet_their_own_world():
    sure = Arms(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 8)
    params = {"logits": LiteTensor(torch.tensor([[50.0, 0.0]]))}
    found = meta.meta_gradient(learner(), params, Task(sure, sure), workers=Batched())
    assert found.score.tolist() == [1.0, 0.0, 1.0]
    even = Arms(torch.full((6, 2), 0.5), 50)
    params = {"logits": LiteTensor(torch.zeros(1, 2))}
    found = meta.meta_gradient(learner(), params, Task(even, even), workers=Batched())
    assert len(found.score.unique()) > 3


@pytest.mark.parametrize("layer", ["dropout", "batch norm"])
def test_policy_that_depends_on_more_than_its_observation_is_refused(layer):
    def predict(x):
        h = x @ LiteTensor(tabular.start(world))
        if layer == "dropout":
            return torch.nn.functional.dropout(h, 0.5)
        return torch.nn.functional.batch_norm(h, None, None, training=True)

    world = tabular.mdp(10)
    with (
        neo.nn.draws(0),
        pytest.raises(ValueError, match="must depend on parameters and that observation alone"),
    ):
        meta.PolicyGradient(categorical).support_loss(predict, world)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            lambda: meta.PolicyGradient(categorical, surrogate="reinforce"),
            "surrogate must be one of dice, lvc, naive",
        ),
        (
            lambda: meta.PolicyGradient(categorical, baseline="value"),
            "baseline must be one of none, mean, linear",
        ),
        (
            lambda: meta.PolicyGradient(categorical, discount=1.5),
            "discount must be above 0 and not more than 1, got 1.5",
        ),
        (lambda: gaussian(torch.zeros(1, 2), std=0.0), "gaussian: std must be greater than 0, got 0.0"),
        (
            lambda: meta.PolicyGradient(categorical).support_loss(lambda x: x[:, :2] * 1.0, tabular.mdp(1)),
            "baseline='mean' is the mean over the other episodes, and there is 1",
        ),
        (
            lambda: meta.PolicyGradient(categorical).support_loss(
                lambda x: x.expand(3, 2), Arms(torch.zeros(4), 3)
            ),
            r"the policy chooses among 2 actions, and Arms has 4; .*the last of task\.layers",
        ),
        (
            lambda: meta.PolicyGradient(lambda x: torch.distributions.Normal(x, 1.0)).support_loss(
                lambda x: x, Wide(torch.zeros(1), 3, 1)
            ),
            r"one log-probability an action, here \(3,\); got \(3, 2\). Wrap it in torch.distributions.Independent",
        ),
    ],
)
def test_bad_arguments_are_named(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


class Wide(Arms):
    """Takes any actions."""

    def start(self):
        return torch.zeros(self.episodes, 2)

    def step(self, state, action):
        return state, state[:, 0]


# --- runs ------------------------------------------------------------------------------------------------------------

SMALL = [
    "task.shots=4",
    "task.queries=4",
    "trainer.meta_batch=2",
    "trainer.iterations=4",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
    "trainer.val_every=2",
    "trainer.val_tasks=3",
    "evaluation.tasks=5",
    "device=cpu",
]
OF_TASK = {
    "navigation": ["task.dataset.horizon=3", "task.layers=[2,8,2]"],
    "bandit": ["task.layers=[1,8,10]", "algorithm.inner_steps=2"],
}


def config(task, *overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", [f"task={task}", *SMALL, *OF_TASK[task], *overrides])


@pytest.mark.slow
@pytest.mark.parametrize("task", OF_TASK)
def test_run_trains_resumes_and_is_tested_like_any_other(task, tmp_path):
    result = train(config(task), tmp_path / "whole")
    assert (result["metric"], result["higher_is_better"], result["test/tasks"]) == ("return", True, 5)
    assert result["test/chance"] == pytest.approx({"navigation": -3 * 0.3826, "bandit": 0.5}[task], abs=1e-4)
    train(config(task, "trainer.iterations=2"), tmp_path / "cut")
    again = resumed_config(tmp_path / "cut", {"trainer.iterations": 4})
    assert train(again, tmp_path / "cut", resume=True)["test/return"] == result["test/return"]
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    if task == "bandit":  # whose picture costs nothing
        assert evaluate_run(tmp_path / "whole", tasks=5)["test/return"] == result["test/return"]
        met = replay_run(tmp_path / "whole", iteration=3, slot=1)
        assert (met["steps"][-1]["loss"], met["steps"][-1]["return"]) == (met["loss"], met["return"])
    scores = [
        line["val/return"]
        for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")
        if "val/return" in line
    ]
    best = read_header(Checkpoints(tmp_path / "whole" / "checkpoints").best())
    assert best["val/return"] == max(scores)


def test_what_is_recorded_after_every_step_changes_nothing():
    experiment = Experiment(config("bandit"))
    state, sampler = experiment.trainer.start(), experiment.sampler("test")
    plain, recorded = (experiment.evaluate(state, sampler, 5, record=flag) for flag in (False, True))
    assert torch.equal(plain.scores, recorded.scores)
    assert recorded.record.scores.shape == (5, 3)
    assert len(plain.scores.unique()) > 1


def test_algorithm_of_labelled_examples_is_refused_before_training():
    experiment = Experiment(config("navigation", "algorithm=protonet"))
    with pytest.raises(
        ValueError, match=r"ProtoNet does not go with .*Navigation: it learns from .* got PointMass"
    ):
        experiment.expect_adaptation(experiment.trainer.start(), experiment.sampler("val"))


@pytest.mark.parametrize("policy", ["single", "support"])
def test_statistics_of_a_support_set_are_refused_where_it_has_no_examples(policy):
    experiment = Experiment(config("bandit", f"evaluation.batch_norm={policy}"))
    with pytest.raises(ValueError, match=r"normalises by the examples of a support set.* expected 'batch'"):
        experiment.expect_adaptation(experiment.start(), experiment.sampler("val"))
