"""Checkpoints: what goes in comes out, and what is damaged or foreign is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import neo
from meta import checkpoint
from meta.checkpoint import CheckpointError, Checkpoints, read_header, write_whole
from meta.trainer import State
from neo.optim import adam, momentum, sgd


def state(step: int = 7, size: int = 3, optimizer=None) -> State:
    optimizer = optimizer or adam(0.1)
    generator = torch.Generator().manual_seed(step)
    params = {name: neo.LiteTensor(torch.randn(size, 2, generator=generator)) for name in ("a.weight", "b")}
    new, inner = optimizer.step(params, params, optimizer.init(params))
    return State(step, new, inner)


@pytest.mark.parametrize("optimizer", [sgd(0.1), momentum(0.1), adam(0.1)])
def test_checkpoint_gives_back_the_state_bit_for_bit(tmp_path, optimizer):
    saved = state(optimizer=optimizer)
    path = Checkpoints(tmp_path).save(saved, {"seconds": 1.5})
    restored = checkpoint.load(path, state(step=1, optimizer=optimizer))
    assert restored.step == 7
    assert read_header(path)["seconds"] == 1.5
    # One more step from each: equal only if the optimiser's state came back too.
    after = [optimizer.step(s.params, s.params, s.optimizer)[0] for s in (saved, restored)]
    for name in saved.params:
        assert torch.equal(saved.params[name].data, restored.params[name].data)
        assert torch.equal(after[0][name].data, after[1][name].data)


def test_checkpoint_names_say_what_they_hold(tmp_path):
    header = read_header(Checkpoints(tmp_path).save(state(), {}))
    assert header["numbers"] == {"optimizer.steps": 1}


def test_checkpoints_keep_the_last_few_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save_best(state(1), {})
    for step in (1, 2, 3, 4):
        checkpoints.save(state(step), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "step-00000003.safetensors",
        "step-00000004.safetensors",
    ]
    assert read_header(checkpoints.best())["step"] == 1


def test_write_whole_leaves_the_old_file_when_it_fails_on_the_way(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_last_goes_back_to_the_checkpoint_before_a_damaged_one(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    good, bad = checkpoints.save(state(1), {}), checkpoints.save(state(2), {})
    bad.write_bytes(bad.read_bytes()[:-10])
    assert checkpoints.last() == good
    assert "step-00000002.safetensors is damaged" in caplog.text


def test_last_says_so_when_there_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint that can be read"):
        Checkpoints(tmp_path).last()


def write_foreign(path: Path) -> Path:
    save_file({"x": torch.zeros(1)}, path)
    return path


def test_header_of_a_foreign_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint of Neo"):
        read_header(write_foreign(tmp_path / "foreign.safetensors"))


def test_header_of_a_later_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    path = Checkpoints(tmp_path).save(state(), {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="is of format 99, expected 2"):
        read_header(path)


def test_load_refuses_another_shape_and_names_the_parameter(tmp_path):
    path = Checkpoints(tmp_path).save(state(), {})
    with pytest.raises(
        CheckpointError, match=r"of another model: \S+ is \(3, 2\) torch.float32, expected \(4, 2\)"
    ):
        checkpoint.load(path, state(size=4))


def test_load_refuses_another_optimizer(tmp_path):
    path = Checkpoints(tmp_path).save(state(), {})
    with pytest.raises(
        CheckpointError, match=r"of another model or optimiser: it lacks nothing and has .*optimizer.mean"
    ):
        checkpoint.load(path, state(optimizer=sgd(0.1)))
