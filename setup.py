"""Builds the Cython extensions: every .pyx under neo/ becomes the module of the same name, as plain C.

All else about the package is in pyproject.toml. Compiler directives are set here, once, for every file.
NEO_DEBUG_BUILD=1 turns the run-time checks on and the optimiser off: make env DEBUG=1.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

DEBUG = os.environ.get("NEO_DEBUG_BUILD", "0") not in ("", "0")
COMPILER_FLAGS = [] if sys.platform == "win32" else ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3"]
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": not DEBUG,
}

setup(
    ext_modules=[
        Extension(".".join(path.with_suffix("").parts), [path.as_posix()], extra_compile_args=COMPILER_FLAGS)
        for path in sorted(Path("neo").rglob("*.pyx"))
    ],
    options={
        "build_ext": {
            "cython_directives": DIRECTIVES,
            "cython_c_in_temp": True,  # generated C stays out of the source tree and of the sdist
            "force": True,  # a change of directives must reach the C, and file times do not show one
        }
    },
)
