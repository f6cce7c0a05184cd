from __future__ import annotations

import hashlib

import pytest

from tasks import DataError, split_characters
from tasks.splits import EVALUATION, MAML_COUNTS, SPLITS, VINYALS_TEST, VINYALS_VAL, lake, vinyals

NAMES = [f"Alphabet{number // 40:02}/character{number % 40:02}" for number in range(sum(MAML_COUNTS))]


@pytest.mark.parametrize("split", SPLITS)
def test_split_parts_are_disjoint_and_complete(split):
    parts = split_characters(split, NAMES)
    assert list(parts) == ["train", "val", "test"]
    assert sorted(parts["train"] + parts["val"] + parts["test"]) == list(range(len(NAMES)))


def test_maml_split_is_the_same_for_ever():
    parts = split_characters("maml", NAMES)
    assert tuple(len(parts[part]) for part in ("train", "val", "test")) == MAML_COUNTS
    text = "\n".join(f"{part} {parts[part]}" for part in parts)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "dc36337e90d8f2d0"


def test_maml_split_mixes_the_alphabets():
    parts = split_characters("maml", NAMES)
    whole = {NAMES[i].split("/")[0] for i in range(len(NAMES))}
    assert {NAMES[i].split("/")[0] for i in parts["train"]} == whole


def test_vinyals_split_goes_by_alphabet_but_for_gurmukhi():
    names = [f"{VINYALS_VAL[0]}/character01", f"{VINYALS_TEST[0]}/character42", "Latin/character42"]
    names += [f"Gurmukhi/character{number}" for number in (41, 42, 43, 44, 45)]
    assert vinyals(names) == ["val", "test", "train", "train", "test", "test", "test", "test"]


def test_lake_split_validates_on_the_last_five_background_alphabets():
    names = [f"{alphabet}/character01" for alphabet in ("A", "B", "C", "D", "E", "F", "G", EVALUATION[0])]
    assert lake(names) == ["train", "train", "val", "val", "val", "val", "val", "test"]


def test_split_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="unknown split 'mamml'; expected one of maml, vinyals, lake"):
        split_characters("mamml", NAMES)


@pytest.mark.parametrize("names", [NAMES[:-1], NAMES[::-1], NAMES[:-1] + NAMES[:1]])
def test_split_refuses_names_that_are_not_all_of_them_in_order(names):
    with pytest.raises(DataError, match="all 1623 characters of Omniglot in sorted order"):
        split_characters("maml", names)
