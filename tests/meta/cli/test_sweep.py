"""Sweeps as a user runs them: arms meet the same tasks, a command goes on where it stopped, nothing is overwritten."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
import torch

import meta
from meta.cli import sweeps
from meta.cli.configs import composed
from meta.cli.overrides import ConfigError, parse
from meta.experiment import Experiment
from meta.metrics_file import read_metrics
from meta.paired import difference
from meta.report import read
from meta.task_results import load
from tests.meta.cli.test_commands import TINY, call, start

RATES = ("algorithm.inner_lr=0.1,0.4", "seed=0,1", "task.seed=0")


def swept(cwd: Path, *arguments: str, timeout_s: float = 240) -> subprocess.Popen[str]:
    """train -m in a process of its own; its output in .out and .err."""
    process = start(cwd, "train", "-m", *TINY, *arguments)
    process.out, process.err = process.communicate(timeout=timeout_s)
    return process


def checksums(folder: Path) -> list[int]:
    return load(folder / "test.safetensors").record.checksums.tolist()


def training_tasks(folder: Path) -> list[int]:
    """Of the first meta-batches that the arm in this folder trained on, rebuilt from what it left."""
    overrides = [
        line[2:].strip().strip("'")
        for line in (folder / ".hydra" / "overrides.yaml").read_text().splitlines()
    ]
    sampler = Experiment(composed("train", overrides)).sampler("train")
    return [task.checksum() for step in range(3) for task in sampler.sample(step, 2)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Two rates by two seeds of the initial parameters, two arms at a time."""
    here = tmp_path_factory.mktemp("here")
    process = swept(here, "sweep=joblib", "hydra.launcher.n_jobs=2", *RATES, "hydra.sweep.dir=a sweep")
    assert process.returncode == 0, process.err
    assert sorted(line.split(":")[0] for line in process.out.splitlines() if line.startswith("arm ")) == [
        f"arm {number}" for number in range(4)
    ]
    return here / "a sweep"


@pytest.mark.slow
def test_arms_are_a_table_by_what_was_swept(sweep):
    pytest.importorskip("pandas", reason="pandas is not installed; pip install 'neo-meta[pandas]'")
    table = meta.results(sweep)
    assert list(table.columns[:4]) == ["run", "algorithm.inner_lr", "seed", "status"]
    assert list(table["algorithm.inner_lr"]) == [0.1, 0.1, 0.4, 0.4]
    assert list(table["seed"]) == [0, 1, 0, 1]
    rows = meta.metrics(sweep)
    assert list(rows.columns[:5]) == ["run", "algorithm.inner_lr", "seed", "step", "seconds"]
    for name in table.run:
        lines = read_metrics(sweep / name / "metrics.jsonl")
        assert list(rows[rows.run == name]["train/loss"]) == [line["train/loss"] for line in lines]


def test_all_arms_meet_the_same_tasks(sweep):
    """In training and in test, whatever the seed of their initial parameters."""
    arms = [sweep / str(number) for number in range(4)]
    assert len({tuple(checksums(arm)) for arm in arms}) == 1
    assert len({tuple(training_tasks(arm)) for arm in arms}) == 1
    first_losses = {arm.name: read_metrics(arm / "metrics.jsonl")[0]["train/loss"] for arm in arms}
    assert len(set(first_losses.values())) == 4  # and yet each is a run of its own


def test_training_tasks_follow_the_seed_unless_they_have_one_of_their_own(sweep, tmp_path):
    def drawn(*overrides: str) -> list[int]:
        sampler = Experiment(composed("train", [*TINY, *overrides])).sampler("train")
        return [task.checksum() for task in sampler.sample(0, 3)]

    assert drawn("seed=1", "task.seed=0") == drawn("seed=0") != drawn("seed=1")


def test_arms_are_compared_in_pairs(sweep):
    one, other = (load(sweep / name / "test.safetensors") for name in ("0", "2"))
    found = difference(one, other)
    assert found.tasks == 4
    assert found.mean == pytest.approx(float((other.record.scores - one.record.scores)[:, -1].mean()))
    done = call(sweep, "paired", "0", "2")
    assert done.code == 0, done.stderr
    assert f"of {found.tasks} common tasks" in done.stdout
    assert done.stdout.startswith("A  ")


