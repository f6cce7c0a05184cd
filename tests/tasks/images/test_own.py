"""Images of one's own, in each of the forms that they may have."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import tasks
from tasks.images import Images, store
from tests.tasks.images import made

FRACTIONS = (0.4, 0.3, 0.3)
PROTOCOL = {"ways": 3, "shots": 1, "queries": 2, "seed": 0}


class Indexable:
    """As torchvision's data sets are: classes, targets, and an image with its label for an index."""

    def __init__(self, images: np.ndarray, labels: list[str]) -> None:
        self.classes = sorted(set(labels))
        self.images, self.targets = images, [self.classes.index(label) for label in labels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), self.targets[index]


def in_form(form: str, place: Path) -> str | Path | Indexable | list:
    """The images of made.py, stored in one of the forms, in another order in each."""
    found = made.images()
    images, labels = made.flat(found)
    names = sorted(found)
    numbers = np.array([names.index(label) for label in labels])
    if form == "folder":
        return made.as_folder(place / "data", found)
    if form == "folder below":  # <class>/<folder>/<image>, of another type that loses nothing
        made.as_folder(place / "data", found, "bmp")
        for folder in list((place / "data").iterdir()):
            (folder / "more").mkdir()
            shutil.move(folder / "000.bmp", folder / "more" / "z.BMP")
        (place / "data" / ".hidden").mkdir()
        return str(place / "data")
    if form == "table":
        return made.as_table(place, made.as_folder(place / "data", found))
    if form == "npz":
        np.savez_compressed(place / "data.npz", images=images, labels=np.array(labels))
        return place / "data.npz"
    if form == "npz, numbers and channels first":
        np.savez(place / "data.npz", x=images.transpose(0, 3, 1, 2), y=numbers, classes=np.array(names))
        return place / "data.npz"
    if form == "npy":
        np.save(place / "data.npy", images)
        np.save(place / "labels.npy", np.array(labels))
        return place / "data.npy"
    if form == "indexable":
        return Indexable(images, labels)
    return list(zip(images, labels, strict=True))


FORMS = (
    "folder",
    "folder below",
    "table",
    "npz",
    "npz, numbers and channels first",
    "npy",
    "indexable",
    "list",
)


def drawn(data: Images, part: str = "train", **settings) -> list[int]:
    sampler = data.sampler(part, **PROTOCOL, **settings)
    return [task.checksum() for task in sampler.sample(7, 3)]


def test_same_images_give_the_same_tasks_in_every_form(tmp_path):
    sets = []
    for form in FORMS:
        (tmp_path / form).mkdir()
        sets.append(Images(in_form(form, tmp_path / form), fractions=FRACTIONS))
    assert len({data.checksum for data in sets}) == 1
    assert [data.names for data in sets] == [tuple(made.COUNTS)] * len(FORMS)
    for part in ("train", "val", "test"):
        found = {tuple(drawn(data, part, crop=1, flip=True, colour=0.2, rotations=True)) for data in sets}
        assert len(found) == 1
    again = [Images(tmp_path / form / "data", fractions=FRACTIONS) for form in FORMS[:2]]  # from the cache
    assert [drawn(data) for data in again] == [drawn(sets[0])] * 2


def test_safetensors_have_numbers_for_names_and_the_same_images(tmp_path):
    images, labels = made.flat(made.images())
    numbers = np.array([sorted(made.COUNTS).index(label) for label in labels])
    save_file({"images": images, "labels": numbers}, tmp_path / "data.safetensors")
    data = Images(tmp_path / "data.safetensors", fractions=FRACTIONS)
    assert data.names == tuple("0123456789")
    assert data.index.counts == list(made.COUNTS.values())


def test_npy_of_classes_by_images_needs_no_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 9, 9), dtype=np.uint8)
    np.save(tmp_path / "data.npy", images)
    data = Images(tmp_path / "data.npy", fractions=FRACTIONS)
    assert data.images.shape == (24, 1, 9, 9)
    found = {data.images[row, 0].numpy().tobytes() for row in data.index.rows[8:12]}
    assert found == {image.tobytes() for image in images[2]}


