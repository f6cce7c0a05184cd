"""neo-new: a project is written whole or not at all, and trains on the user's own images."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra._internal.utils import get_args_parser
from PIL import Image

from meta.cli import new
from meta.cli.new import TEMPLATE, create
from meta.cli.overrides import ConfigError, check, parse
from tests.meta.cli.test_commands import ROOT, call

SMALL = [
    "task.dataset.images_per_class=5",
    "task.dataset.val_classes=2",
    "task.dataset.test_classes=2",
    "task.ways=2",
    "task.queries=3",
    "model.hidden=4",
    "trainer.iterations=3",
    "trainer.meta_batch=2",
    "trainer.log_every=1",
    "trainer.val_tasks=2",
    "evaluation.tasks=4",
    "device=cpu",
]


def draw_images(folder: Path, classes: int = 6, mode: str = "RGB") -> Path:
    """Class folders with 5 images each, and more in later classes."""
    generator = np.random.default_rng(0)
    for number in range(classes):
        (folder / f"class {number}").mkdir(parents=True)
        for copy in range(5 + number):
            pixels = generator.integers(40 * number, 40 * number + 40, (24, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / f"class {number}" / f"{copy}.png")
    return folder


def run(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python command in a process of its own, Neo being installed for it."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return create("bird_songs", tmp_path_factory.mktemp("projects"))


# --- what is written -------------------------------------------------------------------------------------------------


def test_project_is_the_template_under_its_own_name(project):
    written = contents(project)
    assert "bird_songs/algorithm.py" in written
    assert ".gitignore" in written
    assert not [name for name in written if "my_project" in name or "__pycache__" in name]
    assert not [name for name, text in written.items() if text is not None and b"my_project" in text]
    renamed = (TEMPLATE / "my_project" / "model.py").read_text().replace("my_project", "bird_songs")
    assert (project / "bird_songs" / "model.py").read_text() == renamed


def test_what_tools_leave_in_the_template_is_not_copied(tmp_path, monkeypatch):
    shutil.copytree(TEMPLATE, tmp_path / "template")
    for left in ("my_project/__pycache__/model.cpython-311.pyc", ".ruff_cache/0/1", ".mypy_cache/x.json"):
        (tmp_path / "template" / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "template" / left).write_bytes(b"\xff")
    monkeypatch.setattr(new, "TEMPLATE", tmp_path / "template")
    assert contents(create("one", tmp_path)).keys() == contents(create("two", tmp_path)).keys() ^ {
        *("one", "one/__init__.py", "one/algorithm.py", "one/data.py", "one/model.py", "one/swish.py"),
        *("two", "two/__init__.py", "two/algorithm.py", "two/data.py", "two/model.py", "two/swish.py"),
    }


@pytest.mark.parametrize("name", ["a", "Nets", "my_project", "x2_y"])
def test_name_of_a_package_is_taken(tmp_path, name):
    assert (create(name, tmp_path) / name / "data.py").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my-project", "did you mean my_project?"),
        ("my project", "did you mean my_project?"),
        ("3d", "must begin with a letter"),
        ("", "must begin with a letter"),
        ("_x", "must begin with a letter"),
        ("x_", "digits and underscores."),
        ("Übung", "digits and underscores."),
        ("../x", "must begin with a letter"),
        ("a/b", "digits and underscores."),
        ("class", "class is a keyword of Python; choose another name, as my_class."),
        ("json", "is a module of Python's standard library"),
        ("conf", "is a folder of the project beside its package"),
        ("tests", "is a folder of the project beside its package"),
        ("neo", "is installed already"),
        ("meta", "is installed already"),
        ("tasks", "is installed already"),
        ("torch", "is installed already"),
        ("six_namespace", "is installed already"),
    ],
)
def test_name_that_a_package_cannot_have_is_refused(tmp_path, monkeypatch, name, sentence):
    (tmp_path / "site" / "six_namespace").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "here").mkdir()
    done = call(tmp_path / "here", "new", name)
    assert (done.code, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "here").iterdir())


def test_folder_of_that_name_on_the_path_beside_it_is_no_reason_to_refuse(tmp_path, monkeypatch):
    """python -m puts the current folder on the path."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert call(tmp_path, "new", "nets", "--into", "elsewhere").code == 0


@pytest.mark.parametrize("kind", ["empty folder", "folder", "file", "link to nothing"])
def test_what_is_there_is_left_as_it_was(tmp_path, kind):
    target = tmp_path / "nets"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link to nothing":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "README.md").write_text("mine")
    before = contents(tmp_path)
    done = call(tmp_path, "new", "nets")
    assert done.code == 1
    assert "error: nets is there already, and was left as it is" in done.stderr
    assert contents(tmp_path) == before


def test_target_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for into in ("file", "nowhere"):
        done = call(tmp_path, "new", "nets", "--into", into)
        assert done.code == 1
        assert done.stderr.startswith(f"error: {into}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("files", [0, 1, 9])
def test_disk_that_runs_full_leaves_nothing(tmp_path, monkeypatch, files):
    write, written = Path.write_text, []

    def fails_in_the_end(path, *arguments, **options):
        if len(written) == files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fails_in_the_end)
    with pytest.raises(OSError, match=r"No space left on device.*nets"):
        create("nets", tmp_path)
    assert len(written) == files
    assert not list(tmp_path.iterdir())


def test_create_raises_for_a_name(tmp_path):
    with pytest.raises(ConfigError, match="did you mean a_b"):
        create("a-b", tmp_path)


# --- the project -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", pytest.param("L", marks=pytest.mark.slow)])
def test_one_command_trains_on_images_of_ones_own(project, tmp_path, mode):
    """Classes have unequal numbers of images."""
    images = draw_images(tmp_path / "own images", mode=mode)
    readme = (project / "README.md").read_text()
    command = "neo-train --config-dir conf experiment=own_images data_dir=path/to/images\n"
    assert command in readme
    words = command.split()[1:-1]
    done = run(
        project,
        *("-m", "neo", "train", *words, f"data_dir='{images}'"),
        *SMALL,
        f"task.dataset.channels={len(mode)}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["protocol"]["algorithm"] == "bird_songs.algorithm.MultiStepMAML"
    assert result["protocol"]["dataset"] == "image_folder"


def commands_of(page: Path) -> list[list[str]]:
    """Of the sh blocks of a page, what is typed after neo-train."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    words = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [one[1:] for one in words if one[0] == "neo-train"]


COMMANDS = [*commands_of(ROOT / "docs" / "your-own-project.md"), *commands_of(TEMPLATE / "README.md")]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_of_the_pages_have_keys_and_choices_that_exist(project, arguments):
    parsed = get_args_parser().parse_intermixed_args(arguments)
    folders = [project / parsed.config_dir] if parsed.config_dir else []
    check("train", parse(parsed.overrides), parsed.multirun, folders)


def test_pages_show_the_project_as_it_is(project):
    assert len(COMMANDS) >= 9
    page = (ROOT / "docs" / "your-own-project.md").read_text("utf-8")
    (tree,) = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for name in re.findall(r"\w+(?=/(?:\s|$))|\w+\.(?:py|md|toml)\b", tree):
        assert list(project.parent.rglob(name.replace("my_project", "bird_songs"))), name


@pytest.mark.slow
def test_tests_of_the_project_pass_and_its_code_is_clean(project):
    done = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
    for tool in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        done = run(project, "-m", *tool)
        assert done.returncode == 0, done.stdout
