from __future__ import annotations

import io
import json
import logging
import types
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

import tasks
from tasks import DataError
from tasks.omniglot import _folder_entries, _zip_entries, checksum, convert, decode, find, load
from tests.tasks.synthetic import HALVES, TINY, entries, png, write_folder, write_zip

NAMES = sorted(TINY[HALVES[0]] + TINY[HALVES[1]])


def read(place: Path, cache: Path | None = None, download: bool = False) -> tuple[np.ndarray, list[str], str]:
    return load(place, cache, download)


@pytest.fixture
def place(tiny, tmp_path: Path) -> Path:
    """A folder with the zips of a tiny Omniglot."""
    return tiny(tmp_path / "data")


# --- reading -------------------------------------------------------------------------------------------------------


def test_load_gives_sorted_characters_with_their_drawings_in_order(place):
    images, names, _ = read(place)
    assert names == NAMES
    assert images.shape == (4, 2, 28, 28)
    assert images.dtype == np.uint8
    for half in HALVES:
        for path, data in entries(half, TINY[half]).items():
            _, alphabet, character, file = path.split("/")
            drawing = int(file[-6:-4]) - 1
            assert np.array_equal(images[names.index(f"{alphabet}/{character}"), drawing], decode(data, path))


def test_decode_inverts_then_resizes_with_lanczos():
    data = png(5)
    paper = Image.open(io.BytesIO(data)).convert("L")
    strokes = Image.fromarray(255 - np.asarray(paper))
    assert np.array_equal(
        decode(data, "here"), np.asarray(strokes.resize((28, 28), Image.Resampling.LANCZOS))
    )
    blank = io.BytesIO()
    Image.new("1", (105, 105), 1).save(blank, "PNG")
    assert not decode(blank.getvalue(), "here").any()


def test_load_gives_the_same_images_from_every_layout(place, tiny, tmp_path):
    expected = read(place)
    layouts = {
        "parent": tmp_path / "parent",
        "torchvision": tmp_path / "torchvision",
        "folder": tmp_path / "folder",
    }
    tiny(layouts["parent"] / "omniglot")
    tiny(layouts["torchvision"] / "omniglot-py")
    for half in HALVES:
        write_folder(layouts["folder"], entries(half, TINY[half]))
    for layout in layouts.values():
        images, names, _ = read(layout)
        assert np.array_equal(images, expected[0])
        assert names == expected[1]


def test_find_takes_one_half_as_zip_and_one_as_folder(tmp_path):
    write_folder(tmp_path, entries(HALVES[0], TINY[HALVES[0]]))
    assert find(tmp_path) is None
    archive = write_zip(tmp_path / f"{HALVES[1]}.zip", entries(HALVES[1], TINY[HALVES[1]]))
    assert find(tmp_path) == [tmp_path / HALVES[0], archive]


def test_load_passes_over_what_is_no_drawing(place):
    expected = read(place, place / "cache")
    content = entries(HALVES[0], TINY[HALVES[0]])
    content |= {f"{HALVES[0]}/": b"", f"{HALVES[0]}/README.md": b"hello"}
    content |= {f"__MACOSX/{HALVES[0]}/Greek/character01/._0001_01.png": b"\0", f"{HALVES[0]}/._x.png": b"\0"}
    write_zip(place / f"{HALVES[0]}.zip", content)
    assert np.array_equal(read(place)[0], expected[0])


# --- the cache -----------------------------------------------------------------------------------------------------


@pytest.fixture
def conversions(monkeypatch) -> list[object]:
    """A list that grows each time the PNGs are read."""
    seen: list[object] = []

    def counting(halves):
        seen.append(halves)
        return convert(halves)

    monkeypatch.setattr("tasks.omniglot.convert", counting)
    return seen


def test_load_reads_the_pngs_once(place, conversions):
    first, again = read(place), read(place)
    assert len(conversions) == 1
    assert np.array_equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert sorted(path.name for path in (place / "neo-cache").iterdir()) == [
        "omniglot-28.json",
        "omniglot-28.npy",
    ]


