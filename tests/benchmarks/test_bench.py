"""The benchmark measures what it says: same results before any timing, paired ratios, counted arithmetic."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import agreement, guard, plot, problem, record, report, worker
from benchmarks.contender import Contender, ContenderError
from benchmarks.flops import layers, meta_step_flops
from benchmarks.peers import torch as torch_peer
from benchmarks.record import Found, Row
from benchmarks.settings import ALLOCATOR, GRIDS, contenders, environment, settings
from benchmarks.step import NotInstalled, Spec
from benchmarks.torch_problem import to_layout
from benchmarks.unroll import growth
from benchmarks.works import WORKS, MetaStep, Work, choose

ROOT = Path(__file__).parents[2]
TINY = MetaStep(name="T", title="tiny", pool="stride", ways=3, queries=2, hidden=4, meta_batch=2)


@pytest.fixture(scope="module")
def characters():
    return problem.images(None, quick=True)


def drawn(work: Work, characters, folder: Path) -> Path:
    path = folder / "problem.npz"
    problem.draw(work, characters, path)
    return path


def result_of(work: Work, peer: str, setting, path: Path):
    """One turn of a contender in this process; skips where its library is not installed."""
    serving = worker.Serving()
    try:
        serving.build(Spec(work.fields(), peer, setting, str(path), "cpu")._asdict(), None)
    except NotInstalled as error:
        pytest.skip(str(error))
    output = path.with_name("result.npz")
    serving.check(str(output))
    with np.load(output) as arrays:
        return dict(arrays)


def found(name: str = "W1", **peers: float) -> Found:
    """A record with these ratios."""
    rows = [Row(peer, "default", 0.5 * r, r, (0.9 * r, 1.1 * r), 10**8) for peer, r in peers.items()]
    return Found(name, "a title", "meta-step", 3, "a machine", tuple(rows))


# --- the same work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("peer", ["learn2learn", "higher", "torch", "torch_func_loop", "torch_func_vmap"])
def test_contender_computes_neos_meta_gradient_at_every_setting(peer, pool, characters, tmp_path):
    work = replace(TINY, pool=pool, inner_steps=2)
    path = drawn(work, characters, tmp_path)
    expected = result_of(work, "neo", {"layout": "contiguous", "workers": "none", "dtype": "float64"}, path)
    for setting in {tuple({**one, "allocator": ""}.items()) for one in settings(work, peer, "cpu")}:
        result = result_of(work, peer, {**dict(setting), "dtype": "float64"}, path)
        assert agreement.check(peer, result, "neo", expected, 1e-8) <= 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w4", "w5", "w6"])
def test_contenders_of_the_small_works_agree(name, characters, tmp_path):
    (work,) = choose([name], quick=True)
    path = drawn(work, characters, tmp_path)
    expected = result_of(work, "neo", settings(work, "neo", "cpu")[0], path)
    for peer in contenders(work):
        for setting in settings(work, peer, "cpu"):
            result = result_of(work, peer, setting, path)
            assert agreement.check(peer, result, "neo", expected, work.tolerance) <= work.tolerance


def test_checkpointed_inner_steps_give_the_same_gradient(characters, tmp_path):
    (work,) = choose(["w7"], quick=True)
    path = drawn(work, characters, tmp_path)
    plain, kept = (
        result_of(work, "neo", {"inner_steps": "2", "checkpoint": checkpoint, "dtype": "float64"}, path)
        for checkpoint in ("no", "yes")
    )
    assert agreement.check("checkpoint", kept, "plain", plain, 1e-10) <= 1e-10


def test_every_contender_has_a_builder():
    for kind, peers in GRIDS.items():
        for peer in peers:
            assert (kind, peer) in worker.BUILDERS


@pytest.mark.parametrize("shape", [(2, 3, 1, 5, 4), (3, 2, 5, 4), (6, 1, 3, 3)])
def test_layout_keeps_the_values_and_torch_sees_channels_last(shape):
    x = torch.randn(shape)
    last = to_layout(x, "channels_last")
    assert torch.equal(last, x)
    assert last.stride()[-3:] == (1, shape[-3] * shape[-1], shape[-3])
    image = last[0] if len(shape) == 5 else last
    convolved = torch.nn.functional.conv2d(image, to_layout(torch.randn(7, shape[-3], 3, 3), "channels_last"))
    assert convolved.stride(1) == 1
    assert to_layout(last, "contiguous").is_contiguous()


def test_disagreement_names_who_and_by_how_much():
    expected = {"loss": np.float64(1), "w": np.array([3.0, 4.0])}
    assert agreement.difference({"loss": np.float64(1), "w": np.array([3.0, 4.5])}, expected) == 0.1
    with pytest.raises(
        agreement.Disagreement, match=r"higher and neo disagree: relative difference 1\.00e-01"
    ):
        agreement.check("higher", {"loss": np.float64(1), "w": np.array([3.0, 4.5])}, "neo", expected, 1e-4)
    with pytest.raises(agreement.Disagreement, match="disagree: relative difference nan"):
        agreement.check("higher", {"loss": np.float64(1), "w": np.array([3, np.nan])}, "neo", expected, 1e-4)
    with pytest.raises(agreement.Disagreement, match=r"different things: w: none and \(2,\)"):
        agreement.check("higher", {"loss": np.float64(1)}, "neo", expected, 1e-4)
    with pytest.raises(agreement.Disagreement, match="5\\.00e-01"):  # a loss cannot hide behind the gradients
        agreement.check("higher", {**expected, "loss": np.float64(1.5)}, "neo", expected, 1e-4)


# --- the arithmetic --------------------------------------------------------------------------------------------------


def test_flops_of_layers_match_hand_counts():
    stride = [layer.flops for layer in layers(WORKS["w1"])]
    assert stride == [2 * 9 * 64 * 14**2, *(2 * 9 * 64 * 64 * size**2 for size in (7, 4, 2)), 2 * 64 * 5]
    pool = [layer.flops for layer in layers(WORKS["w2"])]
    assert pool == [2 * 9 * 64 * 28**2, *(2 * 9 * 64 * 64 * size**2 for size in (14, 7, 3)), 2 * 64 * 5]


def test_flops_of_a_meta_step_match_a_hand_count():
    work = replace(TINY, shots=2, queries=5, hidden=1, meta_batch=7, inner_steps=2)
    # Of one filter, an image: 18 flops a pixel of 14², 7², 4², 2², and a head of 2 * 3.
    first, rest = 3528, 882 + 288 + 72 + 6
    support, query = 2 * 6 * (9 * rest + 4 * first), 15 * (3 * rest + 2 * first)
    assert meta_step_flops(work) == 7 * (support + query)


@pytest.mark.parametrize("inner_steps", [0, 1, 2])
def test_flops_of_a_meta_step_are_what_torch_counts_as_it_runs(inner_steps, characters, tmp_path):
    work = replace(TINY, pool="max", inner_steps=inner_steps)
    path = drawn(work, characters, tmp_path)
    step = torch_peer.meta_step(Spec(work.fields(), "torch", {"layout": "contiguous"}, str(path), "cpu"))
    with FlopCounterMode(display=False) as counted:
        step.run()
    # Torch's double backward convolves once more than it must in the first layer, for a gradient that no image needs.
    needless = inner_steps * work.meta_batch * work.ways * work.shots * layers(work)[0].flops
    assert counted.get_total_flops() == meta_step_flops(work) + needless


# --- ratios, record and guard ----------------------------------------------------------------------------------------


def test_ratios_are_paired_by_round():
    row = record.row("torch", "default", [2.0, 30.0, 8.0], [1.0, 10.0, 2.0], per_turn=2, peak_bytes=5)
    assert (row.ratio, row.seconds) == (3.0, 4.0)  # of 2, 3, 4; the slow round counts once
    assert row.quartiles == (2.5, 3.5)


def test_record_survives_the_file_and_merging_keeps_other_works(tmp_path):
    path = tmp_path / "benchmarks.json"
    record.write(path, {"cpu": {"W2": found("W2", neo=1, torch=2.5), "W1": found("W1", neo=1)}})
    kept = record.read(path)
    assert kept["cpu"]["W2"] == found("W2", neo=1, torch=2.5)
    merged = record.merge(kept, "cpu", [found("W1", neo=1, torch=3)])
    assert list(merged["cpu"]) == ["W1", "W2"]
    assert merged["cpu"]["W1"].rows[1].ratio == 3
    assert merged["cpu"]["W2"] == kept["cpu"]["W2"]


def test_damaged_record_is_refused_by_name(tmp_path):
    path = tmp_path / "benchmarks.json"
    path.write_text('{"cpu": {"W1": {"name": "W1"}}}')
    with pytest.raises(ValueError, match=r"benchmarks\.json: not a record of scripts/bench\.py"):
        record.read(path)


@pytest.mark.parametrize(("now", "expected"), [(3.0, 0), (2.56, 0), (2.54, 1), (1.0, 1)])
def test_guard_names_each_ratio_that_lost_more_than_15_percent(now, expected):
    recorded = {"W1": found("W1", neo=1, torch=3.0, higher=4.0)}
    sentences = guard.lost(recorded, [found("W1", neo=1, torch=now, higher=4.0)])
    assert len(sentences) == expected
    if sentences:
        assert sentences[0].startswith(f"W1 against torch: {now:.2f} times as fast, recorded 3.00: lost")


def test_guard_refuses_to_pass_when_it_compared_nothing():
    with pytest.raises(ValueError, match="nothing to compare"):
        guard.lost({"W2": found("W2", torch=3.0)}, [found("W1", neo=1, torch=3.0)])


# --- the report ------------------------------------------------------------------------------------------------------


def test_report_keeps_what_is_written_by_hand(tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# By hand\n\n{report.BEGIN}\nold\n{report.END}\n\n## What did not help\n")
    for generated in ("first", "second"):
        report.insert(page, generated)
        text = page.read_text()
        assert text == f"# By hand\n\n{report.BEGIN}\n\n{generated}\n\n{report.END}\n\n## What did not help\n"


def test_report_refuses_a_page_without_markers(tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text("# By hand\n")
    with pytest.raises(ValueError, match="has no place for the tables"):
        report.insert(page, "tables")
    assert page.read_text() == "# By hand\n"


def test_page_of_the_project_has_both_markers():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count(report.BEGIN) == text.count(report.END) == 1
    assert text.index(report.BEGIN) < text.index(report.END)


def test_table_compares_with_the_fastest_peer_and_its_rows_are_as_long_as_its_head():
    one = found("W1", neo=1, torch=2.0, higher=3.0)
    one = replace(one, flops=10**9, rates={"convolution": 4e9, "matmul": 5e9})
    one = replace(one, rows=tuple(replace(row, error=1e-5) for row in one.rows))
    text = report.table(one)
    assert "**Neo is 2.00 times as fast as the fastest peer, torch.**" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells == ["torch", "1 s", "2.00", "1.80 – 2.20", "100 MB", "25%", "1e-05", "default"]


def test_picture_is_drawn_with_and_without_the_memory_panel(tmp_path):
    steps = {
        "plain_seconds": 1.0,
        "checkpoint_seconds": 2.0,
        "plain_peak_bytes": 3e8,
        "checkpoint_peak_bytes": 2e8,
    }
    unrolled = replace(found("W7"), unrolled=tuple({"inner_steps": n, **steps} for n in (1, 5)))
    compared = found("W1", neo=1, torch=0.5, higher=2000.0)
    for works in ({"W1": compared}, {"W1": compared, "W7": unrolled}, {"W7": unrolled}):
        path = tmp_path / f"{len(works)}{'W7' in works}.png"
        plot.draw(works, path)
        assert path.read_bytes().startswith(b"\x89PNG")
    assert report.table(unrolled).count("300 MB") == 2


def test_growth_is_the_slope_between_the_ends():
    assert growth([(1, 100.0), (5, 900.0), (21, 500.0)]) == 20.0


# --- processes -------------------------------------------------------------------------------------------------------


def test_worker_answers_a_failure_and_lives_on(characters, tmp_path):
    work = replace(TINY, hidden=2)
    spec = Spec(
        work.fields(), "torch", {"layout": "contiguous"}, str(drawn(work, characters, tmp_path)), "cpu"
    )
    requests = [
        {"do": "build", "spec": spec._replace(problem="missing.npz")._asdict(), "memory_limit": None},
        {"do": "build", "spec": spec._asdict(), "memory_limit": None},
        {"do": "run"},
    ]
    replies = io.StringIO()
    worker.serve(map(json.dumps, requests), replies)
    failed, built, ran = map(json.loads, replies.getvalue().splitlines())
    assert failed["kind"] == "FileNotFoundError"
    assert built == {}
    assert ran["seconds"] > 0
    assert ran["peak_bytes"] > 2**20


def test_contender_that_takes_too_long_is_ended(characters, tmp_path):
    spec = Spec(TINY.fields(), "torch", {"layout": "contiguous"}, "missing.npz", "cpu")
    with pytest.raises(ContenderError, match=r"torch \(layout contiguous\): took longer than 0\.01 s"):
        Contender(spec, limit_s=0.01, memory=None)


def test_raised_allocator_reaches_the_worker_by_its_environment():
    assert environment({"allocator": "raised"}) == ALLOCATOR["raised"]
    assert environment({"layout": "contiguous"}) == {}


def test_unknown_work_is_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown: \['w99'\]"):
        choose(["w1", "w99"], quick=False)


@pytest.mark.exhaustive
def test_quick_benchmark_writes_page_record_and_picture_and_its_guard_passes(tmp_path):
    page = tmp_path / "docs" / "benchmarks.md"

    def bench(*arguments: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            str(ROOT / "scripts" / "bench.py"),
            "quick=true",
            "peers=[torch]",
            *arguments,
        ]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )  # fmt: skip

    done = bench("works=[w1,w5]", "write=docs/benchmarks.md")
    assert done.returncode == 0, done.stderr
    recorded = record.read(page.with_suffix(".json"))["cpu"]
    assert [[row.peer for row in recorded[name].rows] for name in ("W1", "W5")] == [["neo", "torch"]] * 2
    assert report.table(recorded["W1"]) in page.read_text(encoding="utf-8")
    assert page.with_suffix(".png").exists()

    # As if Neo had once been a thousand times as fast, and as if a thousand times as slow.
    for times, code in ((1000, 1), (0.001, 0)):
        rows = tuple(replace(row, ratio=row.ratio * times) for row in recorded["W5"].rows)
        record.write(tmp_path / "old.json", {"cpu": {"W5": replace(recorded["W5"], rows=rows)}})
        done = bench("works=[w5]", "guard=true", "record=old.json")
        assert done.returncode == code, done.stderr
        assert ("lost: W5 against torch" in done.stderr) == bool(code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "old.json"]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(2.5, "2.5 s"), (0.9996, "1 s"), (0.9994, "999 ms"), (3.2e-6, "3.2 µs"), (4e-9, "4 ns")],
)
def test_duration_is_written_in_a_unit_that_fits(seconds: float, written: str) -> None:
    assert report._duration(seconds) == written
