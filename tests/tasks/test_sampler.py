from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks
from tasks.hashing import WORD, derive, stream

PROTOCOL = {"ways": 5, "shots": 1, "queries": 3, "seed": 0}


def same(a: tasks.Task, b: tasks.Task) -> bool:
    pairs = (
        (a.support.x, b.support.x),
        (a.support.y, b.support.y),
        (a.query.x, b.query.x),
        (a.query.y, b.query.y),
    )
    return all(torch.equal(one.cpu(), other.cpu()) for one, other in pairs)


def counted(characters: int = 6, images_per_class: int = 4) -> tasks.CharacterSet:
    """Images that say what they are: the corner pixels hold character, drawing, and a mark of the rotation."""
    images = torch.zeros(characters, images_per_class, 28, 28, dtype=torch.uint8)
    images[:, :, 0, 0] = torch.arange(1, characters + 1)[:, None]
    images[:, :, 0, 1] = torch.arange(1, images_per_class + 1)
    names = [f"A/character{number:02}" for number in range(1, characters + 1)]
    return tasks.CharacterSet("counted", "all", images, names, {"train": range(characters)}, "a test")


def read(image: torch.Tensor) -> tuple[int, int, int]:
    """(character, drawing, rotation in degrees) of an image of counted()."""
    for turn in range(4):
        upright = torch.rot90(image[0], -turn)
        if upright[0, 0] > 0:
            return round(upright[0, 0].item() * 255), round(upright[0, 1].item() * 255), 90 * turn
    raise AssertionError("an image without its mark")


def test_sample_has_the_documented_shapes_and_dtypes(glyphs):
    task = glyphs.sampler("train", ways=3, shots=2, queries=4, seed=1).sample(7, 5)
    assert task.support.x.shape == (5, 6, 1, 28, 28)
    assert task.query.x.shape == (5, 12, 1, 28, 28)
    assert task.support.x.dtype == task.query.x.dtype == torch.float32
    assert task.support.y.tolist() == [[0, 0, 1, 1, 2, 2]] * 5
    assert task.query.y.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 5
    assert task.support.y.dtype == torch.int64


