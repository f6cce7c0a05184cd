"""Few-shot classification of sequences of tokens, with a vocabulary of the training classes alone."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tasks import token_files
from tasks.class_splits import by_fractions, read_split
from tasks.columns import TEXT_COLUMNS, as_pairs
from tasks.errors import DataError, shortened
from tasks.sampler import EpisodeSampler, Pool
from tasks.streams import PARTS

__all__ = ["PADDING", "UNKNOWN", "TokenSampler", "Tokens"]

log = logging.getLogger(__name__)

PADDING, UNKNOWN = 0, 1  # tokens that are no word, and words that training has not met
WORDS = 2  # the first word's token


class Tokens:
    """Sequences in classes, and which classes meta-train, meta-val and meta-test use.

    A token is a whole number: 0 is padding, behind a sequence, 1 an unknown word, and the others are the words of the
    training classes, the most frequent first. Words that only other classes have are unknown: nothing of validation and
    test decides what a token is.

    Args:
        data: a .csv or .tsv of texts (or of numbers with spaces between) and labels; an .npz of `tokens` (n, length),
            `labels` (n,) and, where there is one, `mask` (n, length), 0 where there is no token; or an indexable of
            (text or sequence, label), or of mappings, as those of the `datasets` library.
        words: how texts are cut: "whitespace" or "characters".
        lowercase: whether texts are, first.
        length: tokens of a sequence: shorter ones are padded, longer ones cut, with a warning. None: the longest one's.
        vocabulary: words that are known, the most frequent so many, ≥ 1; None: all.
        least_count: times that a word must come up in the training classes to be known, ≥ 1. From 2 on training meets
            unknown words, as the test will.
        text_column, label_column: of a table, or of mappings; None: text, sentence, tokens ... and label, class ...
        split, fractions, seed: as tasks.Images has them.
    Raises: DataError where the data are missing, damaged or not as described; ValueError naming the argument.
    """

    name = "tokens"

    def __init__(
        self,
        data: Any,
        *,
        words: str = "whitespace",
        lowercase: bool = False,
        length: int | None = None,
        vocabulary: int | None = None,
        least_count: int = 1,
        text_column: str | None = None,
        label_column: str | None = None,
        split: str | Path | None = None,
        fractions: Sequence[float] = (0.64, 0.16, 0.2),
        seed: int = 0,
    ) -> None:
        if words not in token_files.CUTS:
            raise ValueError(f"tokens: words={words!r} must be one of {', '.join(token_files.CUTS)}.")
        for setting, value in (("length", length), ("vocabulary", vocabulary), ("least_count", least_count)):
            if value is not None and value < 1:
                raise ValueError(f"tokens: {setting}={value} must be 1 or more.")
        how: dict[str, Any] = {"words": words, "lowercase": lowercase}
        if isinstance(data, str | Path):
            place = Path(data).expanduser()
            if not place.is_file() or place.suffix.lower() not in (".csv", ".tsv", ".npz"):
                raise DataError(f"tokens: {place} is no .csv, .tsv or .npz; name one: data_dir=...")
            found, labels = token_files.read(place, text_column=text_column, label_column=label_column, **how)
            self.source = str(place)
        elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
            pairs = as_pairs(data, text_column, label_column, TEXT_COLUMNS, ("text_column", "label_column"))
            found, labels = token_files.indexed(pairs, **how)
            self.source = type(data).__name__
        else:
            raise DataError(
                f"tokens: data must be a path or an indexable of (text, label), got {type(data).__name__}."
            )
        # In an order of their own: the same sequences give the same tasks, however they were stored.
        ordered = sorted(zip(labels, found, strict=True))
        counts = Counter(labels)
        self.names: Sequence[str] = tuple(sorted(counts))
        if split is None:
            named = by_fractions(self.names, fractions, seed, self.name)
            self.split = f"fractions={'/'.join(map(str, fractions))},seed={seed}"
        else:
            named = read_split(Path(split).expanduser(), self.name)
            self.split = f"classes of {Path(split).name}"
        unknown = [name for own in named.values() for name in own if name not in counts]
        if unknown:
            raise DataError(f"tokens: the split names {shortened(unknown)}, of which there are no sequences.")
        number = {name: i for i, name in enumerate(self.names)}
        self.parts: Mapping[str, torch.Tensor] = {
            part: torch.tensor([number[name] for name in named[part]], device="cpu") for part in PARTS
        }
        trained = {*named["train"]}
        met = Counter(word for label, own in ordered if label in trained for word in own)
        known = sorted(
            (word for word, count in met.items() if count >= least_count), key=lambda word: (-met[word], word)
        )
        self.vocabulary = tuple(known[:vocabulary])
        if not self.vocabulary:
            raise DataError(
                f"tokens: no word of the training classes comes up least_count={least_count} times."
            )
        longest = max(len(own) for _, own in ordered)
        self.length = longest if length is None else length
        cut = sum(len(own) > self.length for _, own in ordered)
        if cut:
            log.warning("tokens: %d of %d sequences are cut to length=%d", cut, len(ordered), self.length)
        same = len(ordered) - len({(label, *own) for label, own in ordered})
        if same:
            log.warning(
                "tokens: %d sequences are the same as another of their class, and so may be in a support and a query "
                "set at once", same,
            )  # fmt: skip
        token = {word: place for place, word in enumerate(self.vocabulary, WORDS)}
        self.tokens = torch.full((len(ordered), self.length), PADDING, dtype=torch.int32, device="cpu")
        for row, (_, own) in enumerate(ordered):
            kept = [token.get(word, UNKNOWN) for word in own[: self.length]]
            self.tokens[row, : len(kept)] = torch.tensor(kept, dtype=torch.int32)
        self._counts = torch.tensor([counts[name] for name in self.names], device="cpu")
        digest = hashlib.sha256(json.dumps([self.vocabulary, named]).encode())
        digest.update(json.dumps([label for label, _ in ordered]).encode() + self.tokens.numpy().tobytes())
        self.checksum = digest.hexdigest()

    @property
    def sizes(self) -> dict[str, int]:
        """What a model is fitted to: data.vocabulary, with padding and unknown words, and data.length."""
        return {"vocabulary": len(self.vocabulary) + WORDS, "length": self.length}

    def pool(self, part: str) -> Pool:
        """What the tasks of a part are drawn from."""
        chosen = self.parts[part]
        ends = self._counts.cumsum(0)
        rows = [
            torch.arange(end - count, end, device="cpu")
            for end, count in zip(ends[chosen].tolist(), self._counts[chosen].tolist(), strict=True)
        ]
        return Pool(self.tokens, torch.cat(rows), self._counts[chosen])

    def sampler(
        self,
        part: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> TokenSampler:
        """The N-way K-shot tasks of one part ("train", "val" or "test"); see TokenSampler."""
        return TokenSampler(self, part, ways=ways, shots=shots, queries=queries, seed=seed, device=device)

    def text(self, tokens: Sequence[int]) -> str:
        """What a row of tokens stands for, for people: words with spaces between, "?" for what is unknown."""
        words = [
            "" if one == PADDING else "?" if one == UNKNOWN else self.vocabulary[one - WORDS]
            for one in tokens
        ]
        return " ".join(word for word in words if word)

    def describe(self) -> dict[str, Any]:
        """What a result must say about its data, plain."""
        return {
            "dataset": self.name,
            "split": self.split,
            "classes": len(self.names),
            "sequences": len(self.tokens),
            **{part: len(chosen) for part, chosen in self.parts.items()},
            "vocabulary": len(self.vocabulary),
            "length": self.length,
            "checksum": self.checksum,
            "source": self.source,
        }

    def __repr__(self) -> str:
        parts = "/".join(str(len(chosen)) for chosen in self.parts.values())
        return (
            f"Tokens({len(self.tokens)} sequences, {len(self.vocabulary)} words, split {self.split} {parts})"
        )


class TokenSampler(EpisodeSampler):
    """N-way K-shot tasks of sequences: EpisodeSampler's, with x (slots, n, length) int64 in the place of images."""

    ITEMS = "sequences"

    def __init__(self, dataset: Tokens, part: str, **settings: Any) -> None:
        super().__init__(dataset, part, rotations=False, **settings)
        self.text = dataset.text

    def _gathered(self, places: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        chosen = self._rows[places]
        tokens = self._images.index_select(0, chosen.to(self._images.device))
        return tokens.to(self.device, torch.int64)
