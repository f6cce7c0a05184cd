"""W8 to W14: every contender computes Neo's meta-gradient of every module, or the table says why not."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import neo
from benchmarks import agreement, equation, guard, plot, problem, record, report, worker
from benchmarks.networks import NETWORKS
from benchmarks.record import Found, Row
from benchmarks.settings import contenders, settings
from benchmarks.step import NotInstalled, Spec
from benchmarks.works import WORKS, MetaModule, choose

ROOT = Path(__file__).parents[2]
MODULES = [name for name, work in WORKS.items() if isinstance(work, MetaModule)]
CANNOT = {("w12", "torch_func_vmap"): "doesn't match the broadcast shape"}  # torch's LSTM writes in place


def result_of(work: MetaModule, peer: str, setting, path: Path):
    """One turn of a contender in this process."""
    serving = worker.Serving()
    spec = Spec(work.fields(), peer, {**setting, "dtype": "float64"}, str(path), "cpu")
    serving.build(spec._asdict(), None)
    output = path.with_name("result.npz")
    serving.check(str(output))
    with np.load(output) as arrays:
        return dict(arrays)


def distinct(work: MetaModule, peer: str):
    """A contender's settings, but for the allocator, which another process would have."""
    return {tuple({**one, "allocator": ""}.items()) for one in settings(work, peer, "cpu")}


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for a pooling
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)  # torch.func.jvp calls it
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # learn2learn clones an LSTM
@pytest.mark.parametrize(
    "name",
    [
        "w14",
        pytest.param("w12", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in MODULES if name not in ("w12", "w14")),
    ],
)
def test_every_contender_computes_neos_meta_gradient_at_every_setting(name, tmp_path):
    work = choose([name], quick=True)[0].variants()[-1]
    path = tmp_path / "problem.npz"
    problem.draw(work, None, path)
    first, *others = [(peer, dict(one)) for peer in contenders(work) for one in distinct(work, peer)]
    expected = result_of(work, *first, path)
    assert all(np.isfinite(value).all() for value in expected.values())
    assert max(np.abs(value).max() for key, value in expected.items() if key != "loss") > 0
    compared = set()
    for peer, setting in others:
        if (name, peer) in CANNOT:
            with pytest.raises(RuntimeError, match=CANNOT[name, peer]):
                result_of(work, peer, setting, path)
            continue
        try:
            result = result_of(work, peer, setting, path)
        except NotInstalled:
            continue
        assert agreement.check(peer, result, "neo", expected, work.tolerance) <= work.tolerance
        compared.add(peer)
    assert compared >= {"torch", "torch_func_loop"}


def test_every_network_takes_the_examples_of_its_own_shape():
    for name in MODULES:
        (work,) = choose([name], quick=True)
        network = NETWORKS[work.network]
        model = network.build(work.width, work.size)
        out = model(torch.randn(2, *network.shape(work.width, work.size)))
        assert out.shape == ((2, 5) if network.learns == "classes" else (2, 1))


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)  # torch.func.jvp calls it
def test_residual_is_the_equations_by_every_framework():
    """u = sin(2x + t): u_t + 6 u u_x + u_xxx = cos + 12 sin cos − 8 cos."""
    points = torch.randn(7, 2, dtype=torch.float64)

    def u(points):
        return torch.sin(points @ torch.tensor([[2.0], [1.0]], dtype=torch.float64))

    phase = 2 * points[:, :1] + points[:, 1:]
    exact = 12 * phase.sin() * phase.cos() - 7 * phase.cos()
    tracked = neo.LiteTensor(points)
    for found in (
        equation.by_autograd(u, points).detach(),
        equation.by_reverse(torch.func.grad, u, points),
        equation.by_forward(torch.func.jvp, u, points),
        equation.by_reverse(neo.grad, u, tracked).data,
        equation.by_forward(neo.jvp, u, tracked).data,
        equation.by_taylor(neo.jet, u, tracked).data,
    ):
        torch.testing.assert_close(found, exact)


def test_variants_are_one_task_and_a_meta_batch_and_other_works_have_one():
    assert [one.meta_batch for one in WORKS["w9"].variants()] == [1, 8]
    assert WORKS["w1"].variants() == [WORKS["w1"]]


