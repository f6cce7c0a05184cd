"""A folder has one run: whoever is refused, at whatever moment, leaves every byte in it as it was."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from pathlib import Path

import pytest

from meta.cli import folders
from meta.cli.configs import composed
from meta.files import make_new_dir
from meta.report import read
from tests.meta.cli import victim
from tests.meta.cli.test_commands import TINY, call
from tests.meta.cli.test_kill import TINY as TINIEST

PATIENCE_S = 60.0


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below with a hash of its content; but for who holds the lock, which is no part of a run."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, run/, and a finished sweep of two arms, sweep/, in one folder."""
    cwd = tmp_path_factory.mktemp("original")
    for arguments in (
        ["hydra.run.dir=run", "seed=7"],
        ["-m", "algorithm.inner_lr=0.1,0.4", "hydra.sweep.dir=sweep"],
    ):
        done = call(cwd, "train", *TINY, *arguments)
        assert done.code == 0, done.stderr
    (cwd / "own" / "experiment").mkdir(parents=True)
    (cwd / "own" / "experiment" / "there.yaml").write_text(
        "# @package _global_\nseed: 9\nhydra:\n  run:\n    dir: run\n  sweep:\n    dir: sweep\n"
    )
    return cwd


@pytest.fixture
def cwd(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["seed=9", "hydra.run.dir=run"], "run holds a run already; continue it with resume="),
        (["--config-dir", "own", "seed=9", "hydra.run.dir=run"], "run holds a run already"),
        (["--config-dir", "own", "experiment=there"], "run holds a run already"),
        (["seed=9", "hydra.run.dir=run", "hydra.output_subdir=.hydra"], "run holds a run already"),
        (["seed=9", "hydra.run.dir=sweep/0"], "sweep/0 holds a run already"),
        (["seed=9", "hydra.run.dir=sweep"], "sweep holds a sweep, and a run needs a folder of its own"),
        (["-m", "seed=8,9", "hydra.sweep.dir=run"], "run holds runs already; choose another folder"),
        (["-m", "algorithm.inner_lr=0.5,0.6", "hydra.sweep.dir=sweep"], "sweep holds the sweep of another command"),
        (["hydra.mode=MULTIRUN", "seed=8,9", "hydra.sweep.dir=sweep"], "sweep holds the sweep of another command"),
        (["-m", "--config-dir", "own", "seed=8,9", "hydra.sweep.dir=sweep"], "sweep holds the sweep of another"),
        (["-m", "--config-dir", "own", "experiment=there", "trainer.keep=1,2"], "sweep holds the sweep of another"),
        (["resume=run", "trainer.iterations=2"], "trainer.iterations=2 is less than the 3 steps"),
        (["resume=run", "trainer.iterations=5", "device=cuda:99"], "device=cuda:99 was asked for"),
        (["resume=run", "trainer.iterations=5", "workers=0"], "invalid workers=0"),
    ],
)  # fmt: skip
def test_refused_command_leaves_every_byte_as_it_was(cwd, arguments, sentence):
    before = tree(cwd)
    done = call(cwd, "train", *TINY[: 0 if arguments[0].startswith("resume") else None], *arguments)
    assert done.code == 1
    assert sentence in done.stderr.splitlines()[-1], done.stderr
    assert tree(cwd) == before


@pytest.mark.slow
def test_what_was_refused_can_still_be_evaluated_and_resumed(cwd):
    assert call(cwd, "train", "--config-dir", "own", *TINY, "experiment=there").code == 1
    assert (
        call(cwd, "train", "-m", "--config-dir", "own", *TINY, "seed=8,9", "hydra.sweep.dir=sweep").code == 1
    )
    for name, *arguments in (
        ("evaluate", "run_dir=run", "tasks=4"),
        ("train", "resume=run", "trainer.iterations=4"),
    ):
        done = call(cwd, name, *arguments)
        assert done.code == 0, done.stderr
    assert [arm.settings["algorithm.inner_lr"] for arm in read(cwd / "sweep").arms] == [0.1, 0.4]


