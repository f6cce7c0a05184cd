"""Inner runs that go on over outer steps: truncated windows off as derived, persistent ES not off at all."""

from __future__ import annotations

import optree
import pytest
import torch

import meta
import neo
from meta import OnlineLearner, State, Step, Trainer, Workers
from meta.checkpoint import Checkpoints, load
from meta.parallel import Batched
from meta.xray import expect_unrolled
from neo import LiteTensor
from neo.optim import adam, sgd
from tests.meta.quadratic import SIZE
from tests.meta.toy import TargetSampler

EYE = torch.eye(SIZE, dtype=torch.float64)
RATE, WINDOW, WINDOWS = 0.1, 2, 4


class Drawn(OnlineLearner):
    """w₀ = θ, w ← w − α ∇(½ wᵀA w − wᵀC θ), loss ½ ‖w − q‖²: linear in θ throughout, so that σ does not matter."""

    def __init__(self, inner=None, **options):
        super().__init__(window=WINDOW, **options)
        generator = torch.Generator().manual_seed(3)
        root, self.C = torch.randn(2, SIZE, SIZE, generator=generator, dtype=torch.float64)
        self.A = root @ root.T / SIZE
        self.theta, self.q = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
        self.inner = inner or sgd(RATE)

    def init(self, seed, device="cpu"):
        return {"theta": LiteTensor(self.theta)}

    def start(self, params, step):
        return {"w": params["theta"], "memory": self.inner.init(params["theta"])}

    def inner_step(self, params, run, task, step, taken):
        def loss(w):
            return 0.5 * w @ self.A @ w - w @ (self.C @ params["theta"])

        slope = neo.grad(loss, argnums=0, mode=self.estimator.mode)(run["w"])
        w, memory = self.inner.step(run["w"], slope, run["memory"])
        loss = 0.5 * ((w - self.q) ** 2).sum()
        return {"w": w, "memory": memory}, loss, loss.data

    def adapt(self, params, support, step):
        return lambda x: params["theta"]

    def windows(self, seed=0, count=WINDOWS):
        """What task_gradient gives of each window of a run, θ staying as it is."""
        params = self.init(0)
        state = self.init_state(params)
        for window in range(count):
            step = Step(window, seed=1000 * seed + window, training=True, state=state)
            found = self.task_gradient(params, None, step)
            state = found.state
            yield found

    def closed_form(self, truncated: bool):
        """The gradient of each window's loss: through the whole run, or through the window alone."""
        w, jacobian, found = self.theta, EYE, []
        for window in range(WINDOWS):
            if truncated and window:
                jacobian = torch.zeros_like(EYE)
            slopes = []
            for _ in range(WINDOW):
                w = w - RATE * (self.A @ w - self.C @ self.theta)
                jacobian = jacobian - RATE * (self.A @ jacobian - self.C)
                slopes.append(jacobian.T @ (w - self.q))
            found.append(sum(slopes) / WINDOW)
        return torch.stack(found)


def gradients(learner, **options):
    return torch.stack([found.gradient["theta"].data for found in learner.windows(**options)])


@pytest.mark.parametrize("mode", ["reverse", "mixed"])
def test_a_window_is_differentiated_as_if_what_was_before_were_constant(mode):
    learner = Drawn(meta_gradient=mode)
    torch.testing.assert_close(gradients(learner), learner.closed_form(truncated=True))
    bias = learner.closed_form(truncated=True) - learner.closed_form(truncated=False)
    assert bias[0].norm() == 0
    assert bias[1:].norm() > 0.2 * learner.closed_form(truncated=False)[1:].norm()


def test_a_run_of_one_window_is_exact_and_begins_anew():
    learner = Drawn(restart_every=1)
    first = learner.closed_form(truncated=False)[0]
    torch.testing.assert_close(gradients(learner), first.expand(WINDOWS, -1).contiguous())