def test_every_image_of_a_task_is_of_its_class_and_comes_once(tmp_path):
    found = made.images(6)
    class_of = {array.tobytes(): name for name, arrays in found.items() for array in arrays}
    data = Images(made.as_folder(tmp_path / "data", found), fractions=FRACTIONS)
    sampler = data.sampler("train", ways=4, shots=2, queries=2, seed=3)
    met = set()
    for iteration in range(30):
        task = sampler.sample(iteration, [5])[0]
        classes, _ = sampler.draw(iteration, [5])
        names = [sampler.class_name(number) for number in classes[0].tolist()]
        seen = set()
        for batch in (task.support, task.query):
            for x, y in zip(batch.x, batch.y, strict=True):
                pixels = (255 * x).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy().tobytes()
                assert class_of[pixels] == names[y]
                seen.add(pixels)
        assert len(seen) == 16
        met |= seen
    train = [data.names[number] for number in data.parts["train"].tolist()]
    assert met == {
        array.tobytes() for name in train for array in found[name]
    }  # the last of a large class too


def test_sizes_and_channels_are_made_one_by_lanczos(tmp_path):
    found = made.images(8)
    folder = made.as_folder(tmp_path / "data", found)
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8))
    large.convert("LA").save(folder / "ant" / "large.png")
    data = Images(folder, size=8, channels=3, fractions=FRACTIONS)
    assert data.images.shape == (49, 3, 8, 8)
    resized = np.asarray(large.resize((8, 8), Image.Resampling.LANCZOS).convert("RGB")).transpose(2, 0, 1)
    assert any(
        np.array_equal(image, resized) for image in data.images[data.index.rows[: made.COUNTS["ant"] + 1]]
    )
    grey = Images(folder, size=8, channels=1, fractions=FRACTIONS)
    task = grey.sampler("test", **PROTOCOL).sample(0, 2)
    assert task.query.x.shape == (2, 6, 1, 8, 8)


@pytest.mark.parametrize("form", ["table", "npz", "npy"])
def test_folder_of_one_table_or_arrays_is_read_as_that(tmp_path, form):
    (tmp_path / "data").mkdir()
    whole = Images(in_form(form, tmp_path / "data"), fractions=FRACTIONS)
    if form == "table":  # with images/ beside it and paths that are relative to that
        place = tmp_path / "data"
        (place / "data").rename(place / "images")
        text = (place / "images.csv").read_text()
        (place / "images.csv").write_text(text.replace("data/", ""))
    assert drawn(Images(tmp_path / "data", fractions=FRACTIONS)) == drawn(whole)


# --- splits ----------------------------------------------------------------------------------------------------------

