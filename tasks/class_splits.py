"""Which classes train, validate and test: by a text file, by the folders that they are in, or by seeded fractions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.errors import DataError, shortened
from tasks.hashing import stream
from tasks.streams import PARTS

__all__ = ["by_fractions", "by_part", "expect_disjoint", "parse_split", "read_split"]

Parts = dict[str, list[str]]


def read_split(path: Path, owner: str = "images") -> Parts:
    """Part → names of its classes, of a text file with [train], [val] and [test] above a name a line; or of a folder
    with train.txt, val.txt and test.txt. Lines that begin with # are comments.

    owner: whose split it is, for errors; so of the other functions here.
    Raises: DataError for a file that is missing or of another form, an empty part, a class in two parts.
    """
    try:
        if path.is_dir():
            text = "\n".join(
                f"[{part}]\n{(path / f'{part}.txt').read_text(encoding='utf-8-sig')}" for part in PARTS
            )
        else:
            text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{owner}: the split {path} cannot be read ({error}); expected a text file with [train], [val] and [test], "
            "or a folder with train.txt, val.txt and test.txt."
        ) from error
    return parse_split(text, str(path), owner)


def parse_split(text: str, where: str, owner: str = "images") -> Parts:
    """The same of the text of such a file."""
    parts: Parts = {part: [] for part in PARTS}
    part = None
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if heading := re.fullmatch(r"\[(\w+)\]", name):
            part = heading[1]
        elif part in parts:
            parts[part].append(name)
        if part not in parts:
            raise DataError(
                f"{owner}: line {number} of the split {where} is {name!r}; expected [train], [val] or [test] there, "
                "with the name of a class on each of the lines below it."
            )
    expect_disjoint(parts, f"the split {where}", owner)
    return parts


def by_part(part_of: Mapping[str, str]) -> Parts:
    """class → part the other way round, in the order of the names."""
    return {part: sorted(name for name, own in part_of.items() if own == part) for part in PARTS}


def expect_disjoint(parts: Mapping[str, Sequence[str]], what: str, owner: str = "images") -> None:
    """Raise DataError unless every part has classes, and none is in two of them or twice in one."""
    empty = [part for part in PARTS if not parts.get(part)]
    if empty:
        raise DataError(f"{owner}: {what} has no classes for {' and '.join(empty)}; each part needs some.")
    places: dict[str, list[str]] = {}
    for part, names in parts.items():
        for name in names:
            places.setdefault(name, []).append(part)
    twice = [f"{name} ({' and '.join(found)})" for name, found in places.items() if len(found) > 1]
    if twice:
        raise DataError(
            f"{owner}: {what} names {shortened(twice)} twice; a class trains, validates or tests."
        )


def by_fractions(
    names: Sequence[str],
    fractions: Sequence[float],
    seed: int,
    owner: str = "images",
    classes: str = "classes",
) -> Parts:
    """A seeded draw, a function of the names and the seed: round(fraction · classes) validate and test, one at least.

    fractions: of train, val and test, > 0, together 1.
    classes: what the names are names of, for errors.
    Raises: ValueError for other fractions; DataError where no class would be left to train on.
    """
    if len(fractions) != len(PARTS) or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"{owner}: fractions={list(fractions)} must be three numbers above 0 of sum 1, of train, val and test."
        )
    order = sorted(names, key=lambda name: (stream(owner, seed, name), name))
    val, test = (max(1, round(fraction * len(order))) for fraction in fractions[1:])
    if val + test >= len(order):
        raise DataError(
            f"{owner}: of {len(order)} {classes} {val} would validate and {test} test, which leaves none to train on; "
            f"give more {classes}, or other task.dataset.fractions."
        )
    return {
        "train": sorted(order[val + test :]),
        "val": sorted(order[:val]),
        "test": sorted(order[val : val + test]),
    }
