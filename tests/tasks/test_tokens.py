"""Sequences of tokens: what a vocabulary is made of, padding, the forms of data, and what is said of bad ones."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
from tasks.sampler import _placed

CLASSES = [f"class{number}" for number in range(10)]
FRACTIONS = (0.4, 0.3, 0.3)
PROTOCOL = {"ways": 2, "shots": 1, "queries": 2, "seed": 0}


def made(each: int = 5) -> list[tuple[str, str]]:
    """(text, label): a word of the class, common words, and numbers of the row, of one to four words."""
    found = []
    for number, name in enumerate(CLASSES):
        for row in range(each):
            words = [f"own{number}", "the", f"row{row}", "of"][: 1 + (row + number) % 4]
            found.append((" ".join(words), name))
    return found


def as_table(place: Path, suffix: str = ".csv") -> Path:
    rows = made()
    order = np.random.default_rng(0).permutation(len(rows))
    with (place / f"texts{suffix}").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
        writer.writerows([["label", "text"], *[[rows[i][1], rows[i][0]] for i in order]])
    return place / f"texts{suffix}"


def test_vocabulary_is_of_the_training_classes_alone():
    data = tasks.Tokens(made(), fractions=FRACTIONS)
    trained = {CLASSES[number] for number in data.parts["train"].tolist()}
    words = [word for text, label in made() if label in trained for word in text.split()]
    assert sorted(data.vocabulary) == sorted(set(words))
    counts = [words.count(word) for word in data.vocabulary]
    assert counts == sorted(counts, reverse=True)
    assert data.sizes == {"vocabulary": len(set(words)) + 2, "length": 4}
    # Each class's own word is one that only training knows.
    for part, known in (("train", True), ("val", False), ("test", False)):
        task = data.sampler(part, **PROTOCOL).sample(0, 4)
        assert bool((task.query.x[..., 0] != 1).all()) == known
        assert bool((task.query.x[..., 0] == 1).all()) != known


def test_rows_are_their_words_padded_behind():
    data = tasks.Tokens(made(), fractions=FRACTIONS)
    sampler = data.sampler("train", **PROTOCOL)
    together = sampler.sample(2, 6)
    assert (together.support.x.shape, together.support.x.dtype) == ((6, 2, 4), torch.int64)
    texts = dict(made())
    for task, classes in zip(together, sampler.draw(2, 6)[0].tolist(), strict=True):
        for part in (task.support, task.query):
            for row, label in zip(part.x.tolist(), part.y.tolist(), strict=True):
                assert texts[sampler.text(row)] == sampler.class_name(classes[label])
                present = [token > 0 for token in row]
                assert present == sorted(present, reverse=True)
    assert (
        sampler.sample(2, [3])[0].checksum() == together[3].checksum() != sampler.sample(3, [3])[0].checksum()
    )


def test_same_sequences_give_the_same_tasks_in_every_form(tmp_path):
    rows = made()
    words = sorted({word for text, _ in rows for word in text.split()})
    numbers = [[words.index(word) + 10 for word in text.split()] for text, _ in rows]
    padded = np.full((len(rows), 6), 7)
    mask = np.zeros((len(rows), 6), dtype=bool)
    for row, own in enumerate(numbers):
        padded[row, : len(own)], mask[row, : len(own)] = own, True
    labels = np.array([label for _, label in rows])
    np.savez(tmp_path / "masked.npz", tokens=padded, labels=labels, mask=mask)
    np.savez(tmp_path / "negative.npz", tokens=np.where(mask, padded, -1), labels=labels)
    ids = [" ".join(map(str, own)) for own in numbers]
    with (tmp_path / "ids.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["ids", "label"], *zip(ids, labels.tolist(), strict=True)])
    of_texts = [as_table(tmp_path), as_table(tmp_path, ".tsv"), rows]
    of_numbers = [
        *(tmp_path / name for name in ("masked.npz", "negative.npz", "ids.csv")),
        list(zip([torch.tensor(own) for own in numbers], labels.tolist(), strict=True)),
    ]
    for forms in (of_texts, of_numbers):
        every = [tasks.Tokens(one, fractions=FRACTIONS) for one in forms]
        drawn = {one.sampler("train", **PROTOCOL).sample(0, 1)[0].checksum() for one in every}
        assert len(drawn) == len({one.checksum for one in every}) == 1


def test_characters_length_and_rare_words(caplog):
    data = tasks.Tokens(
        [(text.upper(), label) for text, label in made()], words="characters", lowercase=True, length=3
    )
    assert "are cut to length=3" in caplog.text
    assert data.length == 3
    assert all(len(word) == 1 and word == word.lower() for word in data.vocabulary)
    few = tasks.Tokens(made(), fractions=FRACTIONS, vocabulary=2)
    assert len(few.vocabulary) == 2
    often = tasks.Tokens(made(), fractions=FRACTIONS, least_count=3)
    full = tasks.Tokens(made(), fractions=FRACTIONS)
    assert 0 < len(often.vocabulary) < len(full.vocabulary)


def test_tokens_keep_their_dtype_on_another_device():
    tokens = tasks.Tokens(made(), fractions=FRACTIONS).tokens
    placed, rows = _placed(tokens, torch.arange(4), torch.device("meta"))
    assert (placed.dtype, placed.shape, len(rows)) == (tokens.dtype, (4, 4), 4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("label,sentense\n", r"has no text column: expected one of text, .* got label, sentense"),
        ("text,sort\n", r"has no label column: .*task\.dataset\.label_column"),
        ("text,label\na b,x\n,y\nc,\n", r"record 2, record 3 of .* have no tokens or no label"),
        ("text,label\n", "has no rows"),
        ("text,label\na,x\nb,y\n", "tokens: of 2 classes 1 would validate and 1 test, which leaves none"),
    ],
)
def test_tables_that_do_not_fit_are_refused(text, sentence, tmp_path):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(tasks.DataError, match=sentence):
        tasks.Tokens(tmp_path / "bad.csv")


def test_arrays_and_settings_that_do_not_fit_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", tokens=np.zeros((4, 3)), labels=np.zeros(4, int))
    with pytest.raises(tasks.DataError, match=r"has tokens float64 \(4, 3\).*expected whole numbers"):
        tasks.Tokens(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", tokens=np.zeros((4, 3), int))
    with pytest.raises(tasks.DataError, match="has no labels; expected arrays tokens"):
        tasks.Tokens(tmp_path / "bad.npz")
    with pytest.raises(tasks.DataError, match=r"nothing\.txt is no \.csv"):
        tasks.Tokens(tmp_path / "nothing.txt")
    with pytest.raises(ValueError, match="words='letters' must be one of whitespace, characters"):
        tasks.Tokens(made(), words="letters")
    with pytest.raises(ValueError, match="length=0 must be 1 or more"):
        tasks.Tokens(made(), length=0)
    with pytest.raises(ValueError, match="shots=3 and queries=3 need 6 sequences of each class"):
        tasks.Tokens(made(), fractions=FRACTIONS).sampler("train", ways=2, shots=3, queries=3, seed=0)