@pytest.mark.parametrize("name", ["omniglot-28.json", "omniglot-28.npy"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:200] + b"\1" + b[201:], None]
)
def test_load_rebuilds_a_damaged_cache(place, conversions, name, damage):
    expected = read(place)
    file = place / "neo-cache" / name
    content = file.read_bytes()
    file.unlink() if damage is None else file.write_bytes(damage(content))
    assert np.array_equal(read(place)[0], expected[0])
    assert len(conversions) == 2
    assert file.read_bytes() == content


@pytest.mark.parametrize("layout", ["zip", "folder"])
def test_load_rebuilds_the_cache_when_the_source_changes(place, tmp_path, conversions, layout):
    if layout == "folder":
        place = tmp_path / "unpacked"
        for half in HALVES:
            write_folder(place, entries(half, TINY[half]))
    before = read(place)
    changed = entries(HALVES[1], TINY[HALVES[1]])
    changed[next(iter(changed))] = png(999)
    write_folder(place, changed) if layout == "folder" else write_zip(place / f"{HALVES[1]}.zip", changed)
    after = read(place)
    assert len(conversions) == 2
    assert before[2] != after[2]
    assert not np.array_equal(before[0], after[0])


def test_load_goes_on_without_a_cache_when_no_folder_can_be_written(place, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr("tasks.cache.default_folder", lambda data_dir: tmp_path / "file")
    with caplog.at_level(logging.WARNING, "tasks"):
        assert len(read(place)[1]) == 4
    assert "no cache in" in caplog.text


def test_load_refuses_a_cache_dir_that_cannot_be_written(place, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        DataError, match=r"Omniglot: cache_dir .*file cannot be written .*choose another cache_dir"
    ):
        read(place, tmp_path / "file")


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 0.3, 0.95])
def test_load_names_the_zip_when_it_is_cut(place, keep):
    archive = place / f"{HALVES[1]}.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(
        DataError, match=r"Omniglot: .*images_evaluation\.zip is a damaged zip .*get it again"
    ):
        read(place)


def test_load_never_reads_a_flipped_bit_of_a_zip_as_pixels(place):
    archive = place / f"{HALVES[1]}.zip"
    whole, expected = archive.read_bytes(), read(place)[0]
    refused: list[str] = []
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        archive.write_bytes(flipped)
        try:
            images, _, _ = read(place, place / "other")
        except DataError as error:
            refused.append(str(error))
        else:  # dates and the like
            assert np.array_equal(images, expected)
    assert len(refused) > 100
    assert all(message.startswith("Omniglot: ") for message in refused)


def test_decode_never_reads_a_damaged_png_as_pixels():
    data = png(3)
    expected = decode(data, "here")
    damaged = [data[:length] for length in range(0, len(data), 9)]
    for position in range(0, len(data), 5):
        flipped = bytearray(data)
        flipped[position] ^= 0x20
        damaged.append(bytes(flipped))
    refused: list[str] = []
    for broken in damaged:
        try:
            image = decode(broken, "here")
        except DataError as error:
            refused.append(str(error))
        else:  # the checksum of the last, empty chunk
            assert np.array_equal(image, expected)
    assert len(refused) > 0.9 * len(damaged)
    assert all(message.startswith("here is ") for message in refused)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", r"is not a PNG; get that file again"),
        (png(1)[:-40], r"is a damaged PNG \(.*\); get that file again"),
        (png(1, side=28), r"is 28x28 pixels, expected 105x105"),
    ],
)
@pytest.mark.parametrize("layout", ["zip", "folder"])
def test_load_names_the_drawing_that_is_damaged(place, tmp_path, layout, data, message):
    content = entries(HALVES[0], TINY[HALVES[0]])
    content[f"{HALVES[0]}/Greek/character02/0002_01.png"] = data
    if layout == "folder":
        (place / f"{HALVES[0]}.zip").unlink()
        write_folder(place, content)
    else:
        write_zip(place / f"{HALVES[0]}.zip", content)
    with pytest.raises(
        DataError, match=rf"images_background.*: {HALVES[0]}/Greek/character02/0002_01\.png {message}"
    ):
        read(place)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/x.png", "a/../../x.png", "..\\x.png", "C:\\x.png"])
