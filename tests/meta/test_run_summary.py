"""What the start of a run says is what the run is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from meta import run_summary
from meta.distributed import Ranks
from meta.experiment import Experiment
from meta.resume import resumed_config
from meta.run_summary import Pace, peak_memory
from tests.meta.runs import train
from tests.meta.test_run import tiny


def said(text: str) -> dict[str, str]:
    """The aligned lines, by their names."""
    return dict(re.findall(r"^([a-z]+) {2,}(.+)$", text, re.MULTILINE))


def started(capsys: pytest.CaptureFixture[str], folder: Path, *overrides: str, **options) -> dict[str, str]:
    train(tiny(*overrides), folder, **options)
    return said(capsys.readouterr().out)


def test_start_says_data_protocol_model_device_and_folder(tmp_path, capsys):
    lines = started(capsys, tmp_path, "evaluation.inner_steps=3", "task.test_shots=2")
    assert list(lines) == ["data", "tasks", "model", "device", "run", "folder"]
    # 4 alphabets of 6 characters: the last fifth, at least one, tests.
    assert lines["data"].endswith(": 12 / 6 / 6 classes to train / val / test, 20 images each")
    assert lines["data"].startswith("glyphs, split alphabets=4,")
    assert lines["tasks"] == (
        "3-way 1-shot, tested on 3-way 2-shot, queries 2, inner steps 1, in the test 3, inner lr 0.4, test tasks 5"
    )
    # 1·4·9 + 3 convolutions of 4·4·9, a bias and a shift and a scale of 4 for each of the four, a head of 4·3 + 3.
    params = Experiment(tiny()).learner.init(0)
    numbers = sum(tensor.numel() for tensor in params.values())
    assert numbers == 36 + 3 * 144 + 4 * 12 + 15
    assert lines["model"] == f"neo.nn.Conv4 by meta.MAML, {numbers} meta-parameters"
    assert lines["device"].endswith(
        f", {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    )
    assert lines["run"] == "4 iterations of 2 tasks"
    assert lines["folder"] == str(tmp_path)


def test_lines_are_aligned_also_with_a_logger_of_a_long_name(tmp_path, capsys):
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed; pip install 'neo-meta[tensorboard]'"
    )
    train(tiny("logger=[csv,tensorboard]"), tmp_path)
    block = capsys.readouterr().out.splitlines()
    assert len({re.match(r"[a-z]+ +", line).end() for line in block}) == 1
    assert said("\n".join(block))["csv"] == str(tmp_path / "metrics.csv")
    assert said("\n".join(block))["tensorboard"] == f"tensorboard --logdir {tmp_path}"


def test_resumed_run_says_from_where(tmp_path, capsys):
    train(tiny(), tmp_path)
    capsys.readouterr()
    train(resumed_config(tmp_path, {"trainer.iterations": 6}), tmp_path, resume=True)
    lines = said(capsys.readouterr().out)
    assert lines["run"] == "6 iterations of 2 tasks; resumed after 4, 2 are left"


def test_run_that_has_nothing_left_to_do_says_nothing(tmp_path, capsys):
    train(tiny(), tmp_path)
    capsys.readouterr()
    train(resumed_config(tmp_path, {}), tmp_path, resume=True)
    assert capsys.readouterr() == ("", "")


def test_algorithm_without_inner_steps_and_ranks_say_what_they_have(tmp_path, capsys):
    experiment = Experiment(tiny("algorithm=protonet", "model=conv4_embedding"))
    state = experiment.trainer.start()
    assert experiment.dataset  # which ranks build one after the other
    experiment.ranks = Ranks(0, 2)
    lines = said(run_summary.summary(experiment, state, tmp_path, False))
    assert lines["tasks"] == "3-way 1-shot, queries 2, test tasks 5"
    assert lines["model"].startswith("neo.nn.Conv4 by meta.ProtoNet, ")
    assert lines["device"].endswith(", 2 ranks")


# --- after the first steps ----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """time.monotonic(), in one's own hands."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(run_summary, "time", clock)
    return clock


def ticks(clock, pace: Pace, seconds: list[float]) -> list[str | None]:
    found = []
    for one in seconds:
        clock.now += one
        found.append(pace.tick())
    return found


def test_pace_is_told_once_without_the_step_that_warms_up(clock):
    found = ticks(clock, Pace(100, 605, torch.device("cpu")), [60.0] + [2.0] * 20)
    assert [line is not None for line in found] == [False] * 4 + [True] + [False] * 16
    assert found[4].startswith(
        "pace    2 s a step: 16:40 left for 500 steps, without the test at the end; peak memory "
    )
    assert re.search(r"peak memory [\d,]+ MiB$", found[4])


def test_pace_of_long_steps_is_told_after_few(clock):
    found = ticks(clock, Pace(0, 1000, torch.device("cpu")), [60.0, 40.0, 40.0])
    assert [line is not None for line in found] == [False, True, False]
    assert found[1].startswith("pace    40 s a step: 11:05:20 left for 998 steps")


def test_pace_of_a_run_that_is_over_at_once_is_not_told(clock):
    assert not any(ticks(clock, Pace(0, 10, torch.device("cpu")), [100.0] * 10))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_is_that_of_the_process():
    """At least what the kernel says that this program has needed, and no more than the machine has."""
    said = int(peak_memory(torch.device("cpu")).removesuffix(" MiB").replace(",", ""))
    status, machine = (Path(path).read_text() for path in ("/proc/self/status", "/proc/meminfo"))
    needed, there = (
        int(re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)[1]) / 1024
        for name, text in (("VmHWM", status), ("MemTotal", machine))
    )
    assert 50 < needed - 1 < said < there
