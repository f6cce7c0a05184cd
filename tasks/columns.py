"""Data sets whose rows are mappings, as those of the `datasets` library: which column is the input, which the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import DataError, shortened

__all__ = ["Columns", "as_pairs"]

IMAGE_COLUMNS = ("image", "img", "pixels", "picture")
TEXT_COLUMNS = ("text", "sentence", "tokens", "input_ids", "words")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "intent")


class Columns:
    """Two columns of a data set of mappings as an indexable of (input, label), for tasks.Images and tasks.Tokens.

    data: anything with len(data) and data[i] → a mapping. Where it has `column_names`, as a `datasets.Dataset`, labels
        are read as a column, data[label], without decoding the rows; where `features[label].names` are names of labels,
        they are those of the classes.
    Raises: DataError for data of another kind, without rows, without the columns, or with rows without a label.
    """

    def __init__(self, data: Any, inputs: str, label: str) -> None:
        first = _first(data)
        if not isinstance(first, Mapping):
            raise DataError(f"Columns: data[0] must be a mapping, got {type(first).__name__}.")
        missing = [name for name in (inputs, label) if name not in first]
        if missing:
            raise DataError(
                f"Columns: the rows of {type(data).__name__} have no {shortened(missing)}; they have "
                f"{', '.join(first)}."
            )
        self.data, self.inputs, self.label = data, inputs, label
        column = data[label] if hasattr(data, "column_names") else [data[i][label] for i in range(len(data))]
        self.targets = [one.item() if hasattr(one, "item") else one for one in column]
        bare = [str(row) for row, one in enumerate(self.targets) if one is None or one == ""]
        if bare:
            raise DataError(f"Columns: rows {shortened(bare)} of {type(data).__name__} have no {label}.")
        feature = getattr(data, "features", None)
        known = feature.get(label) if isinstance(feature, Mapping) else None
        self.classes: Sequence[str] | None = getattr(known, "names", None)
        if self.classes is not None:
            outside = [
                f"row {row} has {one}"
                for row, one in enumerate(self.targets)
                if isinstance(one, int) and not 0 <= one < len(self.classes)
            ]
            if outside:
                raise DataError(
                    f"Columns: {label} of {type(data).__name__} has names of {len(self.classes)} labels, and "
                    f"{shortened(outside)}; leave out what has no label."
                )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.data[index][self.inputs], self.targets[index]


def as_pairs(
    data: Any, inputs: str | None, label: str | None, usual: Sequence[str], keys: Sequence[str]
) -> Any:
    """The data themselves where their rows are (input, label), Columns of them where they are mappings.

    Args:
        inputs, label: the columns; None: the one that has one of the usual names.
        usual: names that columns of inputs have.
        keys: of the configuration, which name the columns, for errors.
    Raises: DataError where no column, or more than one, has such a name; as Columns.
    """
    first = _first(data)
    if not isinstance(first, Mapping):
        return data
    chosen = []
    for named, names, key in ((inputs, usual, keys[0]), (label, LABEL_COLUMNS, keys[1])):
        found = [name for name in first if (name == named if named else str(name).lower() in names)]
        if len(found) != 1:
            expected = repr(named) if named else f"one of {', '.join(names)}"
            raise DataError(
                f"Columns: the rows of {type(data).__name__} have {', '.join(map(str, first))}; expected {expected} "
                f"among them, once. Name the column by task.dataset.{key}=..."
            )
        chosen.append(found[0])
    return Columns(data, *chosen)


def _first(data: Any) -> Any:
    if not len(data):
        raise DataError(f"Columns: {type(data).__name__} has no rows.")
    return data[0]
