"""Image sets: how fast tasks of 84x84 RGB images are drawn, and how much memory reading many images takes.

python -m benchmarks.image_sets draw                    Neo's sampler against learn2learn's Taskset (`make peers`)
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

import numpy as np
import torch
from PIL import Image

import tasks
from tasks._torchvision import import_torchvision

SIDE, WAYS, SHOTS, QUERIES = 84, 5, 1, 15
SIZES = ((84, 84), (500, 375))  # width and height of the files: shrunk before, as CUB's and ImageNet's are
SEVERAL = 4  # tasks of a meta-batch, as of MAML on mini-ImageNet
FRACTIONS = (0.6, 0.2, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("draw", "read"))
    parser.add_argument(
        "--images", type=int, help="how many are made; 1000 of each size to draw, 100000 to read"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each, in alternation")
    options = parser.parse_args()
    torch.set_num_threads(1)
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
    """Seconds of processor time a task, medians in alternation, of one thread."""
    turns = {"Neo": neo(folders[SIZES[0]]), **learn2learn(folders)}
    spent: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds + 1):
        for name, one in turns.items():
            begin = time.process_time()
            done = one()
            if turn:  # the first one warms up
                spent[name].append((time.process_time() - begin) / done)
    median = {name: statistics.median(found) for name, found in spent.items()}
    print(
        f"a task: {WAYS}-way {SHOTS}-shot, {QUERIES} queries, {SIDE}x{SIDE} RGB; one thread of the processor"
    )
    for name, seconds in median.items():
        print(f"{name:58} {1e3 * seconds:9.3f} ms a task {seconds / median['Neo']:8.1f} times Neo")


def neo(folder: Path) -> Callable[[], int]:
    data = tasks.Images(folder, size=SIDE, channels=3, fractions=FRACTIONS)
    sampler = data.sampler("train", ways=WAYS, shots=SHOTS, queries=QUERIES, seed=0)
    iteration = 0

    def turn(batches: int = 25) -> int:
        nonlocal iteration
        for _ in range(batches):
            sampler.sample(iteration, SEVERAL)
            iteration += 1
        return batches * SEVERAL

    return turn


def learn2learn(folders: dict[tuple[int, int], Path]) -> dict[str, Callable[[], int]]:
    """Its Taskset on torchvision's ImageFolder, as its own data sets of files are; and on images in memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gym and learn2learn use what newer libraries deprecate
            import learn2learn
    except ImportError as error:
        print(
            f"learn2learn is not installed ({error}), so that nothing is compared with it; make peers",
            file=sys.stderr,
        )
        return {}
    torchvision = import_torchvision()
    from torchvision import transforms

    steps = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    files = {size: torchvision.datasets.ImageFolder(str(folder), steps) for size, folder in folders.items()}
    small = files[SIZES[0]]

    class InMemory(torch.utils.data.Dataset):  # floats, as its MiniImagenet has them
        def __init__(self) -> None:
            self.images = torch.stack([image for image, _ in small])
            self.labels = small.targets

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.images[index], self.labels[index]

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

    return {
        **{
            f"learn2learn's Taskset, JPEGs of {width}x{height}": taskset(data)
            for (width, height), data in files.items()
        },
        "learn2learn's Taskset, images in memory as float32": taskset(InMemory()),
    }


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
