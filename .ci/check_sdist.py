"""Build the sdist, install it in an environment of its own, import it from an empty folder.

    python .ci/check_sdist.py

Catches what an editable install hides: a source, stub or configuration file that does not travel. Dependencies
are borrowed from the environment that runs this; Neo is built from the sdist, isolated, as pip does for users.
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
        print(f"check_sdist: {sdist.name} builds, installs and works")


if __name__ == "__main__":
    main()
