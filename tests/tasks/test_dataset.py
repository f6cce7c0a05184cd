from __future__ import annotations

import pytest
import torch

from tasks import CharacterSet, DataError

IMAGES = torch.arange(3 * 2 * 4 * 4, dtype=torch.uint8).reshape(3, 2, 4, 4)
NAMES = ["A/character01", "A/character02", "B/character01"]
PARTS = {"train": [0], "val": [1], "test": [2]}


def make(images=IMAGES, names=NAMES, parts=PARTS) -> CharacterSet:
    return CharacterSet("toy", "all", images, names, parts, "typed in")


def test_character_set_describes_itself():
    description = make().describe()
    assert description.pop("checksum") == make().checksum
    assert description == {
        "dataset": "toy", "split": "all", "characters": 3, "images_per_class": 2,
        "train": 1, "val": 1, "test": 1, "source": "typed in",
    }  # fmt: skip
    assert repr(make()) == "CharacterSet(3 characters, split all 1/1/1)"


def test_checksum_changes_with_every_pixel_and_name():
    pixel = IMAGES.clone()
    pixel[2, 1, 3, 3] += 1
    others = [
        make(images=pixel),
        make(names=[*NAMES[:2], "B/character02"]),
        make(images=IMAGES.reshape(3, 4, 2, 4)),
    ]
    assert len({make().checksum, *(other.checksum for other in others)}) == 4


def test_character_set_refuses_parts_that_share_a_character():
    with pytest.raises(DataError, match="toy: parts of split 'all' share a character"):
        make(parts={"train": [0, 1], "val": [1], "test": [2]})


@pytest.mark.parametrize("images", [IMAGES[:2], IMAGES.float(), IMAGES[:, 0]])
def test_character_set_refuses_images_that_are_not_as_documented(images):
    with pytest.raises(DataError, match=r"toy: expected uint8 images .* and 3 names"):
        make(images=images)
