"""A folder named conf on the user's path, which is what many projects have, is no business of Neo's commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.cli.test_commands import ROOT, TINY


@pytest.fixture(params=["package", "folder"])
def project(request, tmp_path: Path) -> Path:
    """A project with a conf/ of its own, whose train.yaml and device/cpu.yaml are not Neo's."""
    conf = tmp_path / "conf"
    (conf / "device").mkdir(parents=True)
    (conf / "train.yaml").write_text("mine: true\n")
    (conf / "device" / "cpu.yaml").write_text("# @package _global_\ndevice: mine\n")
    if request.param == "package":
        (conf / "__init__.py").write_text("raise ImportError('imported')\n")
    return tmp_path


def call(project: Path, module: str, *arguments: str) -> subprocess.CompletedProcess:
    """A command as its installed entry point runs it, the project both the current folder and first on PYTHONPATH."""
    entry = f"import sys; sys.argv[0] = {module!r}; from {module} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", entry, *arguments],
        cwd=project,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(project), str(ROOT))),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_commands_run_beside_a_conf_of_the_users(project):
    done = call(project, "meta.cli.train", *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    done = call(project, "meta.cli.evaluate", "run_dir=run", "tasks=4", "device=cpu")
    assert done.returncode == 0, done.stderr
    done = call(project, "meta.cli.train", "task.wayss=3")
    assert "did you mean task.ways?" in done.stderr


def test_sweep_in_other_processes_runs_beside_a_conf_of_the_users(project):
    joblib = ("sweep=joblib", "hydra.launcher.n_jobs=2")
    done = call(project, "meta.cli.train", "-m", *TINY, *joblib, "seed=0,1", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    assert len(list((project / "s").glob("*/result.json"))) == 2