def test_same_command_again_goes_on_and_runs_nothing_twice(sweep):
    """An arm that a kill cut off continues; the finished ones are left as they are."""
    arm = sweep / "1"
    whole = load(arm / "test.safetensors").record.scores
    for path in (arm / "result.json", arm / "test.safetensors", *arm.glob("checkpoints/step-00000003*")):
        path.unlink()
    before = (sweep / "0" / "result.json").stat().st_mtime_ns
    done = call(sweep.parent, "train", "-m", *TINY, *RATES, "hydra.sweep.dir='a sweep'")
    assert done.code == 0, done.stderr
    assert torch.equal(load(arm / "test.safetensors").record.scores, whole)
    assert [line["step"] for line in read_metrics(arm / "metrics.jsonl")] == [1, 2, 3]
    assert (sweep / "0" / "result.json").stat().st_mtime_ns == before


def test_folder_of_another_command_is_refused_before_anything_is_written(sweep):
    before = (sweep / "0" / ".hydra" / "config.yaml").read_text()
    done = call(sweep.parent, "train", "-m", *TINY, "seed=5,6", "hydra.sweep.dir='a sweep'")
    assert done.code == 1
    assert "error: a sweep holds the sweep of another command (" in done.stderr
    assert (sweep / "0" / ".hydra" / "config.yaml").read_text() == before


def test_failed_arm_leaves_its_reason(tmp_path):
    done = call(tmp_path, "train", "-m", *TINY, "algorithm.inner_lr=1e38,0.4", "hydra.sweep.dir=s")
    assert done.code == 1
    failure = json.loads((tmp_path / "s" / "0" / "failure.json").read_text())
    assert failure["error"] == "TrainingError"
    assert failure["sentence"].startswith("step 1: ")
    assert not (tmp_path / "s" / "1" / "failure.json").exists()
    assert [arm.status for arm in read(tmp_path / "s").arms] == ["failed", "finished"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sweep=joblib"], "error: sweep=joblib says how the arms of a sweep are run; add -m"),
        (["-m", "sweep=jobs"], "error: invalid sweep 'jobs'; did you mean joblib?"),
    ],
)
def test_sweep_that_cannot_be_is_refused_in_one_sentence(tmp_path, arguments, sentence):
    done = call(tmp_path, "train", *arguments)
    assert done.code == 1
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_plugin_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(sweeps, "installed", lambda module: False)
    for choice, extra in (("joblib", "sweep"), ("optuna", "sweep"), ("slurm", "slurm"), ("ray", "ray")):
        with pytest.raises(ConfigError, match=rf"sweep={choice} needs .* pip install 'neo-meta\[{extra}\]'"):
            sweeps.require(choice)


@pytest.mark.parametrize(
    ("choice", "launcher", "sweeper"),
    [
        ("grid", "BasicLauncher", "BasicSweeper"),
        ("joblib", "JoblibLauncher", "BasicSweeper"),
        ("optuna", "BasicLauncher", "OptunaSweeper"),
        ("successive_halving", "BasicLauncher", "OptunaSweeper"),
        ("slurm", "SlurmLauncher", "BasicSweeper"),
        ("ray", "RayLauncher", "BasicSweeper"),
    ],
)
def test_choice_composes_its_launcher_and_sweeper(choice, launcher, sweeper):
    module, extra = sweeps.PLUGINS.get(choice, ("hydra", ""))
    if not sweeps.installed(module):
        pytest.skip(f"{module} is not installed; pip install 'neo-meta[{extra}]'")
    hydra = composed("train", [f"sweep={choice}"], with_hydra=True).hydra
    assert hydra.launcher._target_.endswith(f".{launcher}")
    assert hydra.sweeper._target_.endswith(f".{sweeper}")


def test_launcher_of_the_command_line_wins_over_the_choice_s():
    hydra = composed("train", ["sweep=optuna", "hydra/launcher=joblib"], with_hydra=True).hydra
    assert hydra.launcher._target_.endswith(".JoblibLauncher")
    assert hydra.sweeper.study_name == "study"


@pytest.mark.slow
def test_submitit_runs_arms_on_its_local_executor(tmp_path):
    """Slurm itself is not here; what is pickled, sent and unpickled is the same."""
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed; pip install 'neo-meta[slurm]'")
    process = swept(
        tmp_path,
        "hydra/launcher=submitit_local",
        "hydra.launcher.timeout_min=5",
        *RATES[1:],
        "hydra.sweep.dir=s",
    )
    assert process.returncode == 0, process.err
    assert [arm.status for arm in read(tmp_path / "s").arms] == ["finished", "finished"]


@pytest.mark.slow
def test_ray_runs_arms_on_this_machine(tmp_path):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; pip install 'neo-meta[ray]'")
    process = swept(tmp_path, "sweep=ray", *RATES[1:], "hydra.sweep.dir=s")
    assert process.returncode == 0, process.err
    assert [arm.status for arm in read(tmp_path / "s").arms] == ["finished", "finished"]


