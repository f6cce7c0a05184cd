"""Checkpoints: what goes in comes out, and what is damaged or foreign is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import optree
import pytest
import torch
from safetensors.torch import save_file

import neo
from meta import checkpoint
from meta.checkpoint import CheckpointError, Checkpoints, atomic_write, read_header
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


def test_checkpoint_holds_any_pytree_of_tensors_and_plain_values(tmp_path):
    params = {
        "params": {"w": neo.LiteTensor(torch.randn(2, 3)), "none": None},
        "rates": [neo.LiteTensor(torch.tensor(0.5, dtype=torch.float64)), neo.LiteTensor(torch.empty(0))],
    }
    inner = (
        {"count": 3, "on": True, "scale": 0.1, "kind": "x"},
        torch.tensor([1, 2]),
        torch.ones(2, dtype=torch.bfloat16),
    )
    path = Checkpoints(tmp_path).save(State(5, params, inner), {})
    like = State(0, optree.tree_map(zero, params), optree.tree_map(zero, inner))
    restored = checkpoint.load(path, like)
    assert optree.tree_structure(restored[1:3]) == optree.tree_structure((params, inner))
    leaves = zip(optree.tree_leaves((params, inner)), optree.tree_leaves(restored[1:]), strict=True)
    for saved, read in leaves:
        assert type(read) is type(saved)
        data, other = getattr(saved, "data", saved), getattr(read, "data", read)
        assert torch.equal(data, other) if isinstance(data, torch.Tensor) else data == other


def zero(leaf):
    return type(leaf)(torch.zeros_like(leaf.data)) if isinstance(leaf, neo.LiteTensor) else leaf * 0


def test_checkpoint_keeps_the_memory_format_of_the_model(tmp_path):
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    path = Checkpoints(tmp_path).save(State(1, {"w": neo.LiteTensor(weight)}, None), {})
    like = neo.LiteTensor(torch.zeros_like(weight))
    read = checkpoint.load(path, State(0, {"w": like}, None)).params["w"].data
    assert torch.equal(read, weight)
    assert read.stride() == weight.stride()


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"a": {"b": 1.0}, "a.b": 2.0}, r"two leaves of the state are called params\.a\.b"),
        ({"a": {1, 2}}, r"params\.a is a set, which no checkpoint can hold"),
    ],
)
def test_state_that_no_checkpoint_can_hold_is_refused_before_anything_is_written(tmp_path, params, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        Checkpoints(tmp_path).save(State(1, params, None), {})
    assert not list(tmp_path.iterdir())


def test_no_cut_and_no_flipped_bit_is_read_as_another_state(tmp_path):
    saved = state()
    path = Checkpoints(tmp_path).save(saved, {"config": {"lr": 0.1}})
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 11)]
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read = checkpoint.load(path, state(step=1))
        except CheckpointError:
            refused += 1
        else:  # the spaces that safetensors pads its header with
            assert read.step == saved.step
            assert all(torch.equal(saved.params[n].data, read.params[n].data) for n in saved.params)
            assert read_header(path)["config"] == {"lr": 0.1}
    assert refused > 0.95 * len(damaged)


def test_tidy_drops_what_a_kill_has_left_and_sets_damage_aside(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        atomic_write(checkpoints.path(step), checkpoints.save(state(step), {}).read_bytes())
    checkpoints.path(1).write_bytes(b"kept by a process that was killed before it dropped it")
    checkpoints.path(4).write_bytes(b"damaged")
    (tmp_path / ".step-00000005.safetensors.77.part").write_bytes(b"half")
    checkpoints.tidy(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002.safetensors",
        "step-00000003.safetensors",
        "step-00000004.damaged",
    ]


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


def test_atomic_write_leaves_the_old_file_when_it_fails_on_the_way(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new")
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
    with pytest.raises(
        CheckpointError, match="is of checkpoint format 99, and this Neo reads format 3; read it with"
    ):
        read_header(path)


def test_checkpoint_of_an_earlier_format_is_refused_with_the_last_version_that_reads_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    path = Checkpoints(tmp_path).save(state(), {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"format 2.* Neo 0\.1\.0 is the last version that reads it"):
        checkpoint.load(path, state())


def test_checkpoint_holds_what_the_learner_carries(tmp_path):
    carried = {"mean": torch.tensor([0.5]), "seen": 3, "rate": neo.LiteTensor(2.0)}
    path = Checkpoints(tmp_path).save(state()._replace(state=carried), {})
    zeros = {"mean": torch.zeros(1), "seen": 0, "rate": neo.LiteTensor(0.0)}
    restored = checkpoint.load(path, state(step=1)._replace(state=zeros)).state
    assert (restored["mean"].item(), restored["seen"], restored["rate"].item()) == (0.5, 3, 2.0)


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