def test_persistent_es_is_the_gradient_through_the_whole_run_seen_along_the_noise():
    """For one pair, exactly: ξ_w Σ_τ ε_τᵀ (∂L_w/∂θ_τ), whatever σ is; its mean over noise is the exact gradient."""
    small, large = (gradients(Drawn(meta_gradient="es", es_sigma=s, es_pairs=2)) for s in (0.01, 1.0))
    torch.testing.assert_close(small, large, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_persistent_es_has_no_bias_where_truncated_windows_have():
    learner, runs = Drawn(meta_gradient="es", es_pairs=5), 100
    exact, truncated = learner.closed_form(truncated=False).sum(0), learner.closed_form(truncated=True).sum(0)
    found = torch.stack([gradients(learner, seed=seed).sum(0) for seed in range(runs)])
    standard_error = found.std(0) / runs**0.5
    assert ((found.mean(0) - exact) / standard_error).abs().max() < 4.5
    assert ((found.mean(0) - truncated) / standard_error).abs().max() > 9


def test_loss_score_and_run_of_es_are_those_of_theta_itself():
    es, reverse = Drawn(meta_gradient="es", es_pairs=1), Drawn()
    for one, other in zip(es.windows(), reverse.windows(), strict=True):
        torch.testing.assert_close(one.loss.data, other.loss.data)
        torch.testing.assert_close(one.score, other.score)
        torch.testing.assert_close(one.state["inner"]["run"]["w"].data, other.state["inner"]["w"].data)


class Noisy(Drawn):
    """Draws at random, by the step's seed, and starts elsewhere in every run."""

    def start(self, params, step):
        generator = torch.Generator().manual_seed(step.seed)
        moved = params["theta"] + torch.randn(SIZE, generator=generator, dtype=torch.float64)
        return {"w": moved, "memory": self.inner.init(moved)}

    def inner_step(self, params, run, task, step, taken):
        run = {**run, "w": run["w"] + 0.1 * torch.randn(SIZE, dtype=torch.float64) + 0.01 * taken}
        return super().inner_step(params, run, task, step, taken)


def fit(iterations, start=None, **options):
    learner = Noisy(adam(0.1), restart_every=3, **options)
    loop = Trainer(learner, adam(0.1), iterations=iterations, meta_batch=1)
    return loop.fit(TargetSampler(), start or loop.start()), loop


def leaves(state: State):
    return [torch.as_tensor(getattr(leaf, "data", leaf)) for leaf in optree.tree_leaves(state)]


@pytest.mark.parametrize("options", [{}, {"meta_gradient": "es", "es_pairs": 2}], ids=["windows", "es"])
def test_run_goes_on_from_a_checkpoint_bit_for_bit(options, tmp_path):
    whole, loop = fit(5, **options)
    half, _ = fit(2, **options)
    path = Checkpoints(tmp_path).save(half, {})
    again = load(path, like=loop.start())
    assert again.state["windows"] == 2
    torch.manual_seed(5)
    resumed, _ = fit(5, start=again, **options)
    assert all(torch.equal(a, b) for a, b in zip(leaves(resumed), leaves(whole), strict=True))
    # five steps are a run of three windows and two of the next, and the inner adam counts its own
    memory = whole.state["inner"]["run"]["memory"] if options else whole.state["inner"]["memory"]
    assert (whole.state["windows"], memory.steps) == (2, 2 * WINDOW)


def test_perturbed_runs_of_a_pair_draw_the_same():
    """Else the difference of draws would stand in ĝ over 2 σ: with σ this small, nothing else would be left."""

    def first(sigma):
        with neo.nn.draws(7):  # as every task of a meta-batch has
            return gradients(Noisy(meta_gradient="es", es_pairs=1, es_sigma=sigma), count=1)

    torch.testing.assert_close(first(1e-4), first(1e-2), rtol=1e-5, atol=1e-6)


def test_second_task_of_a_meta_batch_is_refused():
    loop = Trainer(Drawn(), sgd(0.1), iterations=1, meta_batch=2)
    with pytest.raises(ValueError, match=r"Drawn: one inner run goes on .* trainer.meta_batch=1"):
        loop.fit(TargetSampler(), loop.start())
    loop = Trainer(Drawn(), sgd(0.1), iterations=1, meta_batch=2, workers=Batched())
    with pytest.raises(ValueError, match=r"step\.slot is not known with batched=true"):
        loop.fit(TargetSampler(), loop.start())
    assert Trainer(Drawn(), sgd(0.1), iterations=1, meta_batch=1, workers=Workers(2)).start()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"restart_every": 0}, "restart_every must be an integer of 1 or more, got 0"),
        ({"meta_gradient": "implicit"}, "must be one of reverse, mixed, es, got 'implicit'; `window` says"),
        ({"meta_gradient": "mixed", "mixed_segment": 3}, "mixed_segment=3 cuts an adaptation"),
        ({"es_pairs": 3}, "es_pairs=3 is of meta_gradient='es'"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Drawn(**options)


def test_window_must_be_a_count_and_an_xray_needs_an_inner_loop():
    class Never(Drawn):
        def __init__(self):
            OnlineLearner.__init__(self, window=0)

    with pytest.raises(ValueError, match="Never: window must be an integer of 1 or more, got 0"):
        Never()
    with pytest.raises(ValueError, match="Drawn"):
        expect_unrolled(Drawn())
    assert isinstance(Drawn().estimator, meta.Reverse)
