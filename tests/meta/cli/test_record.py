"""What a folder says of its run and what the run's files say agree, or every command names the key and both values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from meta import checkpoint, load
from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.record import disagreements, make, read
from meta.report import read as read_report
from tests.meta.cli.test_claim import tree
from tests.meta.cli.test_commands import TINY, Done, call

COMMANDS = {
    "evaluate": ("run_dir=run", "tasks=3"),
    "paired": ("run", "other"),
    "report": ("run",),
    "train": ("resume=run", "trainer.iterations=5"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs that differ in their seed and rate, run/ and other/."""
    cwd = tmp_path_factory.mktemp("original")
    for name, *settings in (
        ("run", "seed=7", "algorithm.inner_lr=0.4"),
        ("other", "seed=9", "algorithm.inner_lr=0.1"),
    ):
        done = call(cwd, "train", *TINY, *settings, f"hydra.run.dir={name}")
        assert done.code == 0, done.stderr
    return cwd


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "here")
    return tmp_path / "here" / "run"


def edit(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def said(command: str, run: Path) -> Done:
    return call(run.parent, command, *COMMANDS[command])


def assert_named(run: Path, commands: str, *parts: str) -> None:
    """Each command says all the parts, in one sentence; and but for the report's page leaves everything as it is."""
    before = tree(run)
    for command in commands.split():
        done = said(command, run)
        assert done.code == (0 if command == "report" else 1), (command, done.stdout)
        (sentence,) = done.stderr.splitlines()
        for part in parts:
            assert part in sentence, (command, sentence)
        (run / "report.html").unlink(missing_ok=True)
        assert tree(run) == before


@pytest.mark.slow
def test_every_file_of_a_run_has_the_same_record(run):
    record = read(run)
    assert record["config"]["algorithm.inner_lr"] == 0.4
    assert record["seeds"] == {"seed": 7, "task": 7, "evaluation": 0}
    assert set(record["versions"]) == {"neo", "python", "torch", "numpy"}
    assert len(record["data"]["checksum"]) == 64
    assert not {"trainer.iterations", "device", "data_dir"} & set(record["config"])
    assert json.loads((run / "result.json").read_text())["record"] == record
    for path in (run / "checkpoints").iterdir():
        assert read_header(path)["record"] == record
    assert call(run.parent, "evaluate", "run_dir=run", "tasks=3").code == 0
    for name in ("test", "evaluation"):
        with safe_open(run / f"{name}.safetensors", "pt") as file:
            assert json.loads(file.metadata()["neo-results"])["record"] == record
    assert read(run.parent / "other")["sha256"] != record["sha256"]


def test_record_stays_what_it_was_when_a_run_goes_on(run):
    before = (run / "record.json").read_bytes()
    for iterations in (4, 5):
        done = call(run.parent, "train", "resume=run", f"trainer.iterations={iterations}", "workers=1")
        assert done.code == 0, done.stderr
    assert (run / "record.json").read_bytes() == before
    assert json.loads((run / "result.json").read_text())["record"] == json.loads(before)
    assert said("paired", run).code == said("report", run).code == 0
    (arm,) = read_report(run).arms
    assert (arm.status, arm.recorded) == ("finished", True)


@pytest.mark.parametrize(
    ("name", "old", "new", "key", "parts"),
    [
        (".hydra/config.yaml", "seed: 7", "seed: 9", "seed", ("is 9 in", "config.yaml", "7 in")),
        (".hydra/config.yaml", "inner_lr: 0.4", "inner_lr: 0.5", "algorithm.inner_lr", ("0.5 ", "0.4 ")),
        ("record.json", '"seed": 7', '"seed": 8', "seed", ("8 in", "record.json", "is 7 in")),
        ("record.json", '"dataset": "glyphs"', '"dataset": "mine"', "data.dataset", ("'mine'", "'glyphs'")),
        ("record.json", '"numpy": "', '"numpy": "0.', "versions.numpy", ("record.json",)),
    ],
)
def test_folder_that_says_otherwise_is_named_by_key_and_values(run, name, old, new, key, parts):
    edit(run / name, old, new)
    if key in ("seed", "algorithm.inner_lr") and name.startswith("."):
        # The configuration is compared with the checkpoint first, in words of its own.
        assert_named(run, "evaluate train", f"{key} is", f"{new.split()[-1]} in", "config.yaml")
        assert_named(run, "paired report", f"{key} is", *parts)
    else:
        assert_named(run, "evaluate train paired report", f"{key} is", *parts)


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("result.json", "evaluate train report"),
        ("test.safetensors", "paired report"),
        ("record.json", "evaluate train paired report"),
    ],
)
def test_file_of_another_run_is_named_by_key_and_values(run, name, commands):
    shutil.copy(run.parent / "other" / name, run / name)
    assert_named(run, commands, "algorithm.inner_lr is", "0.1 in", "0.4 in", "seed is", "9 in", "7 in")