# --- configuration files of a sweep ---------------------------------------------------------------------------------


def conf(cwd: Path, name: str, text: str) -> None:
    path = cwd / "mine" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


PARAMS = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      {}\n"


@pytest.mark.slow
def test_sweep_whose_files_have_changed_is_refused_and_left_as_it_was(tmp_path):
    conf(tmp_path, "algorithm/own", "_target_: meta.MAML\ninner_lr: 0.3\n")
    command = ("-m", "--config-dir", "mine", *TINY, "algorithm=maml,own", "hydra.sweep.dir=s")
    assert call(tmp_path, "train", *command).code == 0
    before = content(tmp_path / "s")
    conf(tmp_path, "algorithm/own", "_target_: meta.MAML\ninner_lr: 0.2\n")
    refused = call(tmp_path, "train", *command)
    assert refused.code == 1
    assert (
        "error: the sweep in s holds a run of another configuration than its files have now: with "
        in refused.stderr
    )
    assert "algorithm=own, algorithm.inner_lr was 0.3, and is 0.2 now." in refused.stderr
    assert content(tmp_path / "s") == before
    conf(tmp_path, "algorithm/own", "_target_: meta.MAML\ninner_lr: 0.3\nfirst_order: true\n")
    assert "algorithm.first_order was None, and is True now" in call(tmp_path, "train", *command).stderr
    assert content(tmp_path / "s") == before


def test_sweep_of_before_its_record_had_configurations_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = parse(["seed=0,1", "logger=[csv,wandb]", "hydra.sweep.dir=s"])
    sweeps.prepare("train", command)
    path = tmp_path / "s" / "sweep.json"
    record = json.loads(path.read_text())
    (settings,) = record.pop("configurations").values()
    assert settings["algorithm.inner_lr"] == "${oc.select:task.inner_lr,0.4}"
    assert settings["logger.wandb.project"] == "neo"
    sweeps.prepare("train", command)
    path.write_text(json.dumps(record))
    before = content(tmp_path / "s")
    sweeps.prepare("train", command)
    assert content(tmp_path / "s") == before


@pytest.mark.slow
def test_what_a_file_sweeps_over_is_in_the_record_and_what_is_typed_goes_before(tmp_path):
    conf(tmp_path, "sweep/rates", PARAMS.format("{algorithm.inner_lr: '0.1,0.4', seed: '0,1'}"))
    command = ("-m", "--config-dir", "mine", "sweep=rates", *TINY, "seed=5", "hydra.sweep.dir=s")
    done = call(tmp_path, "train", *command)
    assert done.code == 0, done.stderr
    record = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert {"algorithm.inner_lr=0.1,0.4", "seed=5"} <= {*record["overrides"]}
    assert not {"seed=0,1"} & {*record["overrides"]}
    assert sorted(path.name for path in (tmp_path / "s").iterdir() if path.is_dir()) == ["0", "1"]
    before = content(tmp_path / "s")
    conf(tmp_path, "sweep/rates", PARAMS.format("{algorithm.inner_lr: '0.1,0.5'}"))
    refused = call(tmp_path, "train", *command)
    assert "holds the sweep of another command (algorithm.inner_lr=0.1,0.4 " in refused.stderr
    assert content(tmp_path / "s") == before


@pytest.mark.parametrize("sweeper", ["", "defaults:\n  - optuna\n  - _self_\n"])
@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ("{algorithm.inner_lr: '0.1,high'}", "algorithm.inner_lr=high is not a number"),
        ("{algorithm.inner_lr: [0.1, 0.4]}", "algorithm.inner_lr=[0.1,0.4] is not a number"),
        ("{task.shots: '2,3.5'}", "task.shots=3.5 is not an integer"),
        (
            "{algorithm.iner_lr: '0.1,0.2'}",
            "unknown key 'algorithm.iner_lr'; did you mean algorithm.inner_lr?",
        ),
        ("{algorithm: 'maml,mmal'}", "invalid algorithm 'mmal'; did you mean maml?"),
    ],
)
def test_what_a_file_sweeps_over_is_checked_as_if_it_were_typed(tmp_path, sweeper, params, sentence):
    text = PARAMS.format(params)
    conf(tmp_path, "sweep/rates", text.replace("hydra:", f"{sweeper}hydra:", 1))
    done = call(tmp_path, "train", "-m", "--config-dir", "mine", "sweep=rates", *TINY, "hydra.sweep.dir=s")
    assert done.code == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: hydra.sweeper.params: {sentence}")
    assert not (tmp_path / "s").exists()
