"""Build the sdist, install it in an environment of its own, import it from an empty folder.

    python .ci/check_sdist.py

Catches what an editable install hides: a source, stub or configuration file that does not travel. Then a project of
neo-new's trains there on images, beside folders of the names of Neo's own. Dependencies are borrowed from the
environment that runs this; Neo is built from the sdist, isolated, as pip does for users.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_SDIST = (
    "pyproject.toml",
    "setup.py",
    "LICENSE",
    "README.md",
    "neo/py.typed",
    "neo/autograd/_tape.pyx",
    "neo/kernels/kernels.h",
    "neo/kernels/_direct.cpp",
    "neo/kernels/_replay.cpp",
    "tasks/_gather.pyx",
    "tasks/_pixels.h",
    "meta/template/.gitignore",
    "meta/template/conf/experiment/own_images.yaml",
    "meta/template/my_project/model.py",
)
SMOKE = """
import importlib.machinery, importlib.util, pathlib, sys
import neo, meta, tasks, meta.cli.train, meta.cli.evaluate
import neo.autograd._tape as tape
for module in (neo, meta, tasks, meta.cli.train, tape):
    assert pathlib.Path(module.__file__).is_relative_to(sys.prefix), f"{module} is not the installed one"
assert tape.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)), tape.__file__
folder = pathlib.Path(neo.__file__).parent
assert (folder / "py.typed").exists(), "py.typed did not travel"
conf = meta.cli.configs.CONF
assert (conf / "train.yaml").is_file() and (conf / "evaluate.yaml").is_file(), "conf did not travel"
for name in ("benchmarks", "scripts"):
    assert importlib.util.find_spec(name) is None, f"{name} is of the checkout, and was installed"
assert not list(folder.rglob("*.c")), "generated C travelled"
x = neo.LiteTensor([1.0, 2.0])
out, grads = neo.value_and_grad(lambda x: (x * x).sum())(x)
assert neo.kernels.available(), "the kernels did not travel, or were not built"
assert tasks.gathering.gather and tasks.hashing.mix, "what samplers do in C did not travel, or was not built"
assert out.item() == 5.0 and grads[x].tolist() == [2.0, 4.0], (out, grads)
"""


def build_sdist(folder: Path) -> Path:
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in IN_SDIST if name not in names]
    generated = sorted(name for name in names if name.endswith((".c", ".so")))
    if missing or generated:
        raise SystemExit(f"check_sdist: the sdist must hold {missing} and must not hold {generated}")
    return sdist


def check_commands(folder: Path, programs: Path, environment: dict[str, str]) -> None:
    """The installed commands, called where the user has a package named conf: neither reads nor imports the other's."""
    (folder / "project" / "conf").mkdir(parents=True)
    (folder / "project" / "conf" / "__init__.py").write_text(
        "raise ImportError('the package conf of the user')\n"
    )
    environment = {**environment, "PYTHONPATH": str(folder / "project")}
    for command, code, said in (
        ("neo-train", 0, "inner_lr"),
        ("neo-evaluate", 0, "run_dir"),
        ("neo-xray", 0, "run_dir"),
        ("neo-bench", 1, "run it in a checkout"),
    ):
        done = subprocess.run(
            [programs / command, "--cfg", "job"],
            cwd=folder / "project",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != code or said not in done.stdout + done.stderr:
            raise SystemExit(f"check_sdist: {command} --cfg job: exit code {done.returncode}\n{done.stderr}")


IMAGES = """
import numpy, pathlib, PIL.Image
generator = numpy.random.default_rng(0)
for number in range(16):
    folder = pathlib.Path("images", f"class{number}")
    folder.mkdir(parents=True)
    for copy in range(8 + number % 3):
        pixels = generator.integers(14 * number, 14 * number + 30, (40, 30, 3), dtype=numpy.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{copy}.png")
"""
FEW = [
    "task.dataset.images_per_class=8",
    "task.ways=3",
    "trainer.iterations=5",
    "trainer.meta_batch=2",
    "trainer.val_tasks=5",
    "evaluation.tasks=10",
    "device=cpu",
]


def check_project(folder: Path, programs: Path, environment: dict[str, str]) -> None:
    """neo-new in an empty folder, and one command, with folders conf and tasks of the user's beside it."""
    here = folder / "empty"
    here.mkdir()

    def call(cwd: Path, *words: str | Path) -> str:
        done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"check_sdist: {words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    call(here, programs / "python", "-c", IMAGES)
    call(here, programs / "neo-new", "my_nets")
    for place in (here, here / "my_nets"):
        for name in ("conf", "tasks"):
            (place / name).mkdir(exist_ok=True)
            (place / name / "__init__.py").write_text(
                f"raise ImportError('the package {name} of the user')\n"
            )
    command = [programs / "neo-train", "--config-dir", "conf", "experiment=own_images", "data_dir=../images"]
    printed = call(here / "my_nets", *command, *FEW, "hydra.run.dir=run")
    if "test accuracy" not in printed:
        raise SystemExit(f"check_sdist: neo-train says no result: {printed}")
    call(here / "my_nets", programs / "neo-evaluate", "run_dir=run", "tasks=4")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist = build_sdist(folder)
        venv.create(folder / "venv", with_pip=False)
        python = folder / "venv" / "bin" / "python"
        # A line in a .pth adds a folder but runs none of the .pth files in it: dependencies are seen, and the
        # editable Neo beside them is not.
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
        subprocess.run([*pip, "install", "-q", "--no-deps", "--force-reinstall", sdist], check=True)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run([python, "-c", SMOKE], cwd=folder, check=True, env=environment)
        check_commands(folder, python.parent, environment)
        check_project(folder, python.parent, environment)
        print(f"check_sdist: {sdist.name} builds, installs and works")


if __name__ == "__main__":
    main()
