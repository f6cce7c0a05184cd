"""The command that a report prints trains the same arm again."""

from __future__ import annotations

import html
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from meta.metrics_file import read_metrics
from meta.report import page, read
from meta.report.again import command
from tests.meta.cli.test_commands import ROOT, TINY, call
from tests.meta.report.folders import write_run


def printed(folder: Path) -> list[str]:
    """The commands on the page about a folder."""
    found = re.findall(r'<pre class="command"><code>(.*?)</code></pre>', page(read(folder)), re.DOTALL)
    return [html.unescape(one) for one in found]


def numbers(run: Path) -> list[dict]:
    return [{**line, "seconds": None} for line in read_metrics(run / "metrics.jsonl")]


@pytest.mark.slow
def test_printed_command_trains_the_best_arm_again(tmp_path):
    """Of a sweep in a folder whose name needs quotes, with configuration files of the user's own and lists of names."""
    place, elsewhere = tmp_path / 'it\'s a "place" $HOME', tmp_path / "elsewhere"
    own = place / "own" / "experiment" / "there.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\nalgorithm:\n  inner_steps: 2\n")
    elsewhere.mkdir()
    swept = [
        'algorithm.adapt=["head.*"],["head.*","norm[01].bias"]',
        "algorithm.inner_lr=0.1,0.4",
        "sweep=grid",
    ]
    done = call(
        place, "train", "-m", "--config-dir", "own", *TINY, "algorithm=anil", "experiment=there", *swept,
        "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    sweep = read(place / "sweep")
    best = place / "sweep" / sweep.reference().name
    (typed,) = printed(place / "sweep")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run(["sh", "-c", typed], cwd=elsewhere, env=environment, check=True, capture_output=True)
    assert not [*elsewhere.iterdir()]
    (again,) = (place / "outputs").glob("*/*")
    assert numbers(again) == numbers(best)
    assert (again / "test.safetensors").exists()
    config, original = ((run / ".hydra" / "config.yaml").read_text() for run in (again, best))
    assert config == original


@pytest.mark.slow
def test_command_of_a_run_that_was_made_longer_is_as_long(tmp_path):
    assert call(tmp_path, "train", *TINY, "hydra.run.dir=run").code == 0
    assert "trainer.iterations=3" in printed(tmp_path / "run")[0].split()
    assert call(tmp_path, "train", "resume=run", "trainer.iterations=4").code == 0
    (typed,) = printed(tmp_path / "run")
    assert [word for word in shlex.split(typed) if "trainer.iterations" in word] == ["trainer.iterations=4"]
    assert "To train it again" in page(read(tmp_path / "run"))


def configured(
    folder: Path, overrides: list[str], name: str = "train", searched: tuple[str, ...] = ()
) -> Path:
    """A folder as hydra's file of a run describes it."""
    write_run(folder)
    sources = [{"path": "/conf", "provider": "main"}, {"path": "/their own", "provider": "command-line"}]
    told = {
        "searchpath": list(searched),
        "job": {"config_name": name},
        "runtime": {"cwd": "/a b", "config_sources": sources},
    }
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": told}))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    return folder


def test_how_a_sweep_was_run_is_left_out_and_where_its_files_lie_is_not(tmp_path):
    typed = ["sweep=optuna", "+model.options.x='a, b'", "seed=1", "++resume=null", "hydra_like=1"]
    run = configured(tmp_path / "run", typed, name="mine", searched=("file:///it's",))
    assert shlex.split(command(run)) == [
        *("cd", "/a b", "&&", "python", "-m", "neo", "train", "--config-name", "mine"),
        *("--config-dir", "/their own", "+model.options.x='a, b'", "seed=1", "hydra_like=1"),
        r"hydra.searchpath=['file:///it\'s']",
    ]


@pytest.mark.parametrize("damaged", ["hydra.yaml", "overrides.yaml"])
def test_folder_that_does_not_tell_has_no_command(tmp_path, damaged):
    assert command(write_run(tmp_path / "in_python")) is None
    run = configured(tmp_path / "run", [])
    (run / ".hydra" / damaged).write_bytes(b"[\x00")
    assert command(run) is None
    assert printed(run) == []
