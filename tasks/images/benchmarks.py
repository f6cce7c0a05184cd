"""The few-shot image benchmarks by name, under their published splits, from the layouts that people have.

None of them comes with Neo, and Neo downloads none: `data` is the folder where they lie. The class lists are those of
class_lists/*.txt, each with its paper. **The readers have met small archives of the same layouts, made by the
tests, and never the published ones.**
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from tasks.class_splits import Parts, by_part, parse_split
from tasks.errors import DataError, shortened
from tasks.images import archives, folders
from tasks.images.image_set import ImageSet, stored
from tasks.images.listing import Found, Listing

__all__ = ["CUB", "FC100", "CifarFS", "MiniImagenet", "TieredImagenet", "published_split"]

log = logging.getLogger(__name__)

Layout = Callable[[Path], Found | None]


def published_split(name: str) -> Parts:
    """Part → names of its classes: "mini_imagenet", "tiered_imagenet", "cifar_fs", "fc100" (superclasses) or "cub"."""
    text = files("tasks.images").joinpath("class_lists", f"{name}.txt").read_text(encoding="utf-8")
    return parse_split(text, f"{name}.txt")


class Benchmark(ImageSet):
    """A published set of images under its published split; see ImageSet for what it offers.

    Args:
        data: the folder where it lies, or one that has it in a folder of its name.
        size: pixels, height and width that images are scaled to (Lanczos); None: as they are.
        channels, skip_damaged, cache_dir: as of tasks.Images.
    Raises: DataError where it is not there, damaged, or has not the published classes.
    Cost: as of tasks.Images; a pickle or .npz is held in memory while it is read for the first time.
    """

    key: ClassVar[str]  # of its class list and its configuration
    title: ClassVar[str]
    places: ClassVar[Sequence[str]]  # folders it may lie in, their names without capitals, - _ and spaces
    layouts: ClassVar[Sequence[Layout]]  # besides folders of classes
    expected: ClassVar[str]  # the layouts, for people
    published: ClassVar[dict[str, int]]  # part → number of classes
    images_per_class: ClassVar[int | None] = None

    def __init__(
        self,
        data: str | Path,
        *,
        size: int | None = 84,
        channels: int | None = 3,
        skip_damaged: bool = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        place, found = self._find(Path(data).expanduser().absolute())

        def read() -> Listing:
            listing = found.read()
            listing = listing.of_parts(self._parts(listing, place))
            self._check_counts(Counter(listing.classes))
            return listing

        images, index = stored(
            self.key,
            place,
            Found(found.files, read),
            size=size,
            channels=channels,
            skip_damaged=skip_damaged,
            cache_dir=cache_dir,
        )
        super().__init__(self.key, "published", images, index, by_part(index.part_of), str(place))

    @classmethod
    def part_of(cls) -> dict[str, str]:
        """Class, or for FC100 superclass → its published part."""
        return {name: part for part, names in published_split(cls.key).items() for name in names}

    @classmethod
    def known(cls, name: str) -> str:
        """The name in the published list that a class goes by."""
        return name

    def _find(self, root: Path) -> tuple[Path, Found]:
        if not root.is_dir():
            raise DataError(
                f"{self.title}: there is no folder {root}; name the one where it lies: data_dir=..."
            )
        below = sorted(path for path in root.iterdir() if path.is_dir() and _plain(path.name) in self.places)
        places = [*below, root]  # in this order: root may hold train/ and test/ of other data
        for place in places:
            for layout in self.layouts:
                found = layout(place)
                if found is not None:
                    return place, found
        for place in places:
            found = self._folders(place)
            if found is not None:
                return place, found
        raise DataError(
            f"{self.title}: nothing of it in {root}; expected {self.expected}, there or in a folder of its name. Neo "
            "downloads none of it."
        )

    def _folders(self, place: Path) -> Found | None:
        """train, val and test as folders, tables or arrays; or class folders of the published names."""
        wanted = self.part_of()
        for folder in (place, place / "images", place / "data"):
            if folder.is_dir() and any((folder / name).is_dir() for name in wanted):
                return folders.class_folders(folder, wanted.__contains__)
        return folders.parts_of(place)

    def _parts(self, listing: Listing, place: Path) -> dict[str, str]:
        """Class → part: by the published list; or where no class has a name of it, as the data say, in as many."""
        published = self.part_of()
        names = sorted(set(listing.classes))
        own = {name: published[self.known(name)] for name in names if self.known(name) in published}
        missing = sorted(set(published) - {self.known(name) for name in own})
        if own and missing:
            raise DataError(
                f"{self.title}: {place} has no images of {shortened(missing)}; expected {self.expected}."
            )
        own = own or listing.expect_disjoint().part_of
        counts = {part: [*own.values()].count(part) for part in self.published}
        if counts != self.published:
            raise DataError(
                f"{self.title}: {place} has {_counted(counts)} classes to train, validate and test, expected "
                f"{_counted(self.published)}; get it from where it is published."
            )
        return own

    def _check_counts(self, counts: Counter[str]) -> None:
        if self.images_per_class is None:
            return
        many = [f"{name} has {count}" for name, count in counts.items() if count > self.images_per_class]
        if many:
            raise DataError(
                f"{self.title}: {shortened(many)} images, expected the {self.images_per_class} of each class that the "
                "published train.csv, val.csv and test.csv list; put these beside images/."
            )
        few = [f"{name} has {count}" for name, count in counts.items() if count < self.images_per_class]
        if few:
            log.warning(
                "%s: %s of the %d images of a class", self.title, shortened(few), self.images_per_class
            )


class MiniImagenet(Benchmark):
    """mini-ImageNet: 64 / 16 / 20 classes of ImageNet, 600 images each. Vinyals et al. 2016, arXiv:1606.04080.

    Under the split of Ravi and Larochelle 2017.
    """

    key, title = "mini_imagenet", "mini-ImageNet"
    places = ("miniimagenet", "miniimagenetnumpy")
    layouts = (
        archives.mini_pickles,
        # In this order: there is a train_phase_val.pickle too, of other images of the training classes.
        archives.split_pickles(
            "miniImageNet_category_split_{}.pickle", "miniImageNet_category_split_train_phase_{}.pickle"
        ),
    )
    expected = (
        "mini-imagenet-cache-train.pkl (val, test), miniImageNet_category_split_*.pickle, images/ with train.csv (val, "
        "test), or <WordNet id>/ folders, with or without train/, val/ and test/ above them"
    )
    published: ClassVar = {"train": 64, "val": 16, "test": 20}
    images_per_class = 600


class TieredImagenet(Benchmark):
    """tiered-ImageNet: 351 / 97 / 160 classes of ImageNet, by category. Ren et al. 2018, arXiv:1803.00676.

    Its published pickles name no class by its WordNet id, so that of these only the number of classes is compared.
    """

    key, title = "tiered_imagenet", "tiered-ImageNet"
    places = ("tieredimagenet",)
    layouts = (archives.png_pickles,)
    expected = (
        "train_images_png.pkl (or train_images.npz) with train_labels.pkl (val, test), or <WordNet id>/ folders, "
        "with or without train/, val/ and test/ above them"
    )
    published: ClassVar = {"train": 351, "val": 97, "test": 160}


class CifarFS(Benchmark):
    """CIFAR-FS: 64 / 16 / 20 classes of CIFAR-100, 600 images each. Bertinetto et al. 2019, arXiv:1805.08136."""

    key, title = "cifar_fs", "CIFAR-FS"
    places = ("cifarfs", "cifar100", "cifar100python", "cifar100binary")
    layouts = (
        archives.split_pickles("CIFAR_FS_{}.pickle"),
        archives.cifar100(lambda superclass, name: name),
    )
    expected = (
        "CIFAR_FS_train.pickle (val, test), cifar-100-python/, cifar-100-binary/, or folders of CIFAR-100's classes "
        "(in data/), with or without train/, val/ and test/ above them"
    )
    published: ClassVar = {"train": 64, "val": 16, "test": 20}
    images_per_class = 600


class FC100(Benchmark):
    """FC100: 60 / 20 / 20 classes of CIFAR-100, by superclass. Oreshkin et al. 2018, arXiv:1805.10123."""

    key, title = "fc100", "FC100"
    places = ("fc100", "cifar100", "cifar100python", "cifar100binary")
    layouts = (
        archives.split_pickles("FC100_{}.pickle"),
        archives.cifar100(lambda superclass, name: f"{superclass}/{name}"),
    )
    expected = (
        "FC100_train.pickle (val, test), cifar-100-python/, cifar-100-binary/, or train/, val/ and test/ with folders "
        "of CIFAR-100's classes"
    )
    published: ClassVar = {"train": 60, "val": 20, "test": 20}
    images_per_class = 600

    @classmethod
    def known(cls, name: str) -> str:
        return name.partition("/")[0]


class CUB(Benchmark):
    """CUB-200-2011: 100 / 50 / 50 species of birds, 41 to 60 images each. Wah et al. 2011.

    Under the split of Chen et al. 2019, arXiv:1904.04232. Images are taken whole, not cut to the birds' bounding boxes.
    """

    key, title = "cub", "CUB"
    places = ("cub", "cub2002011", "cub200")
    layouts = ()
    expected = "CUB_200_2011/images/ with 001.Black_footed_Albatross/ and so on"
    published: ClassVar = {"train": 100, "val": 50, "test": 50}


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _counted(counts: dict[str, int]) -> str:
    return " / ".join(str(count) for count in counts.values())
