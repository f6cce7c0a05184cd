"""Data sets of mappings, as the `datasets` library has them, in the place of (input, label)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tasks
from tests.tasks import test_tokens as texts
from tests.tasks.images import made


class Rows:
    """As a datasets.Dataset: a row by its number, a column by its name, names of labels in features."""

    def __init__(
        self, columns: dict[str, list], names: list[str] | None = None, label: str = "label"
    ) -> None:
        self.columns, self.column_names = columns, [*columns]
        self.features = {name: SimpleNamespace() for name in columns}
        if names is not None:
            self.features[label] = SimpleNamespace(names=names)
        self.rows_read = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        self.rows_read += 1
        return {name: column[key] for name, column in self.columns.items()}


def images(label: str = "label", x: str = "image") -> Rows:
    arrays, labels = made.flat(made.images())
    names = sorted(set(labels))
    columns = {x: [Image.fromarray(one) for one in arrays], label: [names.index(one) for one in labels]}
    return Rows(columns, names, label)


def test_images_in_mappings_give_the_tasks_that_pairs_give():
    arrays, labels = made.flat(made.images())
    rows = images()
    plain = tasks.Images(list(zip(arrays, labels, strict=True)))
    named = tasks.Images(images("fine_label", "scan"), path_column="scan", label_column="fine_label")
    by_hand = tasks.Images(tasks.Columns(images("fine_label", "scan"), "scan", "fine_label"))
    unnamed = tasks.Images(
        [{"image": one, "label": label} for one, label in zip(arrays, labels, strict=True)]
    )
    assert len({one.checksum for one in (tasks.Images(rows), plain, named, by_hand, unnamed)}) == 1
    assert rows.rows_read == len(rows) + 2  # each image once; labels as a column


def test_texts_in_mappings_give_the_tasks_that_pairs_give():
    pairs = texts.made()
    names = sorted({label for _, label in pairs})
    rows = Rows({"text": [text for text, _ in pairs], "label": [names.index(one) for _, one in pairs]}, names)
    ids = Rows(
        {
            "input_ids": [[len(word) for word in text.split()] for text, _ in pairs],
            "label": [one for _, one in pairs],
        }
    )
    assert tasks.Tokens(rows).checksum == tasks.Tokens(pairs).checksum
    assert tasks.Tokens(ids).length == 4


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (Rows({"picture": [1], "kind": ["a"]}), r"have picture, kind; expected one of label, .*label_column"),
        (
            Rows({"image": [1], "img": [1], "label": ["a"]}),
            r"have image, img, label; expected one of image, .* once",
        ),
        (Rows({"image": [], "label": []}), "Rows has no rows"),
        (Rows({"image": [1, 2], "label": ["a", None]}), "rows 1 of Rows have no label"),
        (Rows({"image": [1, 2], "label": [0, -1]}, ["a", "b"]), "has names of 2 labels, and row 1 has -1"),
    ],
)
def test_mappings_that_do_not_fit_are_refused(rows, sentence):
    with pytest.raises(tasks.DataError, match=sentence):
        tasks.Images(rows)


def test_columns_that_are_not_there_are_named():
    with pytest.raises(tasks.DataError, match="the rows of Rows have no scan; they have image, label"):
        tasks.Columns(images(), "scan", "label")
    with pytest.raises(tasks.DataError, match=r"data\[0\] must be a mapping, got tuple"):
        tasks.Columns([(np.zeros(3), 1)], "image", "label")
