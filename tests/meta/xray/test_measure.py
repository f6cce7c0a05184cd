"""Measures of an X-ray, against the same taken from the gradients themselves; and the sentence that it comes to."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import optree
import pytest
import torch

import meta
from meta import MAML, EvolutionStrategies, Implicit, Step, Truncated
from meta.evaluate import half_width
from meta.xray import NothingFinite, report, tracked_metrics, xray
from meta.xray.report import csv_table, markdown, verdict
from neo import LiteTensor
from tests.meta.quadratic import Tasks, flat
from tests.meta.test_estimators import CONV, image_tasks
from tests.meta.xray.test_split import doubled

COUNT = 5


def quadratics(rate=0.05, steps=3, **options):
    tasks = Tasks(tasks=COUNT)
    learner = MAML(tasks.model, inner_lr=rate, inner_steps=steps, problem=tasks.problem, **options)
    met = [(Step(2, slot, 50 + slot, training=True), task) for slot, task in enumerate(tasks.batch())]
    return learner, tasks.params(), met


def gradients(learner, params, met, estimator):
    """(tasks, entries)."""
    one = learner.with_estimator(estimator)
    return torch.stack([flat(one.task_gradient(params, task, step).gradient) for step, task in met])


def test_measures_are_those_of_the_gradients():
    learner, params, met = quadratics()
    others = {"implicit": Implicit(1.0), "es": EvolutionStrategies(0.1, 4)}
    found = xray(learner, params, met, estimators=others)
    exact = gradients(learner, params, met, meta.Reverse())
    estimators = {"first_order": meta.FirstOrder(), "truncated 1": Truncated(1), "truncated 2": Truncated(2)}
    assert list(found.estimates) == [*estimators, *others]
    rows = {row["estimator"]: row for row in report(found)["estimators"]}
    for name, estimator in {**estimators, **others}.items():
        values = gradients(learner, params, met, estimator)
        cosines = torch.cosine_similarity(values, exact, dim=1)
        row, error = rows[name], values - exact
        scale = exact.mean(0).norm()
        expected = {
            "cosine": cosines.mean(),
            "ci95": half_width(cosines),
            "cosine_of_means": torch.cosine_similarity(values.mean(0), exact.mean(0), dim=0),
            "norm_ratio": values.square().sum(1).mean().sqrt() / exact.square().sum(1).mean().sqrt(),
            "bias": error.mean(0).norm() / scale,
            "bias_by_chance": (error.var(0).sum() / COUNT).sqrt() / scale,
            "variance": values.var(0).sum(),
            "variance_ratio": values.var(0).sum() / exact.var(0).sum(),
        }
        assert row.keys() == {"estimator", "tasks", *expected}
        for key, value in expected.items():
            assert row[key] == pytest.approx(float(value), rel=1e-9), (name, key)


def test_shares_of_the_parts_add_up_to_one_and_are_projections():
    learner, params, met = quadratics()
    found = xray(learner, params, met)
    exact, first = (gradients(learner, params, met, one) for one in (meta.Reverse(), meta.FirstOrder()))
    assert found.layers == ["body.theta", "head.theta"]
    for layer, entries in ((None, slice(None)), (0, slice(0, 2)), (1, slice(2, None))):
        shares = [found.share(part, layer) for part in found.parts]
        assert sum(shares) == pytest.approx(1, abs=1e-12)
        projected = (first * exact)[:, entries].sum() / exact[:, entries].square().sum()
        assert shares[0] == pytest.approx(float(projected), rel=1e-12)
        assert found.share(found.curvature, layer) == pytest.approx(sum(shares[1:]), abs=1e-12)
        norm = (exact - first)[:, entries].square().sum(1).mean().sqrt()
        assert found.curvature.norm(layer) == pytest.approx(float(norm), rel=1e-12)


def test_bias_by_chance_tells_noise_from_bias():
    """One task, met with other noise each time: es is unbiased for a quadratic, first order has bias and no scatter."""
    learner, params, met = quadratics()
    same = [(Step(seed=seed, training=True), met[0][1]) for seed in range(20)]
    content = report(xray(learner, params, same, estimators={"es": EvolutionStrategies(0.1, 20)}))
    rows = {row["estimator"]: row for row in content["estimators"]}
    assert 0 < rows["es"]["bias"] < 3 * rows["es"]["bias_by_chance"]
    assert rows["first_order"]["bias"] > 0.1
    assert rows["first_order"]["bias_by_chance"] < 1e-7


def test_a_layer_whose_gradient_is_rounding_is_not_judged():
    """The bias before a batch norm."""
    learner = MAML(CONV, inner_lr=0.3, inner_steps=2)
    met = [(Step(slot=slot, training=True), task) for slot, task in enumerate(image_tasks())]
    found = xray(learner, doubled(learner.init(seed=0)), met)
    without = {name for i, name in enumerate(found.layers) if not found.has_gradient(i)}
    assert without == {f"conv{i}.bias" for i in range(4)}
    content = report(found)
    assert not without & {*content["second_order_layers"]}
    assert [one["first_order_cosine"] for one in content["layers"] if one["layer"] in without] == [None] * 4
    assert not any(name.endswith(tuple(without)) for name in tracked_metrics(found))
    json.dumps(content, allow_nan=False)


class OwnWay(MAML):
    """Takes its gradient without the estimator."""

    def iterates(self, params, support, step):
        return self.inner.iterates(self.support_loss, params, support)


class LongerWay(MAML):
    """Takes more inner steps than it says."""

    def iterates(self, params, support, step):
        return self.inner.iterates(self.support_loss, params, support, steps=5, estimator=self.estimator)


@pytest.mark.parametrize(("kind", "asked"), [(OwnWay, "none"), (LongerWay, "loops of 5")])
def test_algorithm_that_does_not_heed_its_estimator_is_refused(kind, asked):
    """It would seem to have no curvature, or less than it has."""
    like, params, met = quadratics()
    learner = kind(like.model, inner_lr=0.05, inner_steps=3, problem=like.problem)
    with pytest.raises(
        ValueError, match=f"{kind.__name__}: .* about 3 inner steps; task_gradient asked it about {asked}"
    ):
        xray(learner, params, met)


def test_an_estimate_of_zero_has_cosine_zero():
    """What the meta-parameters reach through the inner loop alone has no first order at all."""

    class OnlyThroughTheLoop(MAML):
        """Learns where the inner loss pulls to: θ adapts from a constant."""

        def task_gradient(self, params, task, step):
            def objective(params):
                start = {name: LiteTensor(torch.zeros_like(leaf.data)) for name, leaf in params.items()}
                loop = self.inner.iterates(
                    lambda theta, support: sum(((theta[k] - params[k]) ** 2).sum() for k in params),
                    start, task.support, estimator=self.estimator,
                )  # fmt: skip
                adapted = loop.end()
                return sum((leaf**3).sum() for leaf in adapted.values()), 0.0

            found = self.estimator.estimate(objective, params, step)
            return meta.TaskResult(found.gradient, found.value, found.aux)

    learner, params, met = quadratics()
    learner = OnlyThroughTheLoop(learner.model, inner_lr=0.1, inner_steps=2, problem=learner.problem)
    found = xray(learner, params, met)
    assert found.cosine(found.first_order) == (0.0, 0.0, COUNT)
    assert verdict(found)[0].startswith("Every layer needs the second order, most of all body.theta 0.000")


def test_tasks_without_a_finite_gradient_are_left_out_and_counted():
    learner, params, met = quadratics()
    bad = optree.tree_map(lambda leaf: leaf * math.nan, met[0][1])
    found = xray(learner, params, [(met[0][0], bad), *met[1:]])
    assert (found.tasks, found.dropped) == (COUNT - 1, 1)
    assert report(found)["verdict"].endswith("Left out: 1 more tasks, whose exact gradient is not finite.")
    assert found.first_order.norm() == xray(learner, params, met[1:]).first_order.norm()
    with pytest.raises(NothingFinite, match="not finite on any of 1 tasks"):
        xray(learner, params, [(met[0][0], bad)])


def test_an_estimate_that_is_not_finite_is_null():
    class Broken(meta.Reverse):
        def estimate(self, objective, params, step):
            found = super().estimate(objective, params, step)
            gradient = optree.tree_map(lambda leaf: leaf * (math.nan if step.slot else 1.0), found.gradient)
            return replace(found, gradient=gradient)

    learner, params, met = quadratics()
    one_good, all_bad = (
        report(xray(learner, params, tasks, estimators={"broken": Broken()}))["estimators"][-1]
        for tasks in (met, met[1:])
    )
    assert (one_good["cosine"], one_good["bias"]) == (pytest.approx(1.0), None)
    assert all(value is None for key, value in all_bad.items() if key not in ("estimator", "tasks"))
    assert (one_good["tasks"], all_bad["tasks"]) == (1, 0)


# --- the sentence ----------------------------------------------------------------------------------------------------


def test_first_order_is_safe_at_a_small_rate():
    learner, params, met = quadratics(rate=1e-3)
    content = report(xray(learner, params, met))
    assert content["safe"]
    assert content["verdict"].startswith(
        "First order is safe here: its cosine to the exact meta-gradient is 1.000"
    )
    assert content["second_order_layers"] == []


def test_layers_that_need_the_second_order_are_named_with_the_window_that_suffices():
    learner, params, met = quadratics(rate=0.08, steps=4)
    found = xray(learner, params, met)
    lows = {name: found.cosine(found.first_order, i).low for i, name in enumerate(found.layers)}
    safe = sum(lows.values()) / 2  # between the two
    content = report(found, safe)
    (needing,) = content["second_order_layers"]
    assert needing == min(lows, key=lows.get)
    assert not content["safe"]
    assert content["verdict"].startswith(f"These layers need the second order: {needing} ")
    enough = [
        window
        for window in range(1, 4)
        if all(found.cosine(found.estimates[f"truncated {window}"], i).low >= safe for i in (None, 0, 1))
    ]
    assert content["verdict"].endswith(f"truncated_steps={enough[0]} passes, of 4 inner steps.")
    assert report(found, 0.99)["verdict"].startswith("Every layer needs the second order, most of all ")


def test_whole_that_fails_where_each_layer_passes_is_said():
    """The query loss at two scales: first order gets the layers' directions right and their sizes wrong."""
    learner, params, met = quadratics(steps=1)
    found = xray(learner, params, met)
    exact, first = found.exact, found.first_order
    grown = torch.tensor([1.0, 30.0], dtype=torch.float64)
    along = replace(first, squared=exact.squared * grown**2, dot=exact.squared * grown)
    found = replace(found, estimates={"first_order": along})
    sentence, layers = verdict(found, 0.999)
    assert layers == []
    assert sentence.startswith("First order is not safe here")


