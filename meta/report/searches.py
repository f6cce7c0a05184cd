"""What the searches in a folder looked for, and their best arms: with several objectives, the Pareto front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SEARCH", "Search", "searches"]

SEARCH = "search.json"  # in a search's folder: its objectives, its trials, and which of them are best


@dataclass(frozen=True)
class Search:
    """values: those of the best arms, by name, one an objective."""

    study: str
    objectives: Sequence[tuple[str, str]]  # name, and minimize or maximize
    values: Mapping[str, Sequence[float | None]]

    @property
    def front(self) -> bool:
        """Whether what is best is a front: no arm is better at one objective without being worse at another."""
        return len(self.objectives) > 1

    @property
    def sentence(self) -> str:
        """ "Pareto front of accuracy (more is better) and seconds (less is better): arm 0 with 0.62 and 1.4; ..." """
        wanted = [
            f"{name} ({'more' if way == 'maximize' else 'less'} is better)" for name, way in self.objectives
        ]
        arms = [
            f"arm {name} with {' and '.join('?' if one is None else f'{one:.4g}' for one in values)}"
            for name, values in self.values.items()
        ]
        return f"Pareto front of {' and '.join(wanted)}: {'; '.join(arms) or 'no trial has finished'}."


def searches(folder: Path) -> list[Search]:
    """Those whose folder is this one or lies in it; a file that is missing or damaged is left out."""
    found = []
    for path in sorted(folder.rglob(SEARCH)):
        inside = path.parent.relative_to(folder)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            objectives = [(str(one["name"]), str(one["direction"])) for one in told["objectives"]]
            values = {(inside / name).as_posix(): told["trials"][name]["values"] for name in told["best"]}
            found.append(Search(str(told["study"]), objectives, values))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
