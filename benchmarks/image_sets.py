"""Image sets: how fast tasks of 84x84 RGB images are drawn, and how much memory reading many images takes.

python -m benchmarks.image_sets draw                    Neo's sampler against learn2learn's Tasksets (`make peers`)
python -m benchmarks.image_sets read --images 100000    peak memory of reading so many, and of drawing from them
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import tasks
from neo.runtime import keep_freed_memory
from tasks._torchvision import import_torchvision

SIDE, WAYS, SHOTS, QUERIES = 84, 5, 1, 15
SIZES = ((84, 84), (500, 375))  # width and height of the files: shrunk before, as CUB's and ImageNet's are
SEVERAL = 4  # tasks of a meta-batch, as of MAML on mini-ImageNet
FRACTIONS = (0.6, 0.2, 0.2)
# learn2learn's data_augmentation="lee2019", of its mini-ImageNet; mean and std of 0..255.
MEAN = tuple(value / 255 for value in (120.39586422, 115.59361427, 104.54012653))
STD = tuple(value / 255 for value in (70.68188272, 68.27635443, 72.54505529))
LEE2019 = {"crop": 8, "flip": True, "colour": 0.4, "mean": MEAN, "std": STD}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("draw", "read"))
    parser.add_argument(
        "--images", type=int, help="how many are made; 1000 of each size to draw, 100000 to read"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each, in alternation")
    parser.add_argument("--threads", type=int, default=1, help="of torch's, to draw; of several, wall time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as Neo's commands do; for learn2learn's tasks, too
    with tempfile.TemporaryDirectory() as place:
        if options.what == "draw":
            draw({size: make(Path(place), options.images or 1000, size) for size in SIZES}, options.rounds)
        else:
            read(Path(place), options.images or 100_000)


def make(place: Path, count: int, size: tuple[int, int], per_class: int = 50) -> Path:
    """JPEGs of smooth noise in class folders."""
    place = place / "x".join(map(str, size))
    generator = np.random.default_rng(0)
    for number in range(count):
        folder = place / f"class{number // per_class:05}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{number:07}.jpg", quality=90)
    return place


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw(folders: dict[tuple[int, int], Path], rounds: int) -> None:
    """Seconds a task, medians in alternation: of the processor on one thread, of the clock on several."""
    plain, augmented = learn2learn(folders)
    turns = {
        "Neo": neo(folders[SIZES[0]]),
        "filling as much memory by torch's fill_": filling,
        **plain,
        "Neo, lee2019": neo(folders[SIZES[0]], **LEE2019),
        **augmented,
    }
    threads = torch.get_num_threads()
    clock = time.process_time if threads == 1 else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds + 1):
        for name, one in turns.items():
            begin = clock()
            done = one()
            if turn:  # the first one warms up
                spent[name].append((clock() - begin) / done)
    median = {name: statistics.median(found) for name, found in spent.items()}
    measured = "time of the processor, one thread" if threads == 1 else f"wall time, {threads} threads"
    print(f"a task: {WAYS}-way {SHOTS}-shot, {QUERIES} queries, {SIDE}x{SIDE} RGB; {measured}")
    for name, seconds in median.items():
        if name.startswith("Neo"):
            own = seconds
        print(f"{name:58} {1e3 * seconds:9.3f} ms a task {seconds / own:8.1f} times Neo")


def neo(folder: Path, **settings: Any) -> Callable[[], int]:
    data = tasks.Images(folder, size=SIDE, channels=3, fractions=FRACTIONS)
    sampler = data.sampler("train", ways=WAYS, shots=SHOTS, queries=QUERIES, seed=0, **settings)
    iteration = 0

    def turn(batches: int = 25) -> int:
        nonlocal iteration
        for _ in range(batches):
            sampler.sample(iteration, SEVERAL)
            iteration += 1
        return batches * SEVERAL

    return turn


class InMemory(torch.utils.data.Dataset):
    """All images as float32 from 0 to 255, height x width x channels in memory, as learn2learn's MiniImagenet."""

    def __init__(self, files: Any, transform: Callable[[Any], Any] | None = None) -> None:
        pixels = np.stack([np.asarray(image) for image, _ in files])
        self.images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        self.labels, self.transform = files.targets, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), self.labels[index]


def filling(batches: int = 25) -> int:
    for _ in range(batches):
        torch.empty(SEVERAL * WAYS * (SHOTS + QUERIES), 3, SIDE, SIDE).fill_(1)
    return batches * SEVERAL


Turns = dict[str, Callable[[], int]]


def learn2learn(folders: dict[tuple[int, int], Path]) -> tuple[Turns, Turns]:
    """Its Taskset on torchvision's ImageFolder, as its own data sets of files are, and on images in memory, as its
    MiniImagenet, with the transforms of its mini_imagenet_tasksets: those without augmentation, and those with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gym and learn2learn use what newer libraries deprecate
            import learn2learn
    except ImportError as error:
        print(
            f"learn2learn is not installed ({error}), so that nothing is compared with it; make peers",
            file=sys.stderr,
        )
        return {}, {}
    torchvision = import_torchvision()
    from torchvision import transforms

    steps = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    files = {size: torchvision.datasets.ImageFolder(str(folder), steps) for size, folder in folders.items()}
    small = torchvision.datasets.ImageFolder(str(folders[SIZES[0]]))
    lee2019 = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(SIDE, padding=8),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=MEAN, std=STD),
        ]
    )

    def taskset(data: torch.utils.data.Dataset) -> Callable[[], int]:
        meta = learn2learn.data.MetaDataset(data)
        l2l = learn2learn.data.transforms
        made = learn2learn.data.Taskset(
            meta,
            task_transforms=[
                l2l.FusedNWaysKShots(meta, n=WAYS, k=SHOTS + QUERIES),
                l2l.LoadData(meta),
                l2l.RemapLabels(meta),
                l2l.ConsecutiveLabels(meta),
            ],
        )

        def turn(count: int = 8) -> int:
            for _ in range(count):
                made.sample()
            return count

        return turn

    in_memory = "learn2learn's Taskset, float32 in memory"
    plain = {
        **{
            f"learn2learn's Taskset, JPEGs of {width}x{height}": taskset(data)
            for (width, height), data in files.items()
        },
        in_memory: taskset(InMemory(small)),
        f"{in_memory}, x / 255": taskset(InMemory(small, lambda x: x / 255.0)),
    }
    return plain, {f"{in_memory}, lee2019": taskset(InMemory(small, lee2019))}


# --- reading ---------------------------------------------------------------------------------------------------------


def read(place: Path, count: int) -> None:
    folder = make(place, count, (32, 32))
    print(f"{count} JPEGs are made; the peak of memory is {peak_mb():.0f} MB")
    begin = time.monotonic()
    data = tasks.Images(folder, size=SIDE, channels=3, fractions=FRACTIONS)
    size = data.images.numel() / 1e6
    print(
        f"read into {size:.0f} MB in {time.monotonic() - begin:.0f} s; the peak of memory is {peak_mb():.0f} MB"
    )
    begin = time.monotonic()
    tasks.Images(folder, size=SIDE, channels=3, fractions=FRACTIONS)
    print(
        f"found again, checked, in {time.monotonic() - begin:.1f} s; the peak of memory is {peak_mb():.0f} MB"
    )
    sampler = data.sampler("train", ways=WAYS, shots=SHOTS, queries=QUERIES, seed=0)
    for iteration in range(20):
        sampler.sample(iteration, SEVERAL)
    print(f"80 tasks drawn; the peak of memory is {peak_mb():.0f} MB")


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