@pytest.mark.parametrize("safe", [0.0, 1.1, math.nan])
def test_criterion_out_of_range_is_refused(safe):
    learner, params, met = quadratics()
    with pytest.raises(ValueError, match=r"safe must be a cosine above 0, at most 1"):
        report(xray(learner, params, met), safe)


def test_one_task_cannot_be_judged():
    learner, params, met = quadratics()
    with pytest.raises(ValueError, match="take two tasks or more"):
        report(xray(learner, params, met[:1]))


def test_tables_say_what_the_report_says():
    learner, params, met = quadratics(steps=5)
    content = report(xray(learner, params, met, parts=2))
    rows = list(csv.DictReader(csv_table(content).splitlines()))
    assert [row["part"] for row in rows[:5]] == [
        "exact",
        "first_order",
        "curvature",
        "steps 1-3",
        "steps 4-5",
    ]
    assert float(rows[6]["share"]) == content["layers"][0]["first_order_share"]
    text = markdown(content).splitlines()
    assert text[0].startswith("| layer ")
    assert len({len(line) for line in text[:5]}) == 1
    assert [line.split("|")[1].strip() for line in text[2:5]] == ["all", "body.theta", "head.theta"]
    assert [line.split("|")[1].strip() for line in text[8:10]] == ["first_order", "truncated 2"]


def test_log_has_the_whole_and_each_layer():
    learner, params, met = quadratics()
    found = xray(learner, params, met, parts=1)
    fine = xray(learner, params, met)
    numbers = tracked_metrics(found)
    assert numbers["first_order_cosine"] == found.cosine(found.first_order).mean
    assert numbers["curvature_share/body.theta"] == found.share(found.curvature, 0)
    assert len(numbers) == 2 * 3
    assert numbers == pytest.approx(tracked_metrics(fine), abs=1e-12)  # however fine the split