def test_channels_of_colour_images_stay_apart_and_turn_together():
    grey = counted()
    colour = torch.stack([grey.images, grey.images // 2, 255 - grey.images], dim=2)
    coloured = tasks.CharacterSet("counted", "all", colour, grey.names, {"train": range(6)}, "a test")
    task = coloured.sampler("train", **PROTOCOL).sample(2, 3)
    alike = grey.sampler("train", **PROTOCOL).sample(2, 3)
    assert task.support.x.shape == (3, 5, 3, 28, 28)
    pixels = (255 * task.query.x).round()
    assert torch.equal(pixels[:, :, :1], (255 * alike.query.x).round())
    assert torch.equal(pixels[:, :, 1:2], pixels[:, :, :1] // 2)
    assert torch.equal(pixels[:, :, 2:], 255 - pixels[:, :, :1])
    assert coloured.checksum != grey.checksum


def test_sample_pixels_are_the_images_divided_by_255(glyphs):
    sampler = glyphs.sampler("val", **PROTOCOL, rotations=False)
    task = sampler.sample(3, 2)
    classes, drawings = sampler.draw(3, 2)
    for t in range(2):
        for j in range(5):
            images = glyphs.images[glyphs.parts["val"][classes[t, j]]][drawings[t, j]].float() / 255
            assert torch.equal(task.support.x[t, j, 0], images[0])
            assert torch.equal(task.query.x[t, 3 * j : 3 * j + 3, 0], images[1:])


@settings(max_examples=60, deadline=None)
@given(
    ways=st.integers(2, 24),
    shots=st.integers(1, 3),
    rotations=st.booleans(),
    seed=st.integers(-(2**70), 2**70),
    iteration=st.integers(0, 2**40),
)
def test_sample_classes_and_drawings_are_distinct(ways, shots, rotations, seed, iteration):
    ways = ways if rotations else min(ways, 6)
    sampler = counted().sampler("train", ways=ways, shots=shots, queries=1, seed=seed, rotations=rotations)
    task = sampler.sample(iteration, 2)
    for one in task:
        support, query = [read(x) for x in one.support.x], [read(x) for x in one.query.x]
        assert len(set(support + query)) == ways * (
            shots + 1
        )  # no drawing twice, so support and query are disjoint
        label = {}  # every class has one label, every label one class
        for (character, _, turn), y in zip(
            support + query, one.support.y.tolist() + one.query.y.tolist(), strict=True
        ):
            assert label.setdefault((character, turn), y) == y
        assert sorted(label.values()) == list(range(ways))
        assert rotations or all(turn == 0 for _, _, turn in support)


@settings(max_examples=40, deadline=None)
@given(iteration=st.integers(0, 2**62), slots=st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_task_depends_on_nothing_but_seed_split_iteration_and_slot(iteration, slots):
    sampler = counted().sampler("train", **PROTOCOL)
    together = sampler.sample(iteration, slots)
    sampler.sample(iteration + 1, 3)  # what else was drawn does not matter
    for place, slot in enumerate(slots):
        alone = counted().sampler("train", **PROTOCOL).sample(iteration, [slot])
        assert same(alone[0], together[place])


def test_task_of_a_slot_is_the_one_of_the_whole_meta_batch(glyphs):
    sampler = glyphs.sampler("train", **PROTOCOL)
    meta = sampler.sample(11, 32)
    assert same(sampler.sample(11, [5])[0], meta[5])
    assert same(sampler.sample(11, torch.tensor([31, 0])), sampler.sample(11, (31, 0)))
    assert same(sampler.sample(torch.tensor(11), 32), meta)


def test_task_ignores_the_ambient_random_state(glyphs):
    torch.manual_seed(1)
    one = glyphs.sampler("train", **PROTOCOL).sample(0, 4)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert same(one, glyphs.sampler("train", **PROTOCOL).sample(0, 4))
    assert torch.equal(state, torch.random.get_rng_state())


def test_tasks_differ_between_seeds_parts_iterations_and_slots(glyphs):
    train = glyphs.sampler("train", **PROTOCOL)
    first = train.sample(0, 2)
    assert not same(first[0], first[1])
    assert not same(first, train.sample(1, 2))
    assert not same(first, glyphs.sampler("train", **{**PROTOCOL, "seed": 1}).sample(0, 2))
    # val and test are of one size: were their streams the same, they would draw the same numbers.
    val, test = (glyphs.sampler(part, **PROTOCOL).draw(0, 8) for part in ("val", "test"))
    assert not torch.equal(val[0], test[0])
    assert not torch.equal(val[1], test[1])


def test_draw_is_the_documented_hash(glyphs):
    sampler = glyphs.sampler("train", **PROTOCOL)
    task = derive(derive(stream(0, "glyphs", glyphs.split, "train"), 9), 3)  # iteration 9, slot 3

    def largest(key: int, numbers: int, count: int) -> list[int]:  # as signed words
        return sorted(range(numbers), key=lambda n: (derive(key, n) + (1 << 63)) & WORD, reverse=True)[:count]

    classes, drawings = sampler.draw(9, [3])
    assert classes[0].tolist() == largest(derive(task, 0), sampler.classes, 5)
    for number, drawn in zip(classes[0].tolist(), drawings[0].tolist(), strict=True):
        assert drawn == largest(derive(derive(task, 1), number), 20, 4)


def test_draw_of_fewer_ways_is_the_beginning_of_more(glyphs):
    five, three = (glyphs.sampler("train", **{**PROTOCOL, "ways": ways}).draw(0, 4) for ways in (5, 3))
    assert torch.equal(five[0][:, :3], three[0])
    assert torch.equal(five[1][:, :3], three[1])


def test_rotation_belongs_to_the_class_not_to_the_task():
    task = counted().sampler("train", **PROTOCOL).sample(0, 50)
    turns = [{read(x)[2] for x in one.support.x} for one in task]
    assert sum(len(turn) > 1 for turn in turns) > 40
    # ... and a character may meet itself, turned.
    assert any(len({read(x)[0] for x in one.support.x}) < 5 for one in task)


def test_rotation_of_support_and_query_is_the_same():
    for one in counted().sampler("train", **PROTOCOL).sample(0, 20):
        turn = {y: read(x)[2] for x, y in zip(one.support.x, one.support.y.tolist(), strict=True)}
        assert all(read(x)[2] == turn[y] for x, y in zip(one.query.x, one.query.y.tolist(), strict=True))


def test_draw_is_even_over_classes_labels_and_drawings():
    sampler = counted().sampler("train", ways=5, shots=1, queries=1, seed=0)
    classes, drawings = sampler.draw(0, 4800)
    for label in range(5):  # 4800 draws of 24 classes: 200 expected, standard deviation 14
        counts = classes[:, label].bincount(minlength=24)
        assert (counts - 200).abs().max() < 70
    for place in range(2):  # 24000 draws of 4 drawings: 6000 expected, standard deviation 67
        assert (drawings[..., place].reshape(-1).bincount(minlength=4) - 6000).abs().max() < 340


def test_sampler_draws_only_from_its_part(glyphs):
    for part, alphabets in (("train", {"01", "02"}), ("val", {"03"}), ("test", {"04"})):
        sampler = glyphs.sampler(part, **PROTOCOL)
        names = {sampler.class_name(number) for number in range(sampler.classes)}
        assert len(names) == sampler.classes == 4 * len(glyphs.parts[part])
        assert {name[len("Alphabet") : len("Alphabet") + 2] for name in names} == alphabets
    assert sampler.class_name(0) == "Alphabet04/character01"
    assert sampler.class_name(sampler.classes - 1) == "Alphabet04/character06 rot270"


def test_samples_do_not_share_memory(glyphs):
    sampler = glyphs.sampler("train", **PROTOCOL)
    one, other = sampler.sample(0, 2), sampler.sample(0, 2)
    assert same(one, other)
    for tensor in (one.support.x, one.support.y, one.query.x, one.query.y):
        tensor.fill_(7)
    assert same(other, sampler.sample(0, 2))
    assert other.support.y.max() == 4


def test_sampler_uses_the_device_asked_for(glyphs):
    # No second device needed: torch's "meta" device has shapes and no numbers.
    task = glyphs.sampler("train", **PROTOCOL, device="meta").sample(0, 2)
    assert {t.device.type for t in (task.support.x, task.support.y, task.query.x, task.query.y)} == {"meta"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sampler_draws_the_same_tasks_on_cuda(glyphs):
    cpu, cuda = (glyphs.sampler("train", **PROTOCOL, device=device) for device in ("cpu", "cuda"))
    for iteration in (0, 1, 2**40):
        task = cuda.sample(iteration, 32)
        assert task.query.x.device.type == task.support.y.device.type == "cuda"
        assert same(cpu.sample(iteration, 32), task)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sample_does_not_wait_for_cuda(glyphs):
    sampler = glyphs.sampler("train", **PROTOCOL, device="cuda")
    iteration = torch.tensor(4, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        task = sampler.sample(3, 32)
        counted_up = sampler.sample(iteration, 32)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert same(task, sampler.sample(3, 32))
    assert same(counted_up, sampler.sample(4, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": "dev"}, "unknown part 'dev' of glyphs; expected one of train, val, test"),
        (
            {"ways": 49},
            r"ways=49 is more than the 48 classes of glyphs train \(12 x 4 rotations\)",
        ),
        ({"ways": 13, "rotations": False}, "ways=13 is more than the 12 classes .* choose ways from 2 to 12"),
        ({"ways": 1}, "ways=1 is too small; choose ways ≥ 2"),
        ({"shots": 0}, "shots=0 is too small; choose shots ≥ 1"),
        ({"queries": 0}, "queries=0 is too small"),
        (
            {"shots": 6, "queries": 15},
            "shots=6 and queries=15 need 21 images of each class, and glyphs has 20",
        ),
        ({"ways": 2.5}, "ways=2.5 must be an integer"),
        ({"seed": None}, "seed=None must be an integer"),
        ({"device": "gpu"}, "invalid device 'gpu'; choose cpu, cuda or cuda:1"),
        ({"device": "cuda:99"}, "device='cuda:99' was asked for, but torch .* finds"),
    ],
)
def test_sampler_refuses_what_the_part_cannot_give(glyphs, change, message):
    with pytest.raises(ValueError, match=f"^EpisodeSampler: {message}"):
        glyphs.sampler(**{"part": "train", **PROTOCOL, **change})


@pytest.mark.parametrize(
    ("iteration", "slots", "message"),
    [
        (-1, 2, "iteration=-1 is too small; choose iteration ≥ 0"),
        (0.5, 2, "iteration=0.5 must be an integer"),
        (0, 0, "slots=0 is too small; choose slots ≥ 1"),
        (0, [], "slots is empty"),
        (0, [3, -2], "slot=-2 is too small; choose slot ≥ 0"),
    ],
)
def test_sample_refuses_places_that_are_not(glyphs, iteration, slots, message):
    with pytest.raises(ValueError, match=f"^EpisodeSampler: {message}"):
        glyphs.sampler("train", **PROTOCOL).sample(iteration, slots)
