"""What may befall a run from outside: one clear sentence, an exit code, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from meta import checkpoint
from meta.checkpoint import Checkpoints
from meta.machine import versions
from meta.metrics_file import read_metrics
from tests.meta.cli import victim
from tests.meta.cli.test_commands import ROOT, TINY, Done, call
from tests.meta.cli.test_kill import TINY as TINIEST
from tests.tasks.synthetic import HALVES, entries, write_zip
from tests.tasks.synthetic import TINY as DRAWN


def one_sentence(done: Done, *parts: str) -> None:
    assert done.code == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for part in parts:
        assert part in done.stderr


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run, but for hydra's log of what was said."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "train.log"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def timeless(folder: Path) -> list[dict]:
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("original")
    done = call(cwd, "train", *TINY, "trainer.checkpoint_every=1", "hydra.run.dir=run")
    assert done.code == 0, done.stderr
    return cwd / "run"


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A finished run of three steps with a checkpoint of each."""
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def last(run: Path) -> Path:
    return Checkpoints(run / "checkpoints").paths()[-1]


# --- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_truncated_checkpoint_costs_the_steps_since_the_one_before(run, original, keep):
    whole = last(run).read_bytes()
    last(run).write_bytes(whole[: int(keep * len(whole))])
    done = call(run.parent, "train", "resume=run")
    assert done.code == 0, done.stderr
    assert "is damaged" in done.stdout
    assert "step-00000003.safetensors" in done.stdout
    assert timeless(run) == timeless(original)
    assert (run / "checkpoints" / "step-00000003.damaged").is_file()
    like, theirs = (checkpoint.read_header(last(folder)) for folder in (run, original))
    assert like["step"] == theirs["step"] == 3


@pytest.mark.parametrize(
    "command", [("train", "resume=run", "trainer.iterations=5"), ("evaluate", "run_dir=run")]
)
def test_run_whose_checkpoints_are_all_damaged_is_refused(run, command):
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    before = content(run)
    one_sentence(
        call(run.parent, *command), "step-00000003.safetensors is damaged", "There is no good one before it"
    )
    assert content(run) == before


@pytest.mark.parametrize("byte", [3, 200, -5, -700])
def test_flipped_bit_is_never_read_as_a_number(run, byte):
    for path in (run / "checkpoints").iterdir():
        flipped = bytearray(path.read_bytes())
        flipped[byte] ^= 1
        path.write_bytes(flipped)
    one_sentence(call(run.parent, "evaluate", "run_dir=run"), "is damaged")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("train", "resume=run", "trainer.iterations=5"), ("evaluate", "run_dir=run")]
)
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model.hidden=5", ("is of another model: model.hidden is 5 in it, and 4 in",)),
        ("task.dataset.seed=5", ("is of another dataset or task: task.dataset.seed is 5 in it, and 0 in",)),
        ("algorithm=fomaml", ("is of another algorithm: algorithm.first_order is True in it, and False in",)),
        ("optimizer.lr=0.5", ("is of another optimiser: optimizer.lr is 0.5 in it, and 0.001 in",)),
        ("seed=3", ("is of another run: seed is 3 in it, and 0 in",)),
    ],
)
def test_checkpoint_of_another_run_is_refused_by_name(run, override, parts, command):
    other = call(run.parent, "train", *TINY, "trainer.iterations=4", override, "hydra.run.dir=other")
    assert other.code == 0, other.stderr
    shutil.copy(last(run.parent / "other"), run / "checkpoints")
    before = content(run)
    one_sentence(call(run.parent, *command), "step-00000004.safetensors", *parts)
    assert content(run) == before


def test_checkpoint_of_another_program_is_refused(run):
    for path in (run / "checkpoints").glob("step-*"):
        save_file({"x": torch.zeros(1)}, path)
    one_sentence(call(run.parent, "train", "resume=run"), "is not a checkpoint of Neo")


