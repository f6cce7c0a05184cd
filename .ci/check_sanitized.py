"""Build the kernels with AddressSanitizer and UndefinedBehaviorSanitizer in a copy, and run their tests on them.

    python .ci/check_sanitized.py [pytest's arguments ...]

A read or write outside of a tensor or of the kernels' scratch, a misaligned access, an overflow: the run ends with the
compiler's report. Only the kernels of this processor, the plain ones, *.cpp and tasks/ are built so
(setup.py, NEO_SANITIZE=1), at -O1; the rest of Neo is copied as it was built.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "neo",
    "meta",
    "tasks",
    "conf",
    "scripts",
    "benchmarks",
    "tests",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
TESTS = (
    "tests/neo/kernels",
    "tests/neo/test_direct.py",
    "tests/neo/capture",
    "tests/neo/functions/test_blocks.py",
    "tests/neo/functions/test_fused.py",
    "tests/tasks/test_gathering.py",
    "tests/tasks/test_hashing.py",
)


def library(name: str) -> str:
    """Where the compiler has this library."""
    found = subprocess.run(
        [os.environ.get("CC", "gcc"), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(found):
        raise SystemExit(f"check_sanitized: the compiler has no {name}; gcc brings it along")
    return found


def copy_to(folder: Path) -> None:
    """The sources and all extensions but those that are to be built."""
    skipped = shutil.ignore_patterns(
        "__pycache__",
        "*.pyc",
        "_avx*.so",
        "_baseline*.so",
        "_direct*.so",
        "_replay*.so",
        "_gather*.so",
        "_mix*.so",
        "data",
    )
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=skipped)
        else:
            shutil.copy2(source, folder / name)


def main() -> None:
    # Torch's C++ throws exceptions, which the sanitizer can only follow when it finds libstdc++ before it.
    preload = f"{library('libasan.so')} {library('libstdc++.so')}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_to(folder)
        environment = {**os.environ, "PYTHONPATH": name, "NEO_SANITIZE": "1", "OMP_NUM_THREADS": "1"}
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--parallel", "2"]
        subprocess.run(build, cwd=folder, check=True, env=environment)
        environment |= {
            "LD_PRELOAD": preload,
            # Python keeps its memory to the end, which is no leak; and tests ask for more than there is.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:halt_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        }
        # what the sanitizers report goes to stderr itself, where a crash would take pytest's copy of it along
        tests = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            "--capture=sys",
        ]
        raise SystemExit(
            subprocess.run(
                [*tests, *(sys.argv[1:] or TESTS)], cwd=folder, env=environment, check=False
            ).returncode
        )


if __name__ == "__main__":
    main()
