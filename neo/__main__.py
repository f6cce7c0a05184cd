"""The installed commands, and python -m neo COMMAND ...: train, plan, evaluate, xray, replay, paired, report ...

They run the packages that lie beside this one. meta and tasks are names that a project may well have for folders of its
own; where such a folder comes first on the path it would be imported in the place of Neo's.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

__all__ = [
    "bench",
    "evaluate",
    "export",
    "main",
    "new",
    "paired",
    "plan",
    "replay",
    "report",
    "reproduce",
    "train",
    "xray",
]

HERE = Path(__file__).absolute().parents[1]
PACKAGES = ("meta", "tasks")
COMMANDS = (
    "train",
    "plan",
    "evaluate",
    "paired",
    "report",
    "xray",
    "replay",
    "reproduce",
    "export",
    "new",
    "bench",
)


def prefer_own_packages() -> None:
    """Put the folder that neo lies in first on the path, where something else there has the name of a package of Neo's.

    For this process, and for those that a sweep's launcher starts from it.
    """
    found = {name: importlib.util.find_spec(name) for name in PACKAGES}
    if all(
        spec is not None and spec.origin == str(HERE / name / "__init__.py") for name, spec in found.items()
    ):
        return
    sys.path.insert(0, str(HERE))
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *([path] if path else [])])


def _run(command: str) -> None:
    prefer_own_packages()
    importlib.import_module(f"meta.cli.{command}").main()


def train() -> None:
    _run("train")


def evaluate() -> None:
    _run("evaluate")


def plan() -> None:
    _run("plan")


def paired() -> None:
    _run("paired")


def report() -> None:
    _run("report")


def xray() -> None:
    _run("xray")


def replay() -> None:
    _run("replay")


def reproduce() -> None:
    _run("reproduce")


def export() -> None:
    _run("export")


def new() -> None:
    _run("new")


def bench() -> None:
    _run("bench")


def main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else None
    if command not in COMMANDS:
        sys.exit(
            f"error: expected one of {', '.join(COMMANDS)}, got {command}; as in: python -m neo train --help"
        )
    sys.argv = [f"neo-{command}", *sys.argv[2:]]
    _run(command)


if __name__ == "__main__":
    main()