def test_checkpoint_of_another_format_is_refused(run, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    one_sentence(
        call(run.parent, "train", "resume=run"), "is of checkpoint format 3, and this Neo reads format 99"
    )


def test_checkpoint_of_another_version_is_refused_by_name(run, monkeypatch):
    before = content(run)
    monkeypatch.setattr("meta.resume.versions", lambda: {**versions(), "neo": "9.9"})
    done = call(run.parent, "train", "resume=run", "trainer.iterations=5")
    one_sentence(done, f"was written by version {versions()['neo']} of Neo, this is 9.9")
    assert content(run) == before


def test_another_torch_is_named_and_the_run_goes_on(run, monkeypatch):
    monkeypatch.setattr("meta.resume.versions", lambda: {**versions(), "torch": "3.0"})
    done = call(run.parent, "train", "resume=run", "trainer.iterations=4")
    assert done.code == 0, done.stderr
    assert "now it is 3.0: the run goes on, but perhaps not bit for bit" in done.stdout


# --- what is typed with resume -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["seed=1"], "seed cannot change when a run is resumed"),
        (["algorithm.inner_lr=0.1"], "algorithm.inner_lr cannot change when a run is resumed"),
        (
            ["trainer.iteration=5"],
            "unknown key 'trainer.iteration'; did you mean trainer.iterations?",
        ),
        (["trainer.iterations=2"], "trainer.iterations=2 is less than the 3 steps"),
        (["-m", "trainer.iterations=4,5"], "resume continues one run, -m starts several"),
    ],
)
def test_resume_refuses_what_would_be_another_run(run, arguments, sentence):
    before = content(run)
    done = call(run.parent, "train", *arguments, "resume=run")
    assert done.code == 1
    assert sentence in done.stderr.splitlines()[-1]
    assert content(run) == before


@pytest.mark.parametrize("override", ["logger=none", "workers=2", "trainer.keep=1", "device=cpu"])
def test_resume_takes_what_changes_no_number(run, override):
    assert call(run.parent, "train", "resume=run", "trainer.iterations=4", override).code == 0
    assert json.loads((run / "result.json").read_text())["iterations"] == 4


# --- data ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_omniglot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with the two zips of an Omniglot of four characters, two drawings each, all that is expected."""
    monkeypatch.setattr("tasks.omniglot.CHARACTERS", {half: len(names) for half, names in DRAWN.items()})
    monkeypatch.setattr("tasks.omniglot.IMAGES_PER_CLASS", 2)
    for half in HALVES:
        write_zip(tmp_path / "data" / f"{half}.zip", entries(half, DRAWN[half]))
    return tmp_path / "data"


def test_class_with_too_few_images_for_the_task_is_refused(tmp_path):
    done = call(tmp_path, "train", *TINY, "task.shots=10", "task.queries=15")
    one_sentence(done, "shots=10 and queries=15 need 25 images of each class, and glyphs has 20")


def test_class_with_too_few_images_in_its_archive_is_refused_by_name(small_omniglot):
    held = entries(HALVES[1], DRAWN[HALVES[1]])
    write_zip(small_omniglot / f"{HALVES[1]}.zip", dict(list(held.items())[:-1]))
    done = call(small_omniglot.parent, "train", *TINY[3:], "task=omniglot", f"data_dir={small_omniglot}")
    one_sentence(done, "Omniglot: ULOG/character01 has 1 images, expected 2")


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "images_evaluation/../../outside.png"])
def test_zip_that_points_outside_its_folder_is_refused(small_omniglot, name):
    held = entries(HALVES[1], DRAWN[HALVES[1]])
    write_zip(small_omniglot / f"{HALVES[1]}.zip", held | {name: next(iter(held.values()))})
    done = call(small_omniglot.parent, "train", *TINY[3:], "task=omniglot", f"data_dir={small_omniglot}")
    one_sentence(done, "images_evaluation.zip has an entry that points outside")
    assert not list(small_omniglot.parent.rglob("outside*"))


