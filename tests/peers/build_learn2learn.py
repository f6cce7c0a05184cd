"""Build learn2learn 0.2.0 and install it into the environment that runs this script.

    python tests/peers/build_learn2learn.py

The C files in its sdist need headers that Python 3.11 no longer has, but its .pyx compile: so the C goes and
Cython writes it anew. Three more things differ from `pip install learn2learn`:

- its own dependency list is left aside: it would replace numpy. qpth, which wants numpy below 2, is not installed;
  learn2learn takes it as optional, for MetaOptNet alone;
- its top-level package `tests` stays out: it would shadow ours;
- it imports torchvision the way tasks/_torchvision.py does, as the registry's wheel does not fit a CPU torch.

Prints one line; exit code 0 if `import learn2learn` works, 1 if not. Done before, it takes a fraction of a
second; the first time about a minute. Work files and the log lie in <environment>/peers.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

VERSION = "0.2.0"
ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(sys.prefix) / "peers"
LOG = CACHE / "learn2learn.log"
IMPORTED = CACHE / "learn2learn.imported"  # written after a successful import
UNAVAILABLE = CACHE / "learn2learn.unavailable"  # written after a failure: why, one line
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "2"]
IMPORT_TORCHVISION = "from ._torchvision import import_torchvision\n\nimport_torchvision()\n"


class BuildError(Exception):
    """A step failed; the message says which and why."""


def run(step: str, command: list[str | Path], cwd: Path = ROOT) -> None:
    """Run a command with its output in the log; raise BuildError with the last line of it when it fails."""
    with LOG.open("a", encoding="utf-8") as log:
        print(f"\n== {step}: {' '.join(map(str, command))}", file=log, flush=True)
        done = subprocess.run(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        last = LOG.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        raise BuildError(f"{step} failed ({last.strip()[:200]})")


def is_done() -> bool:
    """Whether an earlier run of this script ended well and what it installed is still there."""
    try:
        return IMPORTED.exists() and importlib.metadata.version("learn2learn") == VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


def unpack_source() -> Path:
    """Fetch the sdist, unpack it and take out what must not be built; return its folder."""
    sdist = CACHE / f"learn2learn-{VERSION}.tar.gz"
    if not sdist.exists():
        # Without isolation: pip runs the sdist's setup.py for its name, with the tools installed above.
        only_source = ["--no-deps", "--no-binary", "learn2learn", "--no-build-isolation"]
        run("download", [*PIP, "download", *only_source, "-d", CACHE, f"learn2learn=={VERSION}"])
    source = CACHE / f"learn2learn-{VERSION}"
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and later
        archive.extractall(CACHE, **safe)
    for folder in (".eggs", "build", "tests"):
        shutil.rmtree(source / folder, ignore_errors=True)
    for generated in (source / "learn2learn").rglob("*.c"):
        generated.unlink()
    return source


def patch_torchvision_import(source: Path) -> None:
    """Give learn2learn our import of torchvision, so that a plain `import learn2learn` works."""
    shutil.copy(ROOT / "tasks" / "_torchvision.py", source / "learn2learn" / "_torchvision.py")
    package = source / "learn2learn" / "__init__.py"
    package.write_text(IMPORT_TORCHVISION + package.read_text(encoding="utf-8"), encoding="utf-8")


def build() -> None:
    """Every step from nothing to a working `import learn2learn`; raises BuildError."""
    compiler = os.environ.get("CC", sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise BuildError(f"no C compiler ('{compiler}' not found); install one, or name one with CC=...")
    pinned = ["-c", ROOT / "constraints.txt", "--no-build-isolation"]
    needs = ["setuptools", "cython", "gym", "requests", "scipy", "torchvision", "tqdm"]
    run("dependencies", [*PIP, "install", "-q", *pinned, *needs])
    source = unpack_source()
    patch_torchvision_import(source)
    run("build", [sys.executable, "setup.py", "-q", "build_ext", "bdist_wheel", "-d", CACHE], cwd=source)
    wheels = sorted(CACHE.glob(f"learn2learn-{VERSION}-*.whl"), key=lambda wheel: wheel.stat().st_mtime)
    run("installation", [*PIP, "install", "-q", "--no-deps", "--force-reinstall", wheels[-1]])
    run("import", [sys.executable, "-c", "import learn2learn"], cwd=CACHE)
    shutil.rmtree(source)


def main() -> int:
    if is_done():
        print(f"learn2learn {VERSION}: already built")
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    LOG.unlink(missing_ok=True)
    IMPORTED.unlink(missing_ok=True)
    try:
        build()
    except (BuildError, OSError) as error:
        UNAVAILABLE.write_text(f"{error}\n", encoding="utf-8")
        print(f"learn2learn {VERSION}: not built, its tests will skip: {error}; details in {LOG}")
        return 1
    UNAVAILABLE.unlink(missing_ok=True)
    IMPORTED.touch()
    print(f"learn2learn {VERSION}: built and installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
