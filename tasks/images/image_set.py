"""Images of any number a class, with their class split: what every set of images gives to the sampler."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks import cache
from tasks.class_splits import expect_disjoint
from tasks.errors import DataError, shortened
from tasks.images import store
from tasks.images.listing import Found, Listing, fingerprint
from tasks.images.store import Index
from tasks.sampler import EpisodeSampler, Pool
from tasks.unbalanced import UnbalancedSampler
from tasks.varied import VariedSampler

__all__ = ["ImageSet", "stored"]

log = logging.getLogger(__name__)


class ImageSet:
    """Images in classes, and which classes meta-train, meta-val and meta-test use.

    images: (n, channels, height, width), uint8; on the CPU, in memory or a memory map of a file.
    index: which rows of it are of which class.
    parts: "train", "val", "test" → names of their classes, all of the index.
    checksum: SHA-256 of images, class names and parts, the same however images were stored and in whatever order read.
    source: what the images were read from, for the log.
    Raises: DataError where parts share a class, or name one that is not there.
    """

    def __init__(
        self,
        name: str,
        split: str,
        images: np.ndarray,
        index: Index,
        parts: Mapping[str, Sequence[str]],
        source: str,
    ) -> None:
        expect_disjoint(parts, f"the split {split!r} of {name}")
        number = {class_name: i for i, class_name in enumerate(index.names)}
        unknown = [one for names in parts.values() for one in names if one not in number]
        if unknown:
            raise DataError(
                f"{name}: the split {split!r} names {shortened(unknown)}, of which there are no images in {source}."
            )
        self.name, self.split, self.source = name, split, source
        named = json.dumps([index.checksum, {part: list(names) for part, names in parts.items()}])
        self.checksum = hashlib.sha256(named.encode()).hexdigest()
        self.images = torch.from_numpy(images)
        self.index = index
        self.names: Sequence[str] = tuple(index.names)
        self.parts: Mapping[str, torch.Tensor] = {
            part: torch.tensor([number[one] for one in names], dtype=torch.int64, device="cpu")
            for part, names in parts.items()
        }
        self._counts = torch.tensor(index.counts, dtype=torch.int64, device="cpu")
        self._rows = torch.tensor(index.rows, dtype=torch.int64, device="cpu")

    def sampler(
        self,
        part: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        rotations: bool = False,
        crop: int = 0,
        flip: bool = False,
        colour: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        varied: bool = False,
        dirichlet: int | None = None,
        device: str | torch.device = "cpu",
    ) -> EpisodeSampler:
        """The N-way K-shot tasks of one part ("train", "val" or "test"); see EpisodeSampler.

        varied: ways and queries are the most and shots the least of tasks that differ; see VariedSampler.
        dirichlet: queries are unbalanced; see UnbalancedSampler.
        Raises: ValueError where both are asked for; what the sampler raises.
        """
        if varied and dirichlet is not None:
            raise ValueError(
                f"{self.name}: varied=true draws sizes of its own, and dirichlet={dirichlet} cannot share out its "
                "queries; leave out one of them."
            )
        kind = VariedSampler if varied else EpisodeSampler
        make = kind if dirichlet is None else functools.partial(UnbalancedSampler, dirichlet=dirichlet)
        return make(
            self,
            part,
            ways=ways,
            shots=shots,
            queries=queries,
            seed=seed,
            rotations=rotations,
            crop=crop,
            flip=flip,
            colour=colour,
            mean=mean,
            std=std,
            device=device,
        )

    def pool(self, part: str) -> Pool:
        """What the tasks of a part are drawn from."""
        chosen = self.parts[part]
        starts = self._counts.cumsum(0) - self._counts
        rows = [
            self._rows[start : start + count]
            for start, count in zip(starts[chosen].tolist(), self._counts[chosen].tolist(), strict=True)
        ]
        return Pool(self.images, torch.cat(rows), self._counts[chosen])

    def describe(self) -> dict[str, Any]:
        """What a result must say about its data: names, counts and checksum, as plain numbers and strings."""
        least, most = min(self.index.counts), max(self.index.counts)
        return {
            "dataset": self.name,
            "split": self.split,
            "classes": len(self.names),
            "images": len(self.images),
            "images_per_class": least if least == most else f"{least} to {most}",
            **{part: len(chosen) for part, chosen in self.parts.items()},
            "left_out": len(self.index.left_out),
            "checksum": self.checksum,
            "source": self.source,
        }

    def __repr__(self) -> str:
        parts = "/".join(str(len(chosen)) for chosen in self.parts.values())
        return f"{type(self).__name__}({len(self.images)} images, split {self.split} {parts})"


def stored(
    name: str,
    data: Path,
    found: Found,
    *,
    size: int | None,
    channels: int | None,
    skip_damaged: bool,
    cache_dir: str | Path | None,
    settings: Sequence[object] = (),
    may_repeat: bool = False,
) -> tuple[np.ndarray, Index]:
    """The images that were found: from the cache, or read once, and then from there.

    settings: what else found.read() depends on.
    may_repeat: nothing is said of images that are the same.
    Raises: ValueError for a size or number of channels out of range; see store.write for what else.
    """
    if channels not in (None, 1, 3) or (size is not None and size < 1):
        raise ValueError(
            f"{name}: channels must be 1, 3 or null and size 1 or more, got {channels} and {size}."
        )
    options = {"size": size, "channels": channels, "skip_damaged": skip_damaged}
    workers = min(32, os.cpu_count() or 1)

    def in_memory(listing: Listing) -> tuple[np.ndarray, Index]:
        return _told(name, *store.gathered(listing, size, channels, skip_damaged, workers), may_repeat)

    if found.files is None:
        return in_memory(found.read())
    source = fingerprint(found.files, data, *options.items(), *settings)
    # Beside the data and not in it, where other libraries would take it for a class.
    folder = Path(cache_dir).expanduser() if cache_dir else cache.default_folder(data.parent)
    # Of what was asked for alone: images that have changed take the place of the old ones.
    stem = f"{name}-{hashlib.sha256(repr((str(data), options, settings)).encode()).hexdigest()[:16]}"
    kept = store.read(folder, stem, source)
    if kept is None:
        listing = found.read()
        log.info(
            "%s: reading %s images of %s once; the cache will be in %s",
            name,
            len(listing.items),
            data,
            folder,
        )
        try:
            store.write(folder, stem, source, listing, size, channels, skip_damaged, workers)
        except OSError as error:
            if cache_dir is not None:
                raise DataError(
                    f"{name}: cache_dir {folder} cannot be written ({error.strerror}); choose another cache_dir."
                ) from error
            log.warning("%s: no cache in %s (%s); all images stay in memory", name, folder, error.strerror)
            return in_memory(listing)
        kept = store.read(folder, stem, source)
        if kept is None:
            raise DataError(
                f"{name}: {folder / stem}.npy is not as it was written; is something else writing there?"
            )
    return _told(name, *kept, may_repeat)


def _told(name: str, images: np.ndarray, index: Index, may_repeat: bool) -> tuple[np.ndarray, Index]:
    if index.left_out:
        log.warning("%s: left out %d images: %s", name, len(index.left_out), shortened(index.left_out))
    if index.duplicates and not may_repeat:
        log.warning(
            "%s: %d images are the same as another of their class, and so may be in a support and a query set at once",
            name, index.duplicates,
        )  # fmt: skip
    return images, index