def test_interrupted_download_leaves_nothing_that_is_taken_for_data(small_omniglot, monkeypatch):
    served, place = small_omniglot, small_omniglot.parent / "place"

    def torchvision(broken: bool) -> SimpleNamespace:
        def omniglot(root: str, *, background: bool, download: bool) -> None:
            name = f"{HALVES[0 if background else 1]}.zip"
            (Path(root) / "omniglot-py").mkdir()
            whole = (served / name).read_bytes()
            if broken and not background:
                (Path(root) / "omniglot-py" / name).write_bytes(whole[:100])
                raise ConnectionResetError(104, "Connection reset by peer")
            (Path(root) / "omniglot-py" / name).write_bytes(whole)

        return SimpleNamespace(datasets=SimpleNamespace(Omniglot=omniglot))

    monkeypatch.setattr("tasks.omniglot.import_torchvision", lambda: torchvision(broken=True))
    command = ["train", *TINY[3:], "task=omniglot", f"data_dir={place}"]
    one_sentence(call(served.parent, *command), "the download failed ([Errno 104] Connection reset by peer)")
    assert [path.name for path in place.rglob("*") if path.is_file()] == ["images_background.zip"]
    assert (place / "omniglot-py" / "images_background.zip").read_bytes() == (
        served / "images_background.zip"
    ).read_bytes()
    monkeypatch.setattr("tasks.omniglot.import_torchvision", lambda: torchvision(broken=False))
    done = call(served.parent, *command)  # all there now, only fewer than the splits are made for
    one_sentence(done, "the splits are of all 1623 characters of Omniglot in sorted order, got 4 names")


# --- the disk ------------------------------------------------------------------------------------------------------


def test_run_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = call(tmp_path, "train", *TINY, "hydra.run.dir=file/run")
    one_sentence(done, "file/run: Not a directory")


def test_file_that_cannot_grow_ends_the_run_with_all_that_was_written(tmp_path):
    """A limit on the size of files stands in for the full disk, which needs a disk of one's own."""
    arguments = [*TINIEST, "trainer.iterations=160", "trainer.checkpoint_every=40", "trainer.val_every=0"]
    (tmp_path / "whole").mkdir()
    for cwd, limit in ((tmp_path / "whole", None), (tmp_path / "full", 16_000)):
        process = victim.start(cwd, *arguments, file_limit=limit)
        process.join(100)
        assert process.exitcode == (1 if limit else 0), (cwd / "output").read_text()
    run = tmp_path / "full" / "run"
    sentence = (tmp_path / "full" / "output").read_text().splitlines()[-1]
    assert sentence.startswith(
        f"error: {run}/metrics.jsonl: File too large. What was written before is whole;"
    )
    assert sentence.endswith(f"continue with: resume={run}")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) > 20
    assert all(line.endswith("}\n") for line in lines)
    process = victim.start(tmp_path / "full", "resume=run")
    process.join(100)
    assert process.exitcode == 0
    assert timeless(run) == timeless(tmp_path / "whole" / "run")


