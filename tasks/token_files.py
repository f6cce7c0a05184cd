"""Sequences of words with labels: a table of texts, arrays of numbers, or an indexable of (text, label)."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import DataError, shortened

__all__ = ["CUTS", "Sequences", "indexed", "read"]

TEXT_COLUMNS = ("text", "sentence", "tokens", "ids", "words")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target", "intent")
CUTS: dict[str, Callable[[str], list[str]]] = {"whitespace": str.split, "characters": list}

Sequences = tuple[list[list[str]], list[str]]
"""The words of each sequence, and its label."""


def read(
    file: Path, *, words: str, lowercase: bool, text_column: str | None, label_column: str | None
) -> Sequences:
    """The sequences of a .csv or .tsv with a header, or of an .npz.

    A table: a column of texts (or of numbers with spaces between), and one of labels. An .npz: `tokens` (n, length) of
    whole numbers, `labels` (n,), and where there is one `mask` (n, length), 0 where there is no token; negative numbers
    are none either.
    Raises: DataError for what is missing, cannot be read, has no words or no label.
    """
    try:
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as opened:
                return _checked(
                    str(file), "row", 0, *_arrays(file, {name: opened[name] for name in opened.files})
                )
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(
                lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True
            )
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"tokens: {file} cannot be read ({error}); expected a .csv or .tsv in UTF-8 with a header, or an .npz of "
            "plain arrays."
        ) from error
    text, label = (
        _column(file, header, what, named, usual)
        for what, named, usual in (
            ("text", text_column, TEXT_COLUMNS),
            ("label", label_column, LABEL_COLUMNS),
        )
    )
    cut = [_cut(row[text] or "", words, lowercase) for row in rows]
    return _checked(str(file), "record", 1, cut, [(row[label] or "").strip() for row in rows])


def indexed(data: Any, *, words: str, lowercase: bool) -> Sequences:
    """The same of anything with len(data) and data[i] → (text, or a sequence of words or numbers; label)."""
    pairs = [data[i] for i in range(len(data))]
    names = getattr(data, "classes", None)
    labels = [label if names is None or isinstance(label, str) else names[int(label)] for _, label in pairs]
    cut = [
        _cut(one, words, lowercase) if isinstance(one, str) else [str(word) for word in _listed(one)]
        for one, _ in pairs
    ]
    return _checked(type(data).__name__, "element", 0, cut, [str(label) for label in labels])


def _cut(text: str, words: str, lowercase: bool) -> list[str]:
    return CUTS[words](text.lower() if lowercase else text)


def _listed(sequence: Any) -> list[Any]:
    return sequence.tolist() if hasattr(sequence, "tolist") else list(sequence)


def _checked(where: str, kind: str, first: int, words: list[list[str]], labels: list[str]) -> Sequences:
    bare = [
        f"{kind} {number}"
        for number, (own, label) in enumerate(zip(words, labels, strict=True), first)
        if not own or not label
    ]
    if bare or not words:
        what = f"{shortened(bare)} of {where} {'have' if len(bare) > 1 else 'has'} no tokens or no label"
        raise DataError(
            f"tokens: {what if words else f'{where} has no rows'}; a row is a sequence with its label."
        )
    return words, labels


def _arrays(file: Path, arrays: dict[str, np.ndarray]) -> Sequences:
    missing = [name for name in ("tokens", "labels") if name not in arrays]
    if missing:
        raise DataError(
            f"tokens: {file} has no {' and no '.join(missing)}; expected arrays tokens (n, length) and labels (n,), "
            f"and a mask (n, length) where there is one, got {', '.join(arrays) or 'none'}."
        )
    tokens, labels = arrays["tokens"], arrays["labels"]
    mask = arrays.get("mask", np.ones(tokens.shape, bool))
    if (
        tokens.ndim != 2
        or tokens.dtype.kind not in "iu"
        or mask.shape != tokens.shape
        or labels.shape != tokens.shape[:1]
        or labels.dtype.kind not in "iuUS"
    ):
        raise DataError(
            f"tokens: {file} has tokens {tokens.dtype} {tokens.shape}, labels {labels.dtype} {labels.shape} and mask "
            f"{mask.shape}; expected whole numbers (n, length), a number or a name (n,), and (n, length)."
        )
    names = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
    kept = (mask != 0) & (tokens >= 0)
    words = [[str(word) for word in row[own].tolist()] for row, own in zip(tokens, kept, strict=True)]
    return words, [str(name) for name in names.tolist()]


def _column(file: Path, header: Sequence[str], what: str, named: str | None, usual: Sequence[str]) -> str:
    found = [name for name in header if name == named or (named is None and name.lower() in usual)]
    if not found:
        expected = repr(named) if named else f"one of {', '.join(usual)}"
        raise DataError(
            f"tokens: {file} has no {what} column: expected {expected} in its first line, got "
            f"{', '.join(header) or 'nothing'}. Name it by task.dataset.{what}_column=..."
        )
    return found[0]
