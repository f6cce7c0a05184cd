"""A function that a configuration names, as a family of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meta.imports import located
from tasks import FunctionTasks

__all__ = ["function_tasks"]


def function_tasks(function: str | None, options: Mapping[str, Any] | None = None) -> FunctionTasks:
    """The tasks that the function of an import path draws, "my.package.lines"; see tasks.FunctionTasks.

    options: its further arguments.

    Raises: ValueError naming the key of the configuration for a path of which nothing can be imported.
    """
    if not isinstance(function, str) or not function:
        raise ValueError(
            f"task.dataset.function={function!r} must be the import path of a function (generator) -> tasks.Task, as "
            "task.dataset.function=my.package.lines."
        )
    return FunctionTasks(located(function, "task.dataset.function"), options=options)