def test_load_refuses_zip_entries_that_point_outside(place, tmp_path, name):
    write_zip(place / f"{HALVES[0]}.zip", entries(HALVES[0], TINY[HALVES[0]]) | {name: png(1)})
    with pytest.raises(DataError, match=r"images_background\.zip has an entry that points outside"):
        read(place)


def test_load_refuses_other_peoples_drawings(place):
    write_zip(place / f"{HALVES[0]}.zip", entries(HALVES[0], TINY[HALVES[0]]) | {"cats/tom.png": png(1)})
    with pytest.raises(
        DataError, match=r"holds 'cats/tom.png', expected images_background/<alphabet>/character01"
    ):
        read(place)


def test_load_refuses_an_entry_that_unpacks_to_too_much(place):
    bomb = {f"{HALVES[0]}/Greek/character01/0001_03.png": b"\0" * 200_000}
    write_zip(place / f"{HALVES[0]}.zip", entries(HALVES[0], TINY[HALVES[0]]) | bomb)
    with pytest.raises(DataError, match=r"0001_03\.png unpacks to 200000 bytes, expected at most 65536"):
        read(place)


def test_load_refuses_a_set_that_is_not_complete(place):
    content = entries(HALVES[0], TINY[HALVES[0]])
    one_less = dict(list(content.items())[:-1])
    write_zip(place / f"{HALVES[0]}.zip", one_less)
    with pytest.raises(DataError, match="Omniglot: Latin/character01 has 1 images, expected 2"):
        read(place)
    write_zip(place / f"{HALVES[0]}.zip", dict(list(content.items())[:-2]))
    with pytest.raises(DataError, match="Omniglot: expected 4 characters, found 3"):
        read(place)


# --- nothing there: the download -----------------------------------------------------------------------------------


def torchvision_that(act) -> types.SimpleNamespace:
    """A torchvision whose datasets.Omniglot calls act(root, background)."""

    def dataset(root, *, background, download):
        assert download
        act(Path(root), background)

    return types.SimpleNamespace(datasets=types.SimpleNamespace(Omniglot=dataset))


def test_load_downloads_with_torchvision_when_nothing_is_there(tiny, tmp_path, monkeypatch):
    asked = []

    def act(root: Path, background: bool) -> None:
        asked.append(background)
        half = HALVES[0 if background else 1]
        write_zip(root / "omniglot-py" / f"{half}.zip", entries(half, TINY[half]))
        write_folder(root / "omniglot-py", entries(half, TINY[half]))

    tiny(tmp_path / "aside")
    monkeypatch.setattr("tasks.omniglot.import_torchvision", lambda: torchvision_that(act))
    assert read(tmp_path / "new", tmp_path / "cache", download=True)[1] == NAMES
    assert read(tmp_path / "new", tmp_path / "cache", download=True)[1] == NAMES
    assert asked == [True, False]


def test_load_says_what_to_do_when_there_is_no_connection(tmp_path, monkeypatch):
    def act(root: Path, background: bool) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("tasks.omniglot.import_torchvision", lambda: torchvision_that(act))
    with pytest.raises(
        DataError,
        match=r"^Omniglot: no images_background and images_evaluation .* in .*nowhere, .*"
        r"the download failed \(Name or service not known\); put .* or use the generated task=glyphs\.$",
    ):
        read(tmp_path / "nowhere", download=True)


