"""The pass in C over a task's images, against torch's functions, bit for bit."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tasks
from tasks import gathering, hashing
from tasks.augmentation import Augmentation
from tasks.gathering import Gathering
from tasks.hashing import derive

CPU = torch.device("cpu")
LEE2019 = Augmentation(crop=8, flip=True, colour=0.4)
built = pytest.mark.skipif(gathering.gather is None, reason="tasks/_gather.pyx was not built")


def per_channel(values: list[float] | None) -> torch.Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def rows_of(x: torch.Tensor, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, len(x), (n,), generator=torch.Generator().manual_seed(seed))


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Of float32; -0 and 0 differ."""
    return one.shape == other.shape and torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def vectors(request):
    """The pass compiled for each kind of vectors that this processor has."""
    from tasks import _gather

    kind = ["baseline", "avx2", "avx512"].index(request.param)
    if kind not in _gather.VECTORS:
        with pytest.raises(ValueError, match=f"vectors of kind {kind} are not of this processor"):
            _gather.use(kind)
        pytest.skip(f"this processor has no {request.param}")
    _gather.use(kind)
    yield
    _gather.use(max(_gather.VECTORS))


MEANS = [None, [0.0, 0.0, 0.0], [0.485, 0.456, 0.406], [120.39 / 255, -3.0, 1e-30]]
STDS = [None, [1.0, 1.0, 1.0], [0.229, 0.224, 0.225], [1 / 3, 3e38, 1e-38]]


@built
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("std", STDS)
def test_every_value_of_a_pixel_has_the_bits_of_torch(mean, std, vectors):
    """Channel by channel, in a plane that fills no whole number of vectors or cache lines."""
    every = torch.arange(256, dtype=torch.uint8)
    x = torch.cat([every, every.flip(0), every[:5]]).view(1, 1, 11, 47).expand(1, 3, 11, 47).contiguous()
    expected = x.to(torch.float32).div_(255)
    if mean is not None:
        expected.sub_(per_channel(mean))
    if std is not None:
        expected.div_(per_channel(std))
    found = Gathering(x, Augmentation(), per_channel(mean), per_channel(std), CPU)(torch.tensor([0]), None)
    assert same_bits(found, expected)


@built
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pass_in_c_has_the_bits_of_torch_for_any_shape_and_setting(vectors, data):
    channels, height, width = (data.draw(st.integers(1, most)) for most in (4, 20, 70))
    n, count = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 7))
    x = images(count, channels, height, width, seed=data.draw(st.integers(0, 99)))
    augmentation = Augmentation(
        data.draw(st.integers(0, 25)), data.draw(st.booleans()), data.draw(st.sampled_from([0.0, 0.4, 0.9]))
    )
    numbers = st.lists(st.floats(0.0625, 2, width=32), min_size=channels, max_size=channels)
    mean, std = (per_channel(data.draw(st.none() | numbers)) for _ in range(2))
    rows = torch.tensor(
        data.draw(st.lists(st.integers(0, count - 1), min_size=n, max_size=n)), dtype=torch.int64
    )
    keys = derive(data.draw(st.integers(0, 99)), torch.arange(n)) if augmentation else None
    taken = Gathering(x, augmentation, mean, std, CPU)
    assert same_bits(taken(rows, keys), taken.by_torch(rows, keys))


