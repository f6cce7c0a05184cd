"""What a configuration names by import path: found, and called with arguments that it has."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks._torchvision import import_torchvision

__all__ = ["accepted", "argument_names", "expect_arguments", "expect_known_arguments", "located", "nearest"]

OWN = ("meta", "tasks")  # which come before a project's folders of these names
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def located(path: str, key: str) -> Callable[..., Any]:
    """The class or function of an import path, "my.package.Net".

    Args:
        key: of the configuration, for errors.
    Raises: ValueError where a module is missing or cannot be imported, has no such name, or what has the name cannot be
        called.
    """
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts) or len(parts) < 2:
        raise ValueError(f"{key}={path} must be an import path with a dot in it, as my.package.Net.")
    if parts[0] == "torchvision":
        try:
            import_torchvision()  # which needs care over a CPU build of torch
        except ImportError as error:
            raise ValueError(f"{key}={path}: {error}; pip install torchvision.") from error
    count, found = _imported(path, parts, key)
    for place, part in enumerate(parts[count:], count):
        if not hasattr(found, part):
            where = ".".join(parts[:place])
            users = Path.cwd() / parts[0]
            hidden = parts[0] in OWN and users.is_dir() and not users.samefile(Path(found.__file__).parent)
            raise ValueError(
                f"{key}={path}: {where} has no {part!r}{nearest(part, dir(found))}"
                + (f" {parts[0]} is Neo's own; give your folder {users} another name." if hidden else "")
                + _if_no_package(found)
            )
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(
            f"{key}={path} is a {type(found).__name__}, which cannot be called; name a class or a function."
        )
    return found


def _if_no_package(found: Any) -> str:
    """What to do about a folder that was found in the place of the package in it, as one folder above a project."""
    folders = [] if getattr(found, "__file__", None) else list(getattr(found, "__path__", []))
    return (
        f" {folders[0]} is a folder, not a package; start the command in the one that holds the package, or "
        "pip install the package."
        if folders
        else ""
    )


def _imported(path: str, parts: Sequence[str], key: str) -> tuple[int, Any]:
    """The longest beginning of a path that is a module: of how many parts, and the module.

    A name of a package comes before a module of the same name in it, as neo.optim.adam is the function.
    """
    found: Any = None
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if count > 1 and not inspect.ismodule(getattr(found, parts[count - 1], found)):
            return count - 1, found
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name and count > 1:
                return count - 1, found
            if error.name != name:
                raise ValueError(f"{key}={path}: {name} cannot be imported: {error}.") from error
            raise ValueError(
                f"{key}={path}: there is no module {name!r}; it must be installed, on PYTHONPATH, in the folder that "
                f"the command is started in ({Path.cwd()}), or beside the folder of --config-dir."
            ) from None
        except Exception as error:
            raise ValueError(
                f"{key}={path}: {name} cannot be imported: {type(error).__name__}: {error}."
            ) from error
    return len(parts), found


def expect_arguments(
    target: Callable[..., Any],
    positional: Sequence[Any],
    keywords: Mapping[str, Any],
    *,
    what: str,
    key: str,
) -> None:
    """Raise ValueError where a target cannot be called so: for an unknown name, a missing one, or too many."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # of some callables written in C
        return
    expect_known_arguments(target, keywords, what=what, key=key)
    parameters = signature.parameters.values()
    try:
        signature.bind(*positional, **keywords)
    except TypeError:
        by_name = [one for one in parameters if one.kind in _NAMED][len(positional) :]
        lacking = [one.name for one in by_name if one.default is one.empty and one.name not in keywords]
        needs = f"{what} needs {', '.join(lacking)}" if lacking else f"{what} takes {signature}"
        raise ValueError(
            f"{needs}; give {' '.join(f'{key}.{name}=...' for name in lacking) or key + ' that fit'}."
        ) from None


def expect_known_arguments(
    target: Callable[..., Any], keywords: Iterable[str], *, what: str, key: str
) -> None:
    """The same for unknown names alone: further arguments may come from elsewhere."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return
    names = argument_names(target)
    for name in keywords:
        if name not in names:
            takes = f"It takes {', '.join(names)}" if names else "It takes none"
            raise ValueError(f"{key}.{name} is no argument of {what}{nearest(name, names)} {takes}.")


def argument_names(target: Callable[..., Any]) -> list[str]:
    """The names of a target's keyword arguments; none where its signature cannot be known."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one.name for one in parameters if one.kind in _NAMED]


def accepted(target: Callable[..., Any], names: Sequence[str]) -> list[str]:
    """Which of these keyword arguments a target takes: those that it names, or all where it takes any."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return list(names)
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return list(names)
    return [name for name in names if name in argument_names(target)]


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence: "; did you mean ...?" where one of the known words is near, otherwise a full stop."""
    near = difflib.get_close_matches(
        word, [name for name in known if not name.startswith("_")], n=1, cutoff=0.5
    )
    return f"; did you mean {near[0]}?" if near else "."
