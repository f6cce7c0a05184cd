"""Runs that begin at what another run has learned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from meta.checkpoint import CheckpointError, Checkpoints, read_params
from meta.experiment import Experiment
from meta.loading import load
from meta.replay import state_at
from meta.resume import resumed_config
from meta.run_summary import summary
from neo import pytree
from tests.meta.runs import train
from tests.meta.test_run import tensors, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    train(tiny(), folder)
    return folder


def begun(run: Path, *overrides: str) -> Experiment:
    return Experiment(tiny(f"init_from='{run}'", *overrides))


def test_another_rate_algorithm_and_optimiser_begin_at_the_other_run_s_parameters(run):
    learned = load(run, "last").params
    for overrides in ([], ["algorithm=anil", "optimizer=sgd", "seed=7"]):
        found = begun(run, *overrides).start()
        assert found.step == 0
        for one, other in zip(pytree.leaves(found.params), pytree.leaves(learned), strict=True):
            assert torch.equal(one.data, other.data)
            assert one.data.stride() == other.data.stride()


def test_a_head_for_other_ways_begins_anew_and_is_named(run):
    experiment = begun(run, "task.ways=5", "seed=3")
    state, fresh, learned = (
        experiment.start(),
        Experiment(tiny("task.ways=5", "seed=3")).start(),
        load(run, "last").params,
    )
    for name, leaf in state.params.items():
        expected = fresh.params if name.startswith("head.") else learned
        assert torch.equal(leaf.data, expected[name].data), name
    said = summary(experiment, state, Path("folder"), resumed=False)
    assert (
        "of 12 parameters; begin anew: head.weight (5, 16), which is (3, 16) in it" in said
        or "begin anew: head." in said
    )


def test_such_a_run_resumes_and_is_replayed_and_its_record_says_where_it_began(run, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(tiny(f"init_from='{run}'", "seed=5"), whole)
    _, checksum = read_params(Checkpoints(run / "checkpoints").last())
    assert json.loads((whole / "record.json").read_text())["seeds"]["init_from"] == checksum
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    train(tiny(f"init_from='{moved}'", "seed=5", "trainer.iterations=2"), cut)
    shutil.rmtree(moved)  # which a run that has begun needs no more
    train(resumed_config(cut, {"trainer.iterations": 4}), cut, resume=True)
    for name, one in tensors(whole).items():
        assert torch.equal(one, tensors(cut)[name]), name
    shutil.rmtree(whole / "checkpoints")
    state, nearest = state_at(begun(run, "seed=5"), whole, 4)
    assert nearest is None
    for leaf, other in zip(pytree.leaves(state.params), pytree.leaves(load(cut, "last").params), strict=True):
        assert torch.equal(leaf.data, other.data)


def test_what_cannot_be_begun_at_is_refused_before_anything_is_written(run, tmp_path):
    for source, overrides, sentence in (
        (tmp_path / "nowhere", (), "there is no such run or checkpoint"),
        (tmp_path, (), "holds no checkpoint"),
        (run, ("model.hidden=5",), "only 1 of the 18 meta-parameters of this run are in"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            train(tiny(f"init_from='{source}'", *overrides), tmp_path / "run")
        assert not (tmp_path / "run" / "record.json").exists()
    mixed = tmp_path / "mixed"
    shutil.copytree(run, mixed)
    record = json.loads((mixed / "record.json").read_text())
    record["seeds"]["seed"] = 99
    (mixed / "record.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"are not all of one run: seeds\.seed"):
        train(tiny(f"init_from='{mixed}'"), tmp_path / "run")
