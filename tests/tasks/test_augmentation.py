"""Crops, flips and colours of images, as functions of their keys."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tasks._torchvision import import_torchvision
from tasks.augmentation import Augmentation
from tasks.hashing import derive, unit

KEYS = derive(7, torch.arange(40))


def images(n: int = 40, channels: int = 3, height: int = 9, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def test_image_is_a_window_of_itself_among_zeros_mirrored_or_not():
    x, crop = images(), 2
    found = Augmentation(crop=crop, flip=True)(x, KEYS)
    assert found.dtype == torch.uint8
    met = set()
    for one, result in zip(x, found, strict=True):
        padded = torch.nn.functional.pad(one, [crop] * 4)
        places = {
            (down, right, mirrored): (padded.flip(2) if mirrored else padded)[
                :, down : down + 9, right : right + 7
            ]
            for down in range(2 * crop + 1)
            for right in range(2 * crop + 1)
            for mirrored in (False, True)
        }
        at = [place for place, window in places.items() if torch.equal(window, result)]
        assert len(at) == 1
        met.add(at[0])
    assert {down for down, _, _ in met} == {right for _, right, _ in met} == set(range(5))
    assert {mirrored for *_, mirrored in met} == {False, True}


@pytest.mark.parametrize(
    "options", [{"crop": 3}, {"flip": True}, {"colour": 0.4}, {"crop": 1, "flip": True, "colour": 0.2}]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_depends_on_nothing_but_its_key(options, channels):
    x, augmentation = images(channels=channels), Augmentation(**options)
    together = augmentation(x, KEYS)
    alone = torch.cat([augmentation(x[i : i + 1], KEYS[i : i + 1]) for i in range(40)])
    assert torch.allclose(together.float(), alone.float(), atol=1e-6)
    assert not torch.equal(augmentation(x, derive(8, torch.arange(40))).float(), together.float())


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_those_of_torchvision(channels):
    import_torchvision()
    functional = pytest.importorskip("torchvision.transforms.functional")
    x, colour = images(channels=channels), 0.4
    found = Augmentation(colour=colour)(x, KEYS)
    factors = [1 + colour * (2 * unit(derive(KEYS, purpose)) - 1) for purpose in (3, 4, 5)]
    for i in range(len(x)):
        expected = x[i].to(torch.float32) / 255
        brightness, contrast, saturation = (float(factor[i]) for factor in factors)
        expected = functional.adjust_brightness(expected, brightness)
        expected = functional.adjust_contrast(expected, contrast)
        expected = functional.adjust_saturation(expected, saturation)
        assert torch.allclose(found[i], expected, atol=1e-5)
    for factor in factors:
        assert 0.6 <= float(factor.min()) < 0.75
        assert 1.25 < float(factor.max()) <= 1.4


def test_nothing_asked_for_is_nothing_done():
    assert not Augmentation()
    x = images()
    assert torch.equal(Augmentation()(x, KEYS), x)