@pytest.mark.slow
def test_arm_of_a_changed_configuration_leaves_the_arm_as_it_was(cwd):
    """The command is the same, and a file of the user's that it composes has changed since."""
    (cwd / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 1\n")
    command = [
        "-m",
        "--config-dir",
        "own",
        *TINY,
        "experiment=mine",
        "trainer.keep=1,2",
        "hydra.sweep.dir=other",
    ]
    assert call(cwd, "train", *command).code == 0
    (cwd / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 2\n")
    before = tree(cwd / "other")
    done = call(cwd, "train", *command)
    assert done.code == 1
    assert "holds a run of another configuration" in done.stderr
    assert tree(cwd / "other") == before


def test_other_configurations_in_place_of_neo_s_are_refused(cwd):
    before = tree(cwd)
    done = call(cwd, "train", "--config-path", str(cwd / "own"), "seeed=9", "hydra.run.dir=run")
    assert (done.code, tree(cwd)) == (1, before)
    assert "give your own files with --config-dir" in done.stderr


def test_finished_run_says_that_nothing_was_left_and_how_to_make_it_longer(cwd):
    before = tree(cwd / "run")
    done = call(cwd, "train", "resume=run")
    assert done.code == 0, done.stderr
    assert tree(cwd / "run") == before
    found = re.search(
        r"nothing was left to do: .* longer: (resume=\S+) trainer.iterations=N, with N more than 3",
        done.stdout,
    )
    done = call(cwd, "train", found[1], "trainer.iterations=4")
    assert done.code == 0, done.stderr
    assert "nothing was left" not in done.stdout
    assert json.loads((cwd / "run" / "result.json").read_text())["iterations"] == 4


def test_log_of_a_refused_resume_is_as_it_was_and_that_of_one_that_goes_on_has_the_warning(cwd):
    last = sorted((cwd / "run" / "checkpoints").glob("step-*"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    before = tree(cwd)
    assert call(cwd, "train", "resume=run", "workers=0").code == 1
    assert tree(cwd) == before
    done = call(cwd, "train", "resume=run")
    assert done.code == 0, done.stderr
    assert "is damaged" in (cwd / "run" / "train.log").read_text()


# --- several at once -----------------------------------------------------------------------------------------------


def test_live_run_is_left_alone_and_its_holder_is_named(tmp_path):
    long = ["trainer.iterations=1000000", "trainer.val_every=0", "trainer.log_every=1000"]
    process = victim.start(tmp_path, *TINIEST, *long)
    try:
        while not (tmp_path / "run" / "checkpoints" / "step-00000000.safetensors").exists():
            assert process.is_alive(), (tmp_path / "output").read_text()
            time.sleep(0.01)
        for arguments in (["resume=run"], [*TINIEST, "seed=9"]):
            done = call(tmp_path, "train", *arguments)
            assert done.code == 1
            assert re.fullmatch(
                rf"error: \S+/run is being written by process {process.pid} on \S+ since [\d :-]+, which is alive; "
                r"nothing was changed\. Wait until it ends, or stop it.*\n",
                done.stderr,
            )
        assert "seed: 0\n" in (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
        assert not (tmp_path / "run" / "failure.json").exists()
        (arm,) = read(tmp_path / "run").arms
        assert arm.status == "unfinished"
    finally:
        process.kill()
        process.join(PATIENCE_S)
    assert (tmp_path / "run" / ".lock").exists()
    done = call(tmp_path, "train", "resume=run", "device=cuda:99")
    assert "device=cuda:99 was asked for" in done.stderr  # a killed holder keeps nobody out
    assert not (tmp_path / "run" / ".lock").exists()


def test_of_several_that_begin_at_once_in_one_folder_one_runs(tmp_path):
    command = [*TINIEST, "trainer.iterations=5", "trainer.val_every=0"]
    processes = [victim.start(tmp_path, *command, f"seed={seed}") for seed in range(3)]
    for process in processes:
        process.join(PATIENCE_S)
    codes = [process.exitcode for process in processes]
    assert sorted(codes) == [0, 1, 1], (tmp_path / "output").read_text()
    seed = codes.index(0)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["seed"] == seed
    assert (tmp_path / "run" / ".hydra" / "config.yaml").read_text().startswith(f"seed: {seed}\n")
    assert f"- seed={seed}\n" in (tmp_path / "run" / ".hydra" / "overrides.yaml").read_text()
    assert not (tmp_path / "run" / "failure.json").exists()
    done = call(tmp_path, "train", "resume=run", "trainer.iterations=6")
    assert done.code == 0, done.stderr


def test_runs_that_begin_in_one_second_have_folders_of_their_own(tmp_path):
    same = "hydra.run.dir='outputs/${now:%Y}'"  # a second that lasts a year
    processes = [victim.start(tmp_path, *TINIEST, "trainer.iterations=2", same) for _ in range(3)]
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0, (tmp_path / "output").read_text()
    found = sorted(path.name for path in (tmp_path / "outputs").iterdir())
    assert [name[4:] for name in found] == ["", "-2", "-3"]
    assert len(list((tmp_path / "outputs").glob("*/result.json"))) == 3


@pytest.mark.slow
def test_sweeps_that_begin_in_one_second_have_folders_of_their_own(cwd):
    command = ["-m", *TINY, "seed=0,1", "hydra.sweep.dir='multirun/${now:%Y}'"]
    for count in (1, 2):
        assert call(cwd, "train", *command).code == 0
        assert len(list((cwd / "multirun").glob("*/sweep.json"))) == count
        assert len(list((cwd / "multirun").glob("*/*/result.json"))) == 2 * count


def test_default_names_have_the_time_in_them_and_a_name_that_was_typed_is_taken_as_it_is(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = composed("train", with_hydra=True).hydra
    assert all(folders.own_dir(node).is_dir() for node in (config.run, config.sweep))
    assert folders.own_dir(composed("train", ["hydra.run.dir=here"], with_hydra=True).hydra.run) is None
    assert make_new_dir(tmp_path / "one") == tmp_path / "one"
    assert make_new_dir(tmp_path / "one") == tmp_path / "one-2"