def test_load_says_what_to_do_when_torchvision_is_not_installed(tmp_path, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'torchvision'")

    monkeypatch.setattr("tasks.omniglot.import_torchvision", missing)
    with pytest.raises(
        DataError, match=r"torchvision is not installed to download it; put images_background\.zip"
    ):
        read(tmp_path / "nowhere", download=True)


def test_load_asks_for_no_connection_when_told_not_to(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.omniglot.import_torchvision", lambda: pytest.fail("asked for torchvision"))
    with pytest.raises(DataError, match="and download=False; put"):
        read(tmp_path / "nowhere", download=False)


def test_omniglot_refuses_an_unknown_split_before_it_reads(tmp_path):
    with pytest.raises(
        ValueError, match="Omniglot: unknown split 'test'; expected one of maml, vinyals, lake"
    ):
        tasks.Omniglot(tmp_path, "test")


# --- the real one --------------------------------------------------------------------------------------------------


def test_real_omniglot_is_complete(omniglot, omniglot_dir):
    assert omniglot.images.shape == (1623, 20, 28, 28)
    assert list(omniglot.names) == sorted(set(omniglot.names))
    alphabets = {name.split("/")[0] for name in omniglot.names}
    assert len(alphabets) == 50
    assert {"Angelic", "Braille", "Greek", "ULOG", "Mkhedruli_(Georgian)"} <= alphabets
    evaluation = sum(name.split("/")[0] in tasks.splits.EVALUATION for name in omniglot.names)
    assert (len(omniglot.names) - evaluation, evaluation) == (964, 659)


def test_real_omniglot_strokes_are_white_and_the_minority(omniglot):
    ink = omniglot.images.float() / 255
    assert 0.05 < ink.mean() < 0.12
    assert ink.mean(dim=(2, 3)).max() < 0.5
    assert ink.amax(dim=(2, 3)).min() > 0.5


def test_real_omniglot_images_are_pillows(omniglot, omniglot_dir):
    checked = 0
    for half in find(omniglot_dir):
        for number, (path, data) in enumerate(_folder_entries(half) if half.is_dir() else _zip_entries(half)):
            if number % 1777:
                continue
            _, alphabet, character, file = path.split("/")
            paper = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
            expected = Image.fromarray(255 - paper).resize((28, 28), Image.Resampling.LANCZOS)
            ours = omniglot.images[omniglot.names.index(f"{alphabet}/{character}"), int(file[-6:-4]) - 1]
            assert np.array_equal(ours.numpy(), np.asarray(expected))
            checked += 1
    assert checked == 19


@pytest.mark.parametrize(
    ("split", "counts"),
    [("maml", (1100, 100, 423)), ("vinyals", (1028, 172, 423)), ("lake", (813, 151, 659))],
)
def test_real_omniglot_split_has_its_counts_and_is_disjoint(
    omniglot, omniglot_dir, omniglot_cache, split, counts
):
    drawn = tasks.Omniglot(omniglot_dir, split, cache_dir=omniglot_cache, download=False)
    assert tuple(len(drawn.parts[part]) for part in ("train", "val", "test")) == counts
    assert len({int(i) for chosen in drawn.parts.values() for i in chosen}) == 1623
    assert drawn.checksum == omniglot.checksum
    assert json.loads(json.dumps(drawn.describe()))["split"] == split


def test_real_omniglot_vinyals_tests_on_four_characters_of_gurmukhi(omniglot_dir, omniglot_cache, omniglot):
    drawn = tasks.Omniglot(omniglot_dir, "vinyals", cache_dir=omniglot_cache, download=False)
    tested = {drawn.names[i] for i in drawn.parts["test"] if drawn.names[i].startswith("Gurmukhi/")}
    assert tested == {f"Gurmukhi/character{number}" for number in (42, 43, 44, 45)}
    validated = {drawn.names[i].split("/")[0] for i in drawn.parts["val"]}
    assert validated == {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}


def test_real_omniglot_draws_tasks_of_twenty_ways(omniglot):
    task = omniglot.sampler("test", ways=20, shots=5, queries=15, seed=0).sample(0, 4)
    assert task.support.x.shape == (4, 100, 1, 28, 28)
    assert task.query.x.shape == (4, 300, 1, 28, 28)


def test_checksum_tells_one_source_from_another(place, tmp_path):
    halves = find(place)
    before = checksum(halves)
    assert checksum(find(place)) == before
    write_zip(halves[1], entries(HALVES[1], ["ULOG/character02"]))
    assert checksum(halves) != before