@built
@pytest.mark.parametrize(
    ("augmentation", "n"),
    [
        *((Augmentation(), n) for n in (1, 2, 23, 200)),
        *((Augmentation(crop=8, flip=True), n) for n in (1, 23, 200)),
        *((LEE2019, n) for n in (1, 2, 13, 27)),
    ],
)
def test_bits_are_the_same_on_any_number_of_threads(monkeypatch, augmentation, n, threads):
    x = images(30, 3, 84, 84)
    assert 200 * x[0].numel() * 4 > gathering.CACHE
    monkeypatch.setattr(gathering, "CHUNK", 12 * 4 * x[0].numel())  # 13 images are one chunk then
    rows, keys = rows_of(x, n), derive(1, torch.arange(n)) if augmentation else None
    mean, std = per_channel([0.485, 0.456, 0.406]), per_channel([0.229, 0.224, 0.225])
    taken = Gathering(x, augmentation, mean, std, CPU)
    assert same_bits(taken(rows, keys), taken.by_torch(rows, keys))


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(crop=8, flip=True), LEE2019])
@pytest.mark.parametrize("n", [1, 5, 13])
def test_bits_are_the_same_without_the_extension(monkeypatch, augmentation, n):
    x = images(30, 3, 84, 84)
    rows, keys = rows_of(x, n), derive(1, torch.arange(n)) if augmentation else None
    taken = Gathering(x, augmentation, None, per_channel([0.229, 0.224, 0.225]), CPU)
    found = taken(rows, keys)
    monkeypatch.setattr(gathering, "gather", None)
    assert same_bits(found, taken(rows, keys))
    assert same_bits(found, taken.by_torch(rows, keys))


@built
@pytest.mark.parametrize("mirrored", [0, 1])
@pytest.mark.parametrize(
    ("down", "right"), [(4, 0), (0, -5), (-4, 5), (2**62, 0), (0, -(2**63)), (2**63 - 1, 2**63 - 1)]
)
def test_window_outside_of_the_image_is_zero(down, right, mirrored):
    x, out = images(1, 2, 4, 5), torch.full((3, 2, 4, 5), 7.0)
    moves = np.array([[0, 0, 0], [down, right, mirrored], [0, 0, 0]], dtype=np.int64)
    rows = np.zeros(3, dtype=np.int64)
    gathering.gather(x.numpy(), rows, out.numpy(), moves, None, None, False, 1)
    assert same_bits(out[1], torch.zeros(2, 4, 5))
    assert same_bits(out[0], x[0] / 255)
    assert same_bits(out[2], x[0] / 255)


@built
@pytest.mark.parametrize("offset", range(17))
@pytest.mark.parametrize("streamed", [False, True])
def test_images_begin_at_any_address(offset, streamed, vectors):
    """An allocator other than torch's aligns to less than a cache line."""
    x, rows = images(3, 3, 5, 31), torch.tensor([2, 0, 1, 1])
    memory = torch.full((2000 + 17,), 7.0)
    out = memory[offset : offset + 4 * 465].view(4, 3, 5, 31)
    gathering.gather(x.numpy(), rows.numpy(), out.numpy(), None, None, None, streamed, 1)
    assert same_bits(out.contiguous(), x[rows] / 255)
    assert (memory[:offset] == 7).all()
    assert (memory[offset + 4 * 465 :] == 7).all()


@pytest.mark.parametrize("mode", ["c", "r"])
def test_memory_maps_are_read(tmp_path: Path, mode):
    x = images(9, 3, 20, 20)
    np.save(tmp_path / "images.npy", x.numpy())
    array = np.load(tmp_path / "images.npy", mmap_mode=mode)
    out = torch.empty(4, 3, 20, 20)
    rows = torch.tensor([8, 0, 3, 3])
    if mode == "c":
        found = Gathering(torch.from_numpy(array), Augmentation(), None, None, CPU)(rows, None)
        assert same_bits(found, x[rows] / 255)
    elif gathering.gather is not None:
        gathering.gather(array, rows.numpy(), out.numpy(), None, None, None, False, 1)
        assert same_bits(out, x[rows] / 255)


@pytest.mark.parametrize("row", [-1, 6, 2**40, -(2**63)])
@pytest.mark.parametrize("extension", [True, False])
def test_a_row_that_is_not_there_is_an_error(monkeypatch, row, extension):
    if not extension:
        monkeypatch.setattr(gathering, "gather", None)
    with pytest.raises((IndexError, RuntimeError), match=r"row|index"):
        Gathering(images(6, 3, 4, 4), Augmentation(), None, None, CPU)(torch.tensor([0, row]), None)


