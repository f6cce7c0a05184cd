"""Builds the Cython extensions: every .pyx under neo/ and tasks/ becomes the module of the same name, as plain C.

The kernels (neo/kernels) are one text, compiled for each width of vectors; a compiler that cannot is no error, for
torch's kernels serve then. So it is with tasks/, whose samplers do by torch's functions what is not built. What ends in
.cpp there calls torch's C++, and is built where torch is at hand.

All else about the package is in pyproject.toml. Compiler directives are set here, once, for every file.
NEO_DEBUG_BUILD=1 turns the run-time checks on and the optimiser off: make env DEBUG=1.
NEO_SANITIZE=1 builds the kernels of this processor, *.cpp and tasks/, nothing else, with the compiler's checks of
every address and of undefined behaviour: make test-sanitized, which builds a copy and runs Python as it needs.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

DEBUG = os.environ.get("NEO_DEBUG_BUILD", "0") not in ("", "0")
SANITIZE = os.environ.get("NEO_SANITIZE", "0") not in ("", "0")
COMPILER_FLAGS = [] if sys.platform == "win32" else ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3"]
SANITIZERS = []
if SANITIZE:  # not vptr: it asks for the type information of classes that torch keeps to itself
    SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"]
    COMPILER_FLAGS = ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZERS]
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": not DEBUG,
}

# Torch's own threads, for *.cpp and tasks/, which take one without.
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []

INTEL = platform.machine().lower() in ("x86_64", "amd64")
VECTORS = {  # of neo/kernels: how the compiler is told of the instructions, and the bytes of a vector
    "_avx512": (["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"], 64),
    "_avx2": (["-mavx2", "-mfma"], 32),
    "_baseline": ([], 16),
}


def extension(path: Path) -> Extension:
    name, depends, flags = ".".join(path.with_suffix("").parts), [], list(COMPILER_FLAGS)
    kernels = path.parent.name == "kernels"
    if kernels:
        instructions, width = VECTORS[path.stem]
        flags += [*instructions, f"-DVECTOR_BYTES={width}", "-Wno-unused-function"]
        depends = [file.as_posix() for file in (*path.parent.glob("*.h"), *path.parent.glob("*.pxi"))]
    return Extension(
        name,
        [path.as_posix()],
        include_dirs=["neo/kernels"],
        depends=depends,
        extra_compile_args=flags,
        extra_link_args=SANITIZERS,
        optional=kernels and not SANITIZE,
    )


def of_tasks(path: Path) -> Extension:
    flags = [] if sys.platform == "win32" else ["-ffp-contract=off"]  # each number as torch rounds it
    return Extension(
        ".".join(path.with_suffix("").parts),
        [path.as_posix()],
        depends=[file.as_posix() for file in path.parent.glob("*.h")],
        extra_compile_args=[*COMPILER_FLAGS, *OPENMP, *flags],
        extra_link_args=[*OPENMP, *SANITIZERS],
        optional=not SANITIZE,
    )


def on_torch() -> list[Extension]:
    """neo/kernels/*.cpp, for the torch that is installed here; nothing where none is, as in an isolated build."""
    try:
        import torch
        from torch.utils import cpp_extension
    except (ImportError, OSError):  # no torch, or one whose libraries do not load
        return []
    return [
        Extension(
            ".".join(path.with_suffix("").parts),
            [path.as_posix()],
            depends=[file.as_posix() for file in Path("neo/kernels").glob("*.h")],
            include_dirs=cpp_extension.include_paths(),
            library_dirs=cpp_extension.library_paths(),
            libraries=["c10", "torch_cpu", "torch_python"],
            extra_compile_args=[
                *COMPILER_FLAGS,
                "-std=c++20",
                *OPENMP,
                "-ffp-contract=off",  # each number as torch rounds it
                "-fvisibility=hidden",
                f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            ],
            extra_link_args=[*OPENMP, *SANITIZERS],
            language="c++",
            optional=not SANITIZE,
        )
        for path in sorted(Path("neo/kernels").glob("*.cpp"))
    ]


def wanted(path: Path) -> bool:
    if SANITIZE:
        return path.parent.name == "kernels" and path.stem in ("_baseline", of_this_processor())
    return INTEL or path.parent.name != "kernels" or not VECTORS[path.stem][0]


def of_this_processor() -> str:
    import torch

    return {"AVX512": "_avx512", "AVX2": "_avx2"}.get(torch.backends.cpu.get_cpu_capability(), "_baseline")


setup(
    ext_modules=[
        *(extension(path) for path in sorted(Path("neo").rglob("*.pyx")) if wanted(path)),
        *on_torch(),
        *(of_tasks(path) for path in sorted(Path("tasks").glob("*.pyx"))),
    ],
    options={
        "build_ext": {
            "cython_directives": DIRECTIVES,
            "cython_c_in_temp": True,  # generated C stays out of the source tree and of the sdist
            "force": True,  # a change of directives must reach the C, and file times do not show one
        }
    },
)
