"""The picture of an X-ray: what it names, and what it says that it leaves out."""

from __future__ import annotations

import copy

import pytest

from meta import plots
from meta.xray import report, xray
from tests.meta.xray.test_measure import quadratics


@pytest.fixture(scope="module")
def content():
    learner, params, met = quadratics()
    return report(xray(learner, params, met))


def svg(content, folder) -> str:
    plots.xray(content, folder / "xray.png", title="MAML: meta-gradient")
    assert {path.suffix for path in folder.iterdir()} == {".png", ".pdf", ".svg"}
    return (folder / "xray.svg").read_text(encoding="utf-8")


def test_layers_steps_and_estimators_are_named(content, tmp_path):
    text = svg(content, tmp_path)
    for word in ("body.theta", "head.theta", "truncated 2", "MAML: meta-gradient", "safe from here on, 0.95"):
        assert word in text, word
    share = 100 * content["layers"][0]["steps"][0]["share"]
    assert f">{share:+.0f}<".replace("-", "−") in text
    assert "not drawn" not in text


def test_what_is_left_out_is_counted(content, tmp_path):
    many = copy.deepcopy(content)
    many["layers"] = [{**many["layers"][0], "layer": f"block{i}", "exact_norm": i} for i in range(50)]
    many["layers"].append({**many["layers"][0], "layer": "bias", "curvature_share": None})
    many["estimators"][1] |= {"cosine": None, "ci95": None, "tasks": 0}
    for one in (many["whole"], *many["layers"]):
        one["steps"] = [{**one["steps"][0], "steps": [4 * i, 4 * i + 3]} for i in range(15)]
    text = svg(many, tmp_path)
    for word in (
        "the largest 40 of 50 layers",
        "not drawn: 1 layers",
        "truncated 1 (0 of 5 tasks)",
        "5–8",
        "block49",
    ):
        assert (word in text) == (word != "5–8"), word  # of many steps every second one is named
    assert "9–12" in text
    assert ">block9<" not in text


def test_loop_without_steps_says_so(tmp_path):
    learner, params, met = quadratics(steps=0)
    assert "no inner steps" in svg(report(xray(learner, params, met)), tmp_path)
