"""Whether `tasks` is Neo's: asked first of all, for a folder of that name in a project hides it.

The commands put Neo's packages before a project's own (neo/__main__.py). In a script, a notebook or pytest the order of
the path is the project's affair, and this can but say what is wrong with it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

__all__ = ["expect_own_tasks"]


def expect_own_tasks() -> None:
    """Raise ImportError where `import tasks` finds another package than the one that lies beside this."""
    own = Path(__file__).resolve().parents[1] / "tasks" / "__init__.py"
    module = sys.modules.get("tasks")
    spec = importlib.util.find_spec("tasks") if module is None else module.__spec__
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
    if any(place and Path(place).resolve() == own for place in places):
        return
    found = next((place for place in places if place), "nothing")
    raise ImportError(
        f"meta needs Neo's package tasks, {own.parent}, and `import tasks` finds {found} in its place. Rename that "
        "folder or file, or start Python where it is not on the path. Neo's commands (neo-train ...) work beside it."
    )


expect_own_tasks()
