"""A project of your own: neo-new my_project

Writes a folder with an algorithm, a model, a data source and a gradient rule to be changed, their configuration, tests,
and a README with the command that trains. See docs/your-own-project.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import keyword
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from meta.cli import command
from meta.cli.overrides import ConfigError
from meta.files import naming

__all__ = ["create", "expect_name"]

# A project as it is when called so; its files are copied with the new name in the place of this one.
TEMPLATE, TEMPLATE_NAME = Path(__file__).absolute().parents[1] / "template", "my_project"
HIDDEN = (".gitignore",)  # of the names with a dot in front, what belongs to the template
FOLDERS = ("conf", "tests")  # of the project, beside its package
NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?")  # a module and a distribution can both be called so


def create(name: str, into: Path) -> Path:
    """Write the project into a new folder into/name, whole or not at all.

    Raises: ConfigError for a name that cannot be a package's, or is taken; OSError where nothing can be written.
    """
    expect_name(name)
    folder = into / name
    if os.path.lexists(folder):
        raise ConfigError(
            f"{folder} is there already, and was left as it is; choose another name, or another folder: --into FOLDER."
        )
    with naming(into):
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=into))
    with naming(folder):
        try:
            project = unfinished / name  # in a folder whose mode is the user's own, not that of mkdtemp
            for relative in template_files():
                target = project / str(relative).replace(TEMPLATE_NAME, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                text = (TEMPLATE / relative).read_text(encoding="utf-8")
                target.write_text(text.replace(TEMPLATE_NAME, name), encoding="utf-8")
            os.rename(project, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def template_files() -> list[Path]:
    """Relative to the template; what tools and Python leave there is not of it."""
    found = sorted(path.relative_to(TEMPLATE) for path in TEMPLATE.rglob("*") if path.is_file())
    return [
        path
        for path in found
        if "__pycache__" not in path.parts
        and not any(part.startswith(".") and part not in HIDDEN for part in path.parts)
    ]


def expect_name(name: str) -> None:
    """Raise ConfigError unless a package can be called so, here and when the project is installed."""
    if not NAME.fullmatch(name):
        near = re.sub(r"[\s.-]+", "_", name)
        raise ConfigError(
            f"{name!r} cannot be the name of a Python package: it must begin with a letter, and go on with letters, "
            f"digits and underscores{f'; did you mean {near}?' if NAME.fullmatch(near) else '.'}"
        )
    taken = None
    if keyword.iskeyword(name):
        taken = "is a keyword of Python"
    elif name in FOLDERS:
        taken = "is a folder of the project beside its package"
    elif name in sys.stdlib_module_names:
        taken = "is a module of Python's standard library"
    elif place := installed(name):
        taken = f"is installed already ({place}), and would be imported in the place of the project"
    if taken:
        raise ConfigError(f"{name} {taken}; choose another name, as my_{name}.")


def installed(name: str) -> str | None:
    """Where there is a module of this name, the current folder left aside: projects lie beside each other there."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        if spec is not None:
            places = list(spec.submodule_search_locations or [spec.origin or "built in"])
            return next((place for place in places if Path(place).parent != Path.cwd()), None)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="neo-new", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("name", metavar="NAME", help="of the package, and of the folder")
    parser.add_argument(
        "--into",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="that exists; the current one if not given",
    )
    arguments = parser.parse_args()
    with command.report_errors():
        folder = create(arguments.name, arguments.into)
        print(f"{folder} is a project of your own; its README.md says what is where. To train:")
        print(f"    cd {folder}")
        print("    neo-train --config-dir conf experiment=own_images data_dir=path/to/images")


if __name__ == "__main__":
    main()
