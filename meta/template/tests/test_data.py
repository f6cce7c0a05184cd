import pytest
import torch
from PIL import Image
from tasks import DataError

from my_project.data import ImageFolder

SMALL = {"images_per_class": 4, "val_classes": 2, "test_classes": 2}


def test_classes_are_split_and_images_come_in_one_shape(images):
    data = ImageFolder(images, size=16, **SMALL)
    assert data.images.shape == (8, 4, 3, 16, 16)
    parts = {part: set(chosen.tolist()) for part, chosen in data.parts.items()}
    assert [len(parts[part]) for part in ("train", "val", "test")] == [4, 2, 2]
    assert set.union(*parts.values()) == set(range(8))
    grey, red, green = data.images[0, 0, 0], data.images[1, 0, 0], data.images[1, 0, 1]
    assert torch.equal(data.images[0, 0], grey.expand(3, -1, -1))
    assert not torch.equal(red, green)


def test_tasks_are_drawn_of_either_number_of_channels(images):
    for channels in (1, 3):
        sampler = ImageFolder(images, size=16, channels=channels, **SMALL).sampler(
            "train", ways=3, shots=1, queries=2, seed=0, rotations=False
        )
        task = sampler.sample(iteration=0, slots=5)
        assert task.support.x.shape == (5, 3, channels, 16, 16)
        assert task.query.x.shape == (5, 6, channels, 16, 16)


def test_class_with_too_few_images_is_named(images):
    (images / "class3" / "0.png").unlink()
    with pytest.raises(DataError, match=r"class3 has 3 of the images_per_class=4"):
        ImageFolder(images, **SMALL)


def test_damaged_image_is_named(images):
    path = images / "class2" / "1.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"class2.1\.png is damaged"):
        ImageFolder(images, **SMALL)


def test_image_of_more_than_eight_bits_is_refused(images):
    Image.new("I;16", (20, 20)).save(images / "class5" / "2.png")
    with pytest.raises(DataError, match=r"class5.2\.png is of mode I;16"):
        ImageFolder(images, **SMALL)