def mounted(cwd: Path, script: str) -> None:
    """Run a shell script as root of a namespace with mounts of its own; $TRAIN is the command."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare here, to mount a disk with; util-linux has it")
    probe = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(cwd)],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip(f"no disk can be mounted here: {probe.stderr.strip()}")
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HOME": str(cwd),
        "TRAIN": f"{sys.executable} {ROOT / 'scripts' / 'train.py'}",
        "TINY": " ".join(TINY),
        "TINIEST": " ".join(TINIEST),
    }
    subprocess.run(
        ["unshare", "-rm", "sh", "-euc", script], cwd=cwd, env=environment, check=True, timeout=300
    )


def ended(cwd: Path, name: str) -> Done:
    return Done(int((cwd / f"{name}.code").read_text()), "", (cwd / f"{name}.err").read_text())


@pytest.mark.exhaustive
def test_full_disk_ends_the_run_and_room_lets_it_go_on(tmp_path):
    mounted(
        tmp_path,
        """
        TINY="$TINIEST trainer.iterations=600 trainer.checkpoint_every=50 trainer.keep=2 trainer.val_every=0"
        mkdir disk whole
        mount -t tmpfs -o size=100k none disk
        code=0; $TRAIN $TINY hydra.run.dir=disk/run > full.out 2> full.err || code=$?
        echo $code > full.code
        mount -o remount,size=20m none disk
        $TRAIN resume=disk/run > /dev/null 2>&1
        cp -r disk/run kept
        $TRAIN $TINY hydra.run.dir=whole/run > /dev/null 2>&1
        """,
    )
    done = ended(tmp_path, "full")
    assert done.code == 1
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"error: {tmp_path}/disk/run/")
    assert "No space left on device. What was written before is whole;" in sentence
    assert sentence.endswith(f"continue with: resume={tmp_path}/disk/run")
    assert "Traceback" not in done.stderr
    assert timeless(tmp_path / "kept") == timeless(tmp_path / "whole" / "run")
    results = [
        json.loads((run / "result.json").read_text())
        for run in (tmp_path / "kept", tmp_path / "whole" / "run")
    ]
    assert results[0]["test/accuracy"] == results[1]["test/accuracy"]


@pytest.mark.slow
def test_read_only_folder_is_named_and_left_as_it_is(run):
    cwd, before = run.parent, content(run)
    mounted(
        cwd,
        """
        mkdir disk
        mount -t tmpfs -o ro none disk
        code=0; $TRAIN $TINY hydra.run.dir=disk/run > new.out 2> new.err || code=$?
        echo $code > new.code
        mount --bind run run
        mount -o remount,bind,ro run
        code=0; $TRAIN resume=run trainer.iterations=5 > old.out 2> old.err || code=$?
        echo $code > old.code
        """,
    )
    one_sentence(ended(cwd, "new"), "disk/run: Read-only file system")
    one_sentence(ended(cwd, "old"), f"{run}", "Read-only file system")
    assert content(run) == before


def test_evaluation_that_cannot_be_written_is_printed_in_full(run, monkeypatch):
    whole = call(run.parent, "evaluate", "run_dir=run", "tasks=4", "name=whole")
    assert whole.code == 0, whole.stderr

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("meta.task_results.atomic_write", full)
    before = content(run)
    done = call(run.parent, "evaluate", "run_dir=run", "tasks=4", "name=lost")
    one_sentence(done, "run/lost.safetensors: No space left on device. The numbers are above, in full")
    assert json.loads(done.stdout) == json.loads((run / "whole.json").read_text())
    assert content(run) == before


@pytest.mark.slow
def test_read_only_run_is_not_evaluated_in_vain(run):
    mounted(
        run.parent,
        """
        mount --bind run run
        mount -o remount,bind,ro run
        code=0; ${TRAIN%train.py}evaluate.py run_dir=run tasks=1000000000 > read.out 2> read.err || code=$?
        echo $code > read.code
        """,
    )
    one_sentence(ended(run.parent, "read"), "run: Read-only file system")


# --- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_run_with_a_checkpoint_and_how_to_go_on(tmp_path, number):
    process = victim.start(
        tmp_path,
        *TINY,
        "trainer.iterations=100000",
        "trainer.checkpoint_every=50000",
        "hydra.run.dir='it runs'",
    )
    run, patience = tmp_path / "it runs", time.monotonic() + 60
    while not ((run / "metrics.jsonl").exists() and read_metrics(run / "metrics.jsonl")):
        assert time.monotonic() < patience, (tmp_path / "output").read_text()
        time.sleep(0.01)
    victim.send(process, number)
    process.join(60)
    assert process.exitcode == 128 + number
    output = (tmp_path / "output").read_text()
    logged = read_metrics(run / "metrics.jsonl")[-1]["step"]
    assert last(run).name == f"step-{logged:08d}.safetensors"
    assert f"""continue with: 'resume='"'"'{run}'"'"''""" in output
    assert "Traceback" not in output
