"""Folders named conf, meta, tasks and scripts on the user's path: Neo's commands run beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.cli.test_commands import ROOT, TINY


@pytest.fixture(params=["package", "folder"])
def project(request, tmp_path: Path) -> Path:
    """A project with folders of Neo's names, whose train.yaml and device/cpu.yaml are not Neo's."""
    conf = tmp_path / "conf"
    (conf / "device").mkdir(parents=True)
    (conf / "train.yaml").write_text("mine: true\n")
    (conf / "device" / "cpu.yaml").write_text("# @package _global_\ndevice: mine\n")
    for name in ("meta", "tasks", "scripts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text("value = 1\n")
    if request.param == "package":
        for name in ("conf", "meta", "tasks", "scripts"):
            (tmp_path / name / "__init__.py").write_text("raise ImportError('imported')\n")
    return tmp_path


def call(project: Path, command: str, *arguments: str) -> subprocess.CompletedProcess:
    """A command as its installed entry point runs it, the project both the current folder and first on PYTHONPATH."""
    entry = f"import sys; sys.argv[0] = {command!r}; from neo.__main__ import {command}; {command}()"
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


@pytest.mark.slow
def test_commands_run_beside_a_conf_of_the_users(project):
    done = call(project, "train", *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    done = call(project, "evaluate", "run_dir=run", "tasks=4", "device=cpu")
    assert done.returncode == 0, done.stderr
    done = call(project, "train", "task.wayss=3")
    assert "did you mean task.ways?" in done.stderr
    done = call(project, "train", "algorithm._target_=tasks.mine.Mine")
    assert f"tasks is Neo's own; give your folder {project / 'tasks'} another name" in done.stderr


@pytest.mark.parametrize("before", ["", "import tasks; "], ids=["found", "imported already"])
def test_import_of_meta_names_a_tasks_package_in_the_place_of_neos(tmp_path, before):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("value = 1\n")
    done = subprocess.run(
        [sys.executable, "-c", f"{before}import meta"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(
        f"ImportError: meta needs Neo's package tasks, {ROOT / 'tasks'}, and `import tasks` finds {tmp_path}"
    )
    assert "Rename that folder" in said


def test_python_m_neo_runs_the_commands(project):
    done = subprocess.run(
        [sys.executable, "-m", "neo", "trian"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        "expected one of train, plan, evaluate, paired, report, xray, replay, reproduce, export, new, bench, got trian"
        in done.stderr
    )
    done = subprocess.run(
        [sys.executable, "-m", "neo", "evaluate"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "error: run_dir is missing" in done.stderr


@pytest.mark.exhaustive
def test_sweep_in_other_processes_runs_beside_a_conf_of_the_users(project):
    joblib = ("sweep=joblib", "hydra.launcher.n_jobs=2")
    done = call(project, "train", "-m", *TINY, *joblib, "seed=0,1", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    assert len(list((project / "s").glob("*/result.json"))) == 2
