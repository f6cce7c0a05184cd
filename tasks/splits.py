"""The fixed, named, disjoint splits of Omniglot's 1623 characters into meta-train, meta-val and meta-test.

A split depends on the names alone, "Alphabet/character01" in sorted order: not on a seed of the run, not on which zip
a character came in, and not on any library's random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.errors import DataError
from tasks.hashing import derive, stream

PARTS = ("train", "val", "test")

# The alphabets of images_evaluation.zip; the other thirty are images_background.zip's.
EVALUATION = (
    "Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada",
    "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
)  # fmt: skip
VINYALS_VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
VINYALS_TEST = (
    "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
)  # fmt: skip
VINYALS_GURMUKHI = tuple(f"Gurmukhi/character{number}" for number in range(42, 46))  # the last four test too

MAML_COUNTS = (1100, 100, 423)


def split_characters(split: str, names: Sequence[str]) -> dict[str, list[int]]:
    """The parts of a named split: {"train", "val", "test"} → ascending indices into `names`, together all of them.

    names: every character of Omniglot, "Alphabet/character01", sorted.
    Raises: ValueError for an unknown split; DataError where `names` are not the complete, sorted 1623 characters.
    """
    if split not in SPLITS:
        raise ValueError(f"split_characters: unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    if len(names) != sum(MAML_COUNTS) or list(names) != sorted(set(names)):
        raise DataError(
            f"split_characters: the splits are of all {sum(MAML_COUNTS)} characters of Omniglot in sorted order, got "
            f"{len(names)} names. Read both images_background and images_evaluation."
        )
    part_of = SPLITS[split](names)
    return {part: [i for i, own in enumerate(part_of) if own == part] for part in PARTS}


def maml(names: Sequence[str]) -> list[str]:
    """1100 / 100 / 423 characters at random, as Finn et al. 2017 count them (arXiv:1703.03400, section 5.2).

    The paper's own draw is not published; this one is a Fisher-Yates shuffle on the words of a constant stream, the
    first 1100 to train, the next 100 to val.
    """
    order = list(range(len(names)))
    key = stream("omniglot/maml")
    for last in range(len(order) - 1, 0, -1):
        other = derive(key, last) % (last + 1)  # biased by less than 2**-53
        order[last], order[other] = order[other], order[last]
    part_of = [""] * len(names)
    parts = [part for part, count in zip(PARTS, MAML_COUNTS, strict=True) for _ in range(count)]
    for position, part in zip(order, parts, strict=True):
        part_of[position] = part
    return part_of


def vinyals(names: Sequence[str]) -> list[str]:
    """1028 / 172 / 423 characters by alphabet, after Vinyals et al. 2016 (arXiv:1606.04080) as later work fixed it."""

    def part(name: str) -> str:
        if _alphabet(name) in VINYALS_TEST or name in VINYALS_GURMUKHI:
            return "test"
        return "val" if _alphabet(name) in VINYALS_VAL else "train"

    return [part(name) for name in names]


def lake(names: Sequence[str]) -> list[str]:
    """Background trains but for its last five alphabets, which validate; evaluation tests (Lake et al. 2015)."""
    background = sorted({_alphabet(name) for name in names} - set(EVALUATION))

    def part(name: str) -> str:
        if _alphabet(name) in EVALUATION:
            return "test"
        return "val" if _alphabet(name) in background[-5:] else "train"

    return [part(name) for name in names]


def _alphabet(name: str) -> str:
    return name.split("/")[0]


SPLITS: dict[str, Callable[[Sequence[str]], list[str]]] = {"maml": maml, "vinyals": vinyals, "lake": lake}