PART_OF = {name: ("train", "val", "test")[i // 4] for i, name in enumerate(made.COUNTS)}


def by_folders(place: Path) -> Images:
    for part in ("train", "validation", "test"):
        chosen = [name for name, own in PART_OF.items() if part.startswith(own)]
        made.as_folder(place / part, {name: made.images()[name] for name in chosen})
    return Images(place)


def by_column(place: Path) -> Images:
    return Images(made.as_table(place, made.as_folder(place / "data", made.images()), PART_OF))


def by_tables(place: Path) -> Images:
    """train.csv, val.csv and test.csv with images/, as Ravi and Larochelle have them."""
    made.as_folder(place / "images", made.images())
    for part in ("train", "val", "test"):
        rows = [
            f"{path.relative_to(place / 'images')},{path.parent.name}"
            for path in (place / "images").rglob("*.png")
            if PART_OF[path.parent.name] == part
        ]
        (place / f"{part}.csv").write_text("\n".join(["filename,label", *rows]))
    return Images(place)


@pytest.mark.parametrize("split", [by_folders, by_column, by_tables])
def test_parts_are_those_of_the_data(tmp_path, split):
    data = split(tmp_path)
    parts = {data.names[i]: part for part, chosen in data.parts.items() for i in chosen.tolist()}
    assert parts == PART_OF
    assert data.split == "train, val, test of the data"


@pytest.mark.parametrize("several", [False, True])
def test_split_file_says_the_parts_and_others_are_left_out(tmp_path, several):
    folder = made.as_folder(tmp_path / "data", made.images())
    if several:
        split = tmp_path / "split"
        split.mkdir()
        for part in made.SPLIT.split("[")[1:]:
            name, _, classes = part.partition("]")
            (split / f"{name}.txt").write_text(classes)
    else:
        split = tmp_path / "split.txt"
        split.write_text(made.SPLIT)
    data = Images(folder, split=split)
    named = {part: [data.names[i] for i in chosen.tolist()] for part, chosen in data.parts.items()}
    assert named == {
        "train": ["ant", "bee", "cat", "dog"],
        "val": ["elk", "fox"],
        "test": ["gnu", "hen", "ibis"],
    }
    assert "jay" not in data.names
    assert len(data.images) == sum(made.COUNTS.values()) - made.COUNTS["jay"]


def test_split_file_comes_before_the_folders_of_the_data(tmp_path):
    """Of images that were parted for ordinary classification, with every class in every part."""
    found = made.images()
    for part, images in (("train", slice(0, 2)), ("val", slice(2, 3)), ("test", slice(3, None))):
        made.as_folder(tmp_path / "parted" / part, {name: arrays[images] for name, arrays in found.items()})
    (tmp_path / "split.txt").write_text(made.SPLIT)
    with pytest.raises(
        tasks.DataError, match=r"ant \(train and test\), .* would be in two parts .*data_dir one of the"
    ):
        Images(tmp_path / "parted")
    data = Images(tmp_path / "parted", split=tmp_path / "split.txt")
    whole = Images(made.as_folder(tmp_path / "whole", found), split=tmp_path / "split.txt")
    assert data.checksum == whole.checksum


def test_fractions_are_a_function_of_names_and_seed():
    found = made.images(4)
    listed = [(array, name) for name, arrays in found.items() for array in arrays]
    one, same, other = (Images(listed, fractions=(0.5, 0.2, 0.3), seed=seed) for seed in (1, 1, 2))
    assert [len(one.parts[part]) for part in ("train", "val", "test")] == [5, 2, 3]
    assert drawn(one) == drawn(same)
    assert one.parts["test"].tolist() != other.parts["test"].tolist()
    assert one.checksum != other.checksum  # which a resumed run compares: other parts are other tasks


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    return made.as_folder(tmp_path / "data", made.images())


def test_images_are_decoded_once_and_again_where_a_file_has_changed(folder, monkeypatch):
    decoded = []
    pixels = store.pixels
    monkeypatch.setattr(store, "pixels", lambda item, *rest: decoded.append(item) or pixels(item, *rest))
    first = Images(folder, fractions=FRACTIONS)
    assert len(decoded) == 48
    assert Images(folder, fractions=FRACTIONS).checksum == first.checksum
    assert Images(folder, fractions=FRACTIONS, seed=5).images.shape == first.images.shape
    assert len(decoded) == 48
    Image.new("RGB", (12, 12)).save(folder / "cat" / "000.png")
    changed = Images(folder, fractions=FRACTIONS)
    assert len(decoded) == 96
    assert changed.checksum != first.checksum
    assert len([*(folder.parent / "neo-cache").iterdir()]) == 2  # in the place of the old ones


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damaged_cache_is_made_again(folder, suffix, damage):
    first = drawn(Images(folder, fractions=FRACTIONS))
    (path,) = (folder.parent / "neo-cache").glob(f"*{suffix}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-9])
    assert drawn(Images(folder, fractions=FRACTIONS)) == first


def test_interrupted_reading_leaves_nothing_behind(folder, monkeypatch):
    def stop(item, *rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "pixels", stop)
    with pytest.raises(KeyboardInterrupt):
        Images(folder, fractions=FRACTIONS)
    assert [*(folder.parent / "neo-cache").iterdir()] == []


# --- bad input -------------------------------------------------------------------------------------------------------


def damage(folder: Path) -> None:
    (folder / "bee" / "001.png").write_bytes(b"no image at all")
    whole = (folder / "cat" / "002.png").read_bytes()
    (folder / "cat" / "002.png").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray((folder / "dog" / "003.png").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (folder / "dog" / "003.png").write_bytes(flipped)
    Image.new("I;16", (12, 12)).save(folder / "elk" / "000.png")


def test_damaged_images_are_named_all_at_once(folder):
    damage(folder)
    with pytest.raises(tasks.DataError, match="4 of 48 images cannot be read") as caught:
        Images(folder, fractions=FRACTIONS)
    lines = str(caught.value).splitlines()[1:]
    assert [line.partition(": ")[0][-11:] for line in lines] == [
        "bee/001.png", "cat/002.png", "dog/003.png", "elk/000.png",
    ]  # fmt: skip
    assert "of mode I;16; save it as 8-bit RGB or grey" in lines[3]


def test_damaged_images_are_left_out_where_that_is_asked_for(folder, caplog):
    damage(folder)
    data = Images(folder, fractions=FRACTIONS, skip_damaged=True)
    assert len(data.images) == 44
    assert data.describe()["left_out"] == 4
    assert "left out 4 images" in caplog.text
    assert data.index.counts[1] == made.COUNTS["bee"] - 1
    for suffix in ("bee/001", "cat/002", "dog/003", "elk/000"):
        (folder / f"{suffix}.png").unlink()
    assert drawn(Images(folder, fractions=FRACTIONS)) == drawn(data)


def test_images_that_are_there_twice_are_said(folder, caplog):
    shutil.copy(folder / "bee" / "001.png", folder / "bee" / "copy.png")
    Images(folder, fractions=FRACTIONS)
    assert "1 images are the same as another of their class" in caplog.text


def test_class_with_too_few_images_is_named(folder):
    data = Images(folder, split=None, fractions=FRACTIONS)
    few = [data.names[i] for i in data.parts["train"].tolist() if data.index.counts[i] < 5]
    assert few
    with pytest.raises(
        ValueError, match=rf"need 5 images of each class, and {few[0]} has 4.*up to 4, or leave"
    ):
        data.sampler("train", ways=3, shots=1, queries=4, seed=0)


def other_size(place: Path) -> Images:
    folder = made.as_folder(place / "data", made.images())
    Image.new("RGB", (12, 13)).save(folder / "jay" / "tall.png")
    return Images(folder)


def other_channels(place: Path) -> Images:
    folder = made.as_folder(place / "data", made.images())
    Image.new("L", (12, 12)).save(folder / "jay" / "grey.png")
    return Images(folder)


def two_parts(place: Path) -> Images:
    for part, name in (("train", "ant"), ("val", "bee"), ("test", "ant")):
        made.as_folder(place / part, {name: made.images()[name]})
    return Images(place)


def empty_class(place: Path) -> Images:
    folder = made.as_folder(place / "data", made.images())
    (folder / "kea").mkdir()
    return Images(folder)


def no_val(place: Path) -> Images:
    for part, name in (("train", "ant"), ("test", "bee")):
        made.as_folder(place / part, {name: made.images()[name]})
    return Images(place)


def with_table(text: str):
    def make(place: Path) -> Images:
        made.as_folder(place, made.images())
        (place / "data.csv").write_text(text)
        return Images(place / "data.csv")

    return make


def with_split(text: str):
    def make(place: Path) -> Images:
        (place / "split.txt").write_text(text)
        return Images(made.as_folder(place / "data", made.images()), split=place / "split.txt")

    return make


def with_arrays(**arrays):
    def make(place: Path) -> Images:
        np.savez(place / "data.npz", **arrays)
        return Images(place / "data.npz", fractions=FRACTIONS)

    return make


GREY = np.zeros((20, 5, 5), np.uint8)
LABELS = np.arange(20) // 2

BAD = {
    "other size": (other_size, r"is 12x12 pixels and .*tall\.png is 13x12; resize all of them by task\.dataset\.size"),
    "other channels": (other_channels, r"has 3 channels and .*grey\.png has 1; .*task\.dataset\.channels=3"),
    "two parts": (two_parts, r"ant \(train and test\) would be in two parts of the split"),
    "empty class": (empty_class, r"no images in kea of .*Move what is no class away"),
    "no val": (no_val, r"has train and test, but no val; move some classes of train"),
    "no folder": (lambda place: Images(place / "nowhere"), r"there is no .*nowhere; name a folder"),
    "no classes": (lambda place: Images(place), r"holds no class folders; expected"),
    "no such form": (lambda place: Images(Path(__file__)), r"none of \.csv, \.tsv, \.npz"),
    "no indexable": (lambda place: Images(5), "data must be a path or an indexable"),
    "no label column": (with_table("path,kind\nant/000.png,ant"), r"no label column: .*got path, kind.*label_column"),
    "no path column": (with_table("label\nant"), r"no path column"),
    "no label": (with_table("path,label\nant/000.png,ant\nant/001.png,"), r"row 3 of .*has no path or no label"),
    "no rows": (with_table("path,label\n"), r"data\.csv has no rows"),
    "missing image": (
        with_table("path,label\nant/9.png,ant\nbee/9.png,bee"), r"2 of 2 images of .*ant/9\.png, .*bee/9\.png",
    ),
    "unknown part": (with_table("path,label,split\nant/000.png,ant,dev"), r"row 2 .*is of the split 'dev'"),
    "rows in two parts": (
        with_table("path,label,split\nant/000.png,ant,train\nant/001.png,ant,test"), r"ant \(train and test\)",
    ),
    "class twice in a split": (
        with_split("[train]\nant\nbee\n[val]\nant\n[test]\ncat"), r"names ant \(train and val\) twice",
    ),
    "split with no test": (with_split("[train]\nant\n[val]\nbee\n"), r"has no classes for test"),
    "split of no parts": (with_split("ant\nbee"), r"line 1 of the split .*is 'ant'; expected \[train\]"),
    "unknown class in a split": (
        with_split("[train]\nant\n[val]\nbee\n[test]\nyak"), r"names yak, of which there are no images",
    ),
    "no labels": (with_arrays(images=GREY), r"has no labels: expected an array called one of labels"),
    "no images": (with_arrays(labels=LABELS), r"has no images: .*got labels"),
    "fewer labels": (with_arrays(images=GREY, labels=LABELS[:5]), r"has 20 images and labels int64 \(5,\)"),
    "float images": (
        with_arrays(images=GREY / 255, labels=LABELS), r"20 of 20 images .*\n.*float64 \(5, 5\), expected uint8",
    ),
    "objects": (with_arrays(images=np.array([{}]), labels=LABELS[:1]), r"cannot be read .*save plain arrays"),
    "few classes": (with_arrays(images=GREY[:4], labels=LABELS[:4]), r"of 2 classes 1 would validate and 1 test"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_with_one_sentence(tmp_path, case):
    make, sentence = BAD[case]
    with pytest.raises(tasks.DataError, match=rf"(?s){sentence}"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"fractions": (0.5, 0.5)}, "must be three numbers above 0 of sum 1"),
        ({"fractions": (0.5, 0.2, 0.2)}, "must be three numbers above 0 of sum 1"),
        ({"channels": 2}, "channels must be 1, 3 or null"),
        ({"size": 0}, "size 1 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, sentence):
    listed = [(array, name) for name, arrays in made.images(4).items() for array in arrays]
    with pytest.raises(ValueError, match=sentence):
        Images(listed, **arguments)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mean": [0.5]}, r"mean=\[0\.5\] must have a number for each of the 3 channels"),
        ({"std": [0.2, 0, 0.2]}, r"std=.* must have a number above 0"),
        ({"crop": -1}, r"crop=-1 must be 0 pixels or more"),
        ({"colour": 1}, r"colour=1 in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    listed = [(array, name) for name, arrays in made.images(4).items() for array in arrays]
    with pytest.raises(ValueError, match=sentence):
        Images(listed, fractions=FRACTIONS).sampler("train", **PROTOCOL, **settings)


def test_mean_and_std_are_subtracted_divided_and_undone_for_pictures():
    listed = [(array, name) for name, arrays in made.images(4).items() for array in arrays]
    data = Images(listed, fractions=FRACTIONS)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    plain = data.sampler("train", **PROTOCOL).sample(0, 1)[0].query.x
    sampler = data.sampler("train", **PROTOCOL, mean=mean, std=std)
    found = sampler.sample(0, 1)[0].query.x
    expected = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(sampler.pixels(found), plain, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("room", [True, False])
def test_tasks_are_the_same_on_cuda_with_images_there_or_in_memory(room, monkeypatch):
    listed = [(array, name) for name, arrays in made.images(4).items() for array in arrays]
    data = Images(listed, fractions=FRACTIONS)
    if not room:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    sampler = data.sampler("train", **PROTOCOL, crop=1, flip=True, device="cuda")
    assert sampler._images.is_cuda == room
    task = sampler.sample(7, 3)
    assert task.query.x.is_cuda
    assert [one.checksum() for one in task] == drawn(data, crop=1, flip=True)
