from __future__ import annotations

import numpy as np
import pytest
import torch

import tasks
from tasks.glyphs import UNLIKE, invent, render, unlikeness
from tasks.hashing import stream


@pytest.fixture(scope="module")
def family() -> tasks.Glyphs:
    return tasks.Glyphs()


def test_glyphs_are_the_same_on_every_machine(family):
    # From a run; it changes only when the family is changed on purpose, and accuracies with it.
    assert family.checksum == "68142607cd0f2c2f00ef097cfef18b66f2c46db7727cce56dadbf576df5b237b"


def test_glyphs_have_the_documented_shape_and_parts(family):
    assert family.images.shape == (750, 20, 28, 28)
    assert family.images.dtype == torch.uint8
    assert len(set(family.names)) == 750
    assert family.names[26] == "Alphabet02/character02"
    assert {part: len(chosen) for part, chosen in family.parts.items()} == {
        "train": 500,
        "val": 100,
        "test": 150,
    }


@pytest.mark.parametrize("alphabets", [3, 4, 7, 50])
def test_glyphs_parts_share_no_alphabet(alphabets):
    family = tasks.Glyphs(alphabets=alphabets, characters=1, images_per_class=1)
    owned = [{family.names[i].split("/")[0] for i in chosen} for chosen in family.parts.values()]
    assert all(owned)
    assert len(set.union(*owned)) == sum(len(alphabet) for alphabet in owned) == alphabets


def test_glyphs_are_thin_strokes_on_paper(family):
    ink = family.images.float() / 255
    assert 0.04 < ink.mean() < 0.12
    assert ink.amax(dim=(2, 3)).min() > 0.9  # every drawing has a stroke
    assert (ink > 0).float().mean(dim=(2, 3)).max() < 0.5  # and none is a blot
    shades = ((ink > 0.05) & (ink < 0.95)).sum() / (ink > 0).sum()
    assert shades > 0.2  # anti-aliased


def test_glyphs_drawings_of_a_character_all_differ(family):
    assert len({image.numpy().tobytes() for image in family.images.flatten(0, 1)}) == 750 * 20


def test_glyphs_characters_of_an_alphabet_look_different():
    unlike = unlikeness(invent(stream("test"), 25))
    assert np.diag(unlike).max() == 0
    assert unlike[~np.eye(25, dtype=bool)].min() >= UNLIKE


def test_glyphs_can_be_told_apart_but_not_too_easily(family):
    # Nearest neighbour in pixels, 5-way 1-shot, chance 0.2; the real Omniglot gives 0.46, this family 0.53 in a run.
    task = family.sampler("test", ways=5, shots=1, queries=10, seed=0).sample(0, 200)
    distance = torch.cdist(task.query.x.flatten(2), task.support.x.flatten(2))
    accuracy = (task.support.y.gather(1, distance.argmin(-1)) == task.query.y).float().mean()
    assert 0.4 < accuracy < 0.7


def test_glyphs_first_alphabets_do_not_depend_on_how_many_follow():
    few, more = (tasks.Glyphs(alphabets=alphabets, characters=5, images_per_class=3) for alphabets in (3, 5))
    assert torch.equal(few.images, more.images[:15])


def test_glyphs_differ_between_seeds():
    one, other = (tasks.Glyphs(alphabets=3, characters=2, images_per_class=2, seed=seed) for seed in (0, 1))
    assert one.checksum != other.checksum


def test_render_draws_a_line_where_it_is():
    line = np.array([[(4, 10), (8, 10), (16, 10), (20, 10)]], dtype=np.float32)
    ink = render(line, np.array([1.0], dtype=np.float32), np.array([0]), 1)[0]
    assert (ink[9:12, 4:21] >= 120).all()  # full on the line, half a pixel's ink one away
    assert (ink[10, 4:21] > 240).all()
    assert not ink[:8].any()
    assert not ink[13:].any()
    assert not ink[:, :2].any()
    assert not ink[:, 23:].any()


@pytest.mark.parametrize(
    ("name", "value"), [("alphabets", 2), ("characters", 0), ("characters", 61), ("images_per_class", 0)]
)
def test_glyphs_refuse_counts_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"Glyphs: {name}={value} is out of range; choose {name} from"):
        tasks.Glyphs(**{name: value})