def test_settings_follow_what_the_network_takes():
    def options(name: str, peer: str) -> set[str]:
        return {*settings(WORKS[name], peer, "cpu")[0]}

    assert options("w8", "torch") == {"layout", "allocator"}
    assert options("w12", "torch") == {"allocator"}
    assert options("w11", "torch_func_loop") == {"derivatives", "allocator"}
    assert {one["workers"] for one in settings(WORKS["w9"], "neo", "cpu")} >= {"none", "batched"}
    assert "jax" in contenders(WORKS["w14"])
    assert "jax" not in contenders(WORKS["w9"])


@pytest.mark.parametrize(("clock", "counts"), [("wall", "perf_counter"), ("processor", "process_time")])
def test_clock_is_the_one_that_was_asked_for(clock, counts, monkeypatch, tmp_path):
    work = choose(["w14"], quick=True)[0].variants()[0]
    path = tmp_path / "problem.npz"
    problem.draw(work, None, path)
    monkeypatch.setattr(time, counts, iter((10.0, 13.0)).__next__)
    serving = worker.Serving()
    serving.build(Spec(work.fields(), "torch", {}, str(path), "cpu", clock)._asdict(), None)
    seconds, _ = serving._timed()
    assert seconds == 3.0


# --- the table -------------------------------------------------------------------------------------------------------


def of_two_sizes(name: str = "W9", ratio: float = 2.0) -> Found:
    rows = [
        Row(peer, "default", 0.5, r, (0.9 * r, 1.1 * r), 10**8, 1e-6, tasks)
        for tasks, of_torch in ((1, 0.8), (8, ratio))
        for peer, r in (("neo", 1.0), ("torch", of_torch))
    ]
    return Found(name, "a title", "meta-step", 3, "a machine", tuple(rows))


def test_table_has_a_row_and_a_verdict_for_each_size():
    text = report.table(of_two_sizes())
    assert "**1 task: Neo is 0.80 times as fast as the fastest peer, torch.**" in text
    assert "**8 tasks: Neo is 2.00 times as fast as the fastest peer, torch.**" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines[2:]]
    assert rows == [("neo", "1"), ("torch", "1"), ("neo", "8"), ("torch", "8")]


def test_guard_compares_like_with_like():
    recorded = {"W9": of_two_sizes()}
    assert guard.lost(recorded, [of_two_sizes()]) == []
    (sentence,) = guard.lost(recorded, [of_two_sizes(ratio=1.0)])
    assert sentence.startswith("W9 against torch, tasks 8: 1.00 times as fast, recorded 2.00")


def test_record_orders_works_by_number_and_keeps_tasks(tmp_path):
    names = ["W10", "W9-84", "W2", "W9", "W8-64"]
    merged = record.merge({}, "cpu", [of_two_sizes(name) for name in names])
    record.write(tmp_path / "record.json", merged)
    kept = record.read(tmp_path / "record.json")["cpu"]
    assert list(merged["cpu"]) == list(kept) == ["W2", "W8-64", "W9", "W9-84", "W10"]
    assert [row.tasks for row in kept["W9"].rows] == [1, 1, 8, 8]


def test_picture_has_a_row_for_the_largest_meta_batch_of_modules(tmp_path):
    plain = replace(of_two_sizes("W1"), rows=tuple(replace(r, tasks=None) for r in of_two_sizes().rows[:2]))
    sizes = {}
    for name, works in {
        "one": {"W1": plain},
        "both": {"W1": plain, "W9": of_two_sizes()},
        "modules": {"W9": of_two_sizes()},
    }.items():
        plot.draw(works, tmp_path / f"{name}.png")
        picture = (tmp_path / f"{name}.png").read_bytes()
        sizes[name] = int.from_bytes(picture[20:24], "big")  # pixels high
    assert math.isclose(sizes["both"], 2 * sizes["one"], abs_tol=2)
    assert sizes["modules"] == sizes["one"]


@pytest.mark.slow
def test_table_says_why_a_peer_did_not_take_part(tmp_path):
    page = tmp_path / "page.md"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    arguments = [
        "quick=true",
        "works=[w12]",
        "peers=[torch_func_vmap]",
        "note=A busy machine.",
        f"write={page}",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench.py"), *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "torch_func_vmap did not take part: RuntimeError: output with shape" in text
    assert "A busy machine." in text
