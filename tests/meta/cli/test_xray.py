"""neo-xray on runs, as a user calls it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

import meta
from meta.plots import canvas
from tests.meta.cli.test_commands import ROOT, call
from tests.meta.runs import train
from tests.meta.test_run import tiny


@pytest.fixture(autouse=True)
def png_alone(monkeypatch):
    """In this process: the other formats take a second each time."""
    monkeypatch.setattr(canvas, "FORMATS", {"png": canvas.FORMATS["png"]})


def trained(folder: Path, *overrides: str) -> Path:
    train(
        tiny("trainer.val_every=0", "trainer.iterations=1", "evaluation.tasks=2", *overrides), folder / "run"
    )
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("maml"), "algorithm.inner_steps=2")


@pytest.mark.slow
def test_xray_from_another_folder_prints_and_writes_what_it_found(run, tmp_path):
    """In a process of its own."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-m", "neo", "xray", f"run_dir={run}", "tasks=3", "workers=1", "es_pairs=2"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((run / "xray.json").read_text())
    assert done.stdout.startswith(result["verdict"])
    assert [one["estimator"] for one in result["estimators"]] == [
        "first_order",
        "truncated 1",
        "implicit",
        "es",
    ]
    assert result["settings"]["es"] == "EvolutionStrategies(sigma=0.1, pairs=2)"
    assert (result["tasks"], result["inner_steps"], result["iterations"]) == (3, 2, 1)
    for one in (result["whole"], *result["layers"]):
        shares = [one["first_order_share"], *(step["share"] for step in one["steps"])]
        assert None in shares or sum(shares) == pytest.approx(1, abs=1e-5)
    page = (run / "xray.md").read_text()
    assert page.startswith("# meta-gradient on 3 val tasks") or "meta-gradient on 3 val tasks" in page
    assert result["verdict"] in page
    rows = list(csv.DictReader((run / "xray.csv").read_text().splitlines()))
    assert len(rows) == 5 * (1 + len(result["layers"]))
    for ending in ("png", "pdf", "svg"):
        assert (run / "plots" / f"xray.{ending}").stat().st_size > 5000
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.iterdir())


def test_training_tasks_are_those_of_the_next_meta_update(run, tmp_path):
    """The exact gradient there is the mean that the trainer would step by."""
    done = call(tmp_path, "xray", f"run_dir='{run}'", "part=train", "tasks=2", "estimators=[]", "name=next")
    assert done.code == 0, done.stderr
    result = json.loads((run / "next.json").read_text())
    found = meta.load(run, "last")
    sampler = meta.experiment.Experiment(found.config).sampler("train")
    batch = meta.meta_batch.MetaBatch(found.learner, found.state, seed=found.config.seed)
    squares = [
        batch.alone(found.params, task, batch.step(1, slot, found.state))
        .gradient["conv0.weight"]
        .data.square()
        .sum()
        for slot, task in enumerate(sampler.sample(1, 2))
    ]
    norm = (sum(squares) / 2).sqrt()
    (layer,) = (one for one in result["layers"] if one["layer"] == "conv0.weight")
    assert layer["exact_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_float64_and_other_inner_steps(run, tmp_path):
    done = call(
        tmp_path, "xray", f"run_dir='{run}'", "tasks=2", "dtype=float64", "inner_steps=5", "parts=2", "estimators=[]"
    )  # fmt: skip
    assert done.code == 0, done.stderr
    result = json.loads((run / "xray.json").read_text())
    assert [one["steps"] for one in result["whole"]["steps"]] == [[0, 2], [3, 4]]
    shares = [result["whole"]["first_order_share"], *(one["share"] for one in result["whole"]["steps"])]
    assert sum(shares) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tasks=1"], "tasks must be an integer of 2 or more"),
        (["inner_steps=-1"], "inner_steps must be an integer of 0 or more"),
        (["part=valid"], "unknown part='valid'; expected val, test or train"),
        (["checkpoint=ensemble"], "unknown checkpoint='ensemble'; expected last or best"),
        (["dtype=half"], "unknown dtype='half'; expected float32 or float64"),
        (["parts=0"], "parts must be an integer of 1 or more"),
        (["safe=2"], "safe must be a cosine above 0, at most 1"),
        (["name=result"], "name='result' cannot name an X-ray's files"),
        (["estimators=[reverse]"], "reverse and mixed are the exact one"),
        (["estimators=[es]", "implicit_strength=1"], "implicit_strength=1: nothing would read it"),
        (["es_pairs=0"], "pairs must be an integer of 1 or more"),
        (["part=train", "seed=3"], "part=train takes those of the run's next meta-update"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_nothing_is_written(run, tmp_path, arguments, sentence):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = call(tmp_path, "xray", f"run_dir='{run}'", "tasks=2", *arguments)
    assert done.code == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("algorithm", ["protonet", "reptile", "es_maml"])
def test_algorithm_without_a_differentiated_loop_is_refused_by_name(algorithm, tmp_path):
    name = {"protonet": "ProtoNet", "reptile": "Reptile", "es_maml": "ESMAML"}[algorithm]
    run = trained(tmp_path, f"algorithm={algorithm}")
    done = call(tmp_path, "xray", f"run_dir='{run}'", "tasks=2")
    assert done.code == 1
    assert f"error: {name} has no meta-gradient through an inner loop" in done.stderr
    assert "algorithm=maml, anil, meta_sgd or maml_plus_plus" in done.stderr
    assert not (run / "xray.json").exists()


@pytest.mark.parametrize("algorithm", ["anil", "meta_sgd", "maml_plus_plus"])
def test_others_with_an_inner_loop_are_split(algorithm, tmp_path):
    run = trained(tmp_path, f"algorithm={algorithm}", "algorithm.inner_steps=2")
    done = call(tmp_path, "xray", f"run_dir='{run}'", "tasks=2", "es_pairs=1")
    assert done.code == 0, done.stderr
    assert (run / "plots" / "xray.png").exists()


def test_estimator_that_an_algorithm_cannot_have_is_refused_with_the_way_out(tmp_path):
    run = trained(
        tmp_path, "algorithm=maml_plus_plus", "algorithm.running_statistics=true", "algorithm.inner_steps=2"
    )
    done = call(tmp_path, "xray", f"run_dir='{run}'", "tasks=2")
    assert done.code == 1
    assert "runs the model more often; leave one out. Here: estimators=[]." in done.stderr
    assert call(tmp_path, "xray", f"run_dir='{run}'", "tasks=2", "estimators=[]").code == 0