@built
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": [0, 6]}, IndexError, r"rows\[1\]=6 is not one of the 6 images"),
        ({"out": (2, 3, 4, 4)}, ValueError, r"out must be \(2, 3, 4, 5\), got \(2, 3, 4, 4\)"),
        ({"out": (3, 3, 4, 5)}, ValueError, r"out must be \(2, 3, 4, 5\)"),
        ({"moves": [[0, 0, 0]]}, ValueError, r"moves must be \(2, 3\), got \(1, 3\)"),
        ({"moves": [[0, 0], [0, 0]]}, ValueError, r"moves must be \(2, 3\), got \(2, 2\)"),
        ({"mean": [0.5]}, ValueError, "mean and std must have a number for each of the 3 channels"),
        ({"std": [0.5] * 4}, ValueError, "mean and std must have a number for each of the 3 channels"),
        ({"threads": 0}, ValueError, "threads=0 must be 1 or more"),
    ],
)
def test_pass_in_c_checks_what_it_is_given(change, error, message):
    given = {"rows": [0, 5], "out": (2, 3, 4, 5), "moves": None, "mean": None, "std": None, "threads": 1}
    given = {**given, **change}
    out = torch.full(given["out"], 7.0)
    moves = None if given["moves"] is None else np.array(given["moves"], dtype=np.int64)
    mean, std = (
        None if given[name] is None else np.array(given[name], dtype=np.float32) for name in ("mean", "std")
    )
    rows = np.array(given["rows"], dtype=np.int64)
    with pytest.raises(error, match=f"^gather: {message}"):
        gathering.gather(
            images(6, 3, 4, 5).numpy(), rows, out.numpy(), moves, mean, std, False, given["threads"]
        )
    assert (out == 7).all()


@built
def test_pass_in_c_releases_the_gil():
    """Another thread counts while images are taken, though none is made to give up the GIL."""
    x, out = images(40, 3, 84, 84).numpy(), torch.empty(400, 3, 84, 84).numpy()
    rows = np.zeros(400, dtype=np.int64)
    number, done = 0, False

    def count() -> None:
        nonlocal number
        while not done:
            number += 1
            time.sleep(1e-4)  # in which this one gets the GIL back

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e3)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        counted = 0
        for _ in range(
            100
        ):  # of milliseconds each, in some of which a busy machine lets the other thread run
            before = number
            gathering.gather(x, rows, out, None, None, None, False, 1)
            counted += number - before
            if counted:
                break
    finally:
        done = True
        sys.setswitchinterval(interval)
        thread.join()
    assert counted


def test_tasks_do_not_depend_on_the_extension(monkeypatch):
    """Of sampler and set, with all that they are given: tasks that were recorded stay as they are."""
    arrays = {f"class{i}": list(images(8, 3, 16, 16, seed=i).numpy()) for i in range(12)}
    data = tasks.Images(
        [(one, name) for name, many in arrays.items() for one in many], fractions=(0.6, 0.2, 0.2)
    )
    for settings_ in (
        {},
        {"rotations": True},
        {"crop": 2, "flip": True, "colour": 0.4, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
        {"dirichlet": 1, "flip": True},
    ):
        sampler = data.sampler("train", ways=5, shots=1, queries=3, seed=0, **settings_)
        with_extension = sampler.sample(3, 4)
        with monkeypatch.context() as patch:
            patch.setattr(gathering, "gather", None)
            patch.setattr(hashing, "mix", None)
            without = data.sampler("train", ways=5, shots=1, queries=3, seed=0, **settings_).sample(3, 4)
        assert same_bits(with_extension.support.x, without.support.x)
        assert same_bits(with_extension.query.x, without.query.x)
        assert torch.equal(with_extension.query.y, without.query.y)


@pytest.mark.parametrize("augmentation", [Augmentation(crop=8, flip=True), LEE2019])
def test_several_threads_draw_at_once(augmentation):
    x = images(30, 3, 84, 84)
    taken = Gathering(x, augmentation, None, None, CPU)
    drawn = [(rows_of(x, 20, seed), derive(seed, torch.arange(20))) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda one: taken(*one), drawn)]
    assert all(same_bits(one, taken.by_torch(*each)) for one, each in zip(found, drawn, strict=True))