def test_checkpoint_of_another_run_is_refused_where_no_configuration_tells(run):
    shutil.rmtree(run / ".hydra")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(run.parent / "other" / "checkpoints", run / "checkpoints")
    assert_named(run, "evaluate train", "algorithm.inner_lr is 0.1 in", " and 0.4 in ", "record.json")
    with pytest.raises(CheckpointError, match=r"are not all of one run: algorithm\.inner_lr is 0\.1"):
        load(run)


def test_cut_record_is_named_as_damaged(run):
    whole = (run / "record.json").read_text()
    (run / "record.json").write_text(whole[:-40])
    assert_named(run, "evaluate train paired report", "record.json")
    (run / "record.json").write_text(whole)
    edit(run / "record.json", read(run)["sha256"], "0" * 64)
    assert_named(run, "evaluate train paired report", "sha256 of the record is", "record.json")


def test_copies_agree_with_each_other_where_record_json_is_gone(run):
    (run / "record.json").unlink()
    assert said("evaluate", run).code == 0
    shutil.copy(run.parent / "other" / "result.json", run / "result.json")
    assert_named(run, "evaluate train report", "seed is", "9 in", "7 in")


def test_arm_whose_files_disagree_is_in_no_comparison(run):
    edit(run / ".hydra" / "config.yaml", "inner_lr: 0.4", "inner_lr: 0.5")
    sweep = read_report(run.parent)
    assert {arm.name: arm.status for arm in sweep.arms} == {"run": "inconsistent", "other": "finished"}
    assert sweep.reference().name == "other"
    done = call(run.parent, "report", ".")
    assert done.stderr.startswith(
        "run is left out of all comparisons: its files are not all of one run: algorithm.inner"
    )
    page = (run.parent / "report.html").read_text()
    assert '<span class="pill inconsistent">inconsistent</span>' in page
    assert 'class="whisker' not in page  # no difference to the other arm


def test_infinity_in_a_configuration_is_no_disagreement(tmp_path):
    about = {
        "composed": {"a": float("inf"), "b": [float("nan"), (1, 2)]},
        "seeds": {},
        "data": {"x": ("y",)},
        "versions": {},
    }
    record = make(about)
    (tmp_path / "record.json").write_text(json.dumps(record))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("a: .inf\nb: [.nan, [1, 2]]\n")
    assert disagreements(tmp_path, {tmp_path / "copy": json.loads(json.dumps(record))}) == []
    (tmp_path / ".hydra" / "config.yaml").write_text("a: 1.0\nb: [.nan, [1, 2]]\n")
    (found,) = disagreements(tmp_path, {tmp_path / "copy": record})
    assert found.startswith("a is 1.0 in")


# --- runs that have no record --------------------------------------------------------------------------------------


def forget(run: Path) -> None:
    """Make a run what one of Neo 0.1.0 is."""
    (run / "record.json").unlink()
    result = json.loads((run / "result.json").read_text())
    del result["record"]
    (run / "result.json").write_text(json.dumps(result))
    for path in [*(run / "checkpoints").iterdir(), run / "test.safetensors"]:
        with safe_open(path, "pt") as file:
            header = file.metadata()
        name = "neo" if "neo" in header else "neo-results"
        about = json.loads(header[name])
        del about["record"]
        header[name] = json.dumps(about)
        tensors = load_file(path)
        if "sha256" in header:
            header["sha256"] = checkpoint._checksum(header["neo"], tensors)
        save_file(tensors, path, header)


def test_run_without_a_record_is_read_and_said_to_have_none(run):
    forget(run)
    done = said("evaluate", run)
    assert done.code == 0, done.stderr
    assert "has no record of its run" in done.stdout
    done = said("paired", run)
    assert done.code == 0, done.stderr
    of_run, of_other, *_ = done.stdout.splitlines()
    assert of_run.endswith("test.safetensors, no record of its run")
    assert of_other.endswith("test.safetensors")
    done = said("report", run)
    assert (done.code, done.stderr) == (0, "")
    assert "No record of the run" in (run / "report.html").read_text()
    assert load(run).iteration == 3


def test_run_without_a_record_goes_on_without_one(run):
    forget(run)
    done = said("train", run)
    assert done.code == 0, done.stderr
    assert "has no record of its run" in done.stdout
    assert read(run) is None
    assert read_header(Checkpoints(run / "checkpoints").last())["record"] is None
    assert said("evaluate", run).code == 0
    (arm,) = read_report(run).arms
    assert (arm.status, arm.recorded) == ("finished", False)


def test_old_checkpoint_in_the_folder_of_a_run_with_a_record_is_refused(run):
    record = (run / "record.json").read_bytes()
    forget(run)
    (run / "record.json").write_bytes(record)
    assert_named(run, "evaluate train paired report", "has no record, and", "record.json is one")
