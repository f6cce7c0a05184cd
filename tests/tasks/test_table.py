"""Regression from a table: which rows make a task, in which unit, and what is said of a table that does not fit."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks

HEADER = ["who", "x", "year", "y", "z"]


def rows(groups: int = 10, each: int = 8) -> list[list]:
    """Of each group: x is a number of the row, y and z are functions of it and of the group."""
    found = []
    for group in range(groups):
        found += [
            [f"g{group}", row + 100 * group, 2000 + row, 2.0 * row, group - row / 2] for row in range(each)
        ]
    return found


def written(place: Path, found: list[list], header: list[str] = HEADER) -> Path:
    with place.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if place.suffix == ".tsv" else ",").writerows([header, *found])
    return place


def table(place: Path, **options) -> tasks.Table:
    return tasks.Table(
        place, **{"outputs": ["y", "z"], "group": "who", "fractions": (0.6, 0.2, 0.2), **options}
    )


def test_task_holds_different_rows_of_one_group_and_is_a_function_of_its_place(tmp_path):
    data = table(written(tmp_path / "t.csv", rows()))
    sampler = data.sampler("train", shots=3, queries=5, seed=1, scale="none")
    together = sampler.sample(4, 6)
    assert (data.inputs, data.outputs, data.sizes) == (("x", "year"), ("y", "z"), {"inputs": 2, "outputs": 2})
    assert together.support.x.shape == (6, 3, 2)
    assert together.query.y.shape == (6, 5, 2)
    for task, number in zip(together, sampler.draw(4, 6)[0].tolist(), strict=True):
        x = torch.cat([task.support.x, task.query.x])[:, 0]
        group = int(data.parts["train"][number].removeprefix("g"))
        assert sorted((x - 100 * group).tolist()) == [*range(8)]
        assert torch.equal(torch.cat([task.support.y, task.query.y])[:, 0], 2 * (x - 100 * group))
    alone = data.sampler("train", shots=3, queries=5, seed=1, scale="none").sample(4, [2])
    assert alone[0].checksum() == together[2].checksum()
    others = [
        sampler.sample(5, 1),
        data.sampler("train", shots=3, queries=5, seed=2, scale="none").sample(4, 1),
    ]
    assert len({together[0].checksum(), *(one[0].checksum() for one in others)}) == 3
    parts = [{*data.parts[part]} for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert len(set.union(*parts)) == 10


def test_columns_are_standardised_as_asked(tmp_path):
    data = table(written(tmp_path / "t.csv", rows()))
    plain = data.sampler("test", shots=4, queries=4, seed=0, scale="none").sample(0, 3)
    own = data.sampler("test", shots=4, queries=4, seed=0, scale="support").sample(0, 3)
    shared = data.sampler("test", shots=4, queries=4, seed=0)
    for one, other in zip(plain, own, strict=True):
        # A closed form, and not over the queries.
        mean, deviation = one.support.x.double().mean(0), one.support.x.double().std(0, correction=0)
        torch.testing.assert_close(
            other.query.x.double(), (one.query.x - mean) / deviation, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(other.support.y.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    trained = np.concatenate(data.rows("train"))
    for one, other in zip(plain, shared.sample(0, 3), strict=True):
        expected = (one.query.y.double().numpy() - trained.mean(0)[2:]) / trained.std(0)[2:]
        np.testing.assert_allclose(other.query.y.numpy(), expected, rtol=1e-5, atol=1e-6)
    rest = [(group[:, 2:] - trained.mean(0)[2:]) / trained.std(0)[2:] for group in data.rows("test")]
    assert shared.chance == pytest.approx(np.mean([(one**2).mean() for one in rest]))


def test_large_offsets_and_constant_columns_keep_their_digits(tmp_path):
    found = [[who, x + 1.7e9, 5, y, z] for who, x, _, y, z in rows()]
    data = table(written(tmp_path / "t.csv", found))
    for scale in ("support", "train"):
        task = data.sampler("train", shots=3, queries=5, seed=0, scale=scale).sample(0, 1)[0]
        x = torch.cat([task.support.x, task.query.x])
        steps = x[:, 0].sort().values.diff()
        torch.testing.assert_close(steps, steps[:1].expand(7), rtol=1e-3, atol=0)
        assert bool((x[:, 1] == 0).all())


def test_same_rows_give_the_same_tasks_in_every_form_and_order(tmp_path):
    found = rows()
    shuffled = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    columns = {name: np.array([row[i] for row in shuffled]) for i, name in enumerate(HEADER)}
    np.savez(tmp_path / "t.npz", **columns)
    (tmp_path / "files").mkdir()
    for group in range(10):
        own = [row[1:] for row in shuffled if row[0] == f"g{group}"]
        written(tmp_path / "files" / f"g{group}.tsv", own, HEADER[1:])
    forms = [
        table(written(tmp_path / "t.csv", found)),
        table(written(tmp_path / "u.csv", shuffled)),
        table(tmp_path / "t.npz"),
        table(tmp_path / "files", group=None),
        table(sorted((tmp_path / "files").iterdir()), group=None),
    ]
    drawn = {
        (
            one.describe()["checksum"],
            one.sampler("val", shots=2, queries=2, seed=0).sample(3, 1)[0].checksum(),
        )
        for one in forms
    }
    assert len(drawn) == 1


def test_split_by_list(tmp_path):
    (tmp_path / "split.txt").write_text("[train]\ng1\ng2\n[val]\ng3\n[test]\ng4\n")
    data = table(written(tmp_path / "t.csv", rows()), split=tmp_path / "split.txt")
    assert data.parts == {"train": ["g1", "g2"], "val": ["g3"], "test": ["g4"]}
    (tmp_path / "split.txt").write_text("[train]\ng1\n[val]\ng1\n[test]\ng4\n")
    with pytest.raises(tasks.DataError, match=r"table: the split .* names g1 \(train and val\) twice"):
        table(tmp_path / "t.csv", split=tmp_path / "split.txt")
    (tmp_path / "split.txt").write_text("[train]\ng1\n[val]\nh\n[test]\ng4\n")
    with pytest.raises(tasks.DataError, match="the split names h, of which there are no rows"):
        table(tmp_path / "t.csv", split=tmp_path / "split.txt")


DAMAGED = [*rows()[:3], ["g9", "", 2000, 1, 1], ["g9", 3, "soon", "nan", 1], *rows()[3:]]


def test_damaged_cells_are_named_by_line_and_column_or_left_out(tmp_path, caplog):
    place = written(tmp_path / "t.csv", DAMAGED)
    sentence = (
        r"3 cells of .* are no finite numbers: line 5, column x: '', line 6, column year: 'soon', line 6, col"
    )
    with pytest.raises(tasks.DataError, match=sentence):
        table(place)
    assert table(place, skip_damaged=True).describe()["rows"] == 80
    assert "left out 2 of 82 rows" in caplog.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"outputs": None}, r"which columns are to be predicted\? Name them by task\.dataset\.outputs"),
        ({"outputs": ["w"]}, r"has no column w; it has who, x, year, y, z"),
        ({"group": None}, r"which rows of .*t\.csv are one task\? Name the column .* task\.dataset\.group"),
        ({"inputs": ["y"]}, "y cannot be an output and an input"),
        ({"outputs": ["x", "year", "y", "z"]}, "has no column left for an input"),
        ({"fractions": (0.5, 0.5)}, "table: fractions="),
    ],
)
def test_columns_that_do_not_fit_are_refused(options, sentence, tmp_path):
    with pytest.raises((tasks.DataError, ValueError), match=sentence):
        table(written(tmp_path / "t.csv", rows()), **options)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("who,x,y,z\ng1,1,2\n", r"has 4 columns, but line 2 has 3 cells"),
        ("who,x,x,y,z\n", "has two columns called x"),
        ("who,x,y,z\n", "has no rows below its header"),
        ("who,x,y,z\na,1,1,1\nb,1,1,1\n", "of 2 groups 1 would validate and 1 test, which leaves none"),
        ("who,x,y,z\n,1,1,1\n", "column who of .* is empty in some rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(text, sentence, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(tasks.DataError, match=sentence):
        table(tmp_path / "t.csv")


def test_small_groups_are_named(tmp_path):
    data = table(written(tmp_path / "t.csv", [*rows(), *[["h", 1, 1, 1, 1]] * 2]), fractions=(0.8, 0.1, 0.1))
    (part,) = [part for part, names in data.parts.items() if "h" in names]
    with pytest.raises(ValueError, match=r"need 5 rows of each group, and h has 2; choose fewer"):
        data.sampler(part, shots=2, queries=3, seed=0)
    with pytest.raises(ValueError, match="scale='all' must be one of support, train, none"):
        data.sampler(part, shots=1, queries=1, seed=0, scale="all")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(tasks.DataError, match=r"t\.csv is not there; name a \.csv"):
        table(tmp_path / "t.csv")
    with pytest.raises(tasks.DataError, match="has no tables"):
        table(tmp_path, group=None)
