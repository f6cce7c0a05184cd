from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tasks import cache

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4), dtype=np.uint8)
NAMES = ["A/character01", "A/character02", "B/character01"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cache.write(tmp_path, "images", "source", IMAGES, NAMES)
    return tmp_path


def test_cache_gives_back_what_was_written(folder):
    images, names = cache.read(folder, "images", "source")
    assert np.array_equal(images, IMAGES)
    assert images.dtype == np.uint8
    assert names == NAMES
    assert sorted(path.name for path in folder.iterdir()) == ["images.json", "images.npy"]


def test_cache_is_not_read_when_the_source_changed(folder):
    assert cache.read(folder, "images", "another source") is None


@pytest.mark.parametrize("name", ["images.json", "images.npy"])
def test_cache_is_not_read_when_a_file_is_gone(folder, name):
    (folder / name).unlink()
    assert cache.read(folder, "images", "source") is None


@pytest.mark.parametrize("name", ["images.json", "images.npy"])
def test_cache_is_not_read_when_it_was_cut_anywhere(folder, name):
    whole = (folder / name).read_bytes()
    for length in range(len(whole)):
        (folder / name).write_bytes(whole[:length])
        assert cache.read(folder, "images", "source") is None, f"{name} cut to {length} bytes was read"


@pytest.mark.parametrize("name", ["images.json", "images.npy"])
def test_cache_is_not_read_as_other_data_when_any_byte_changed(folder, name):
    whole = (folder / name).read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 4
        (folder / name).write_bytes(changed)
        found = cache.read(folder, "images", "source")
        if found is not None:  # white space of the JSON may change and mean the same
            assert np.array_equal(found[0], IMAGES)
            assert found[1] == NAMES
            assert name == "images.json"


@pytest.mark.parametrize("card", ["[]", "{}", "null", '{"source": "source", "checksum": 1, "names": 2}'])
def test_cache_is_not_read_when_the_card_is_something_else(folder, card):
    (folder / "images.json").write_text(card)
    assert cache.read(folder, "images", "source") is None


def test_cache_keeps_the_old_one_when_writing_is_interrupted(folder, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        cache.write(folder, "images", "new source", IMAGES[:1], NAMES[:1])
    assert cache.read(folder, "images", "source")[1] == NAMES
    assert sorted(path.name for path in folder.iterdir()) == ["images.json", "images.npy"]


def test_cache_is_not_read_when_only_the_array_was_replaced(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    cache.write(other, "images", "source", IMAGES[::-1], NAMES)
    (folder / "images.npy").write_bytes((other / "images.npy").read_bytes())
    assert cache.read(folder, "images", "source") is None


def test_cache_reads_no_pickle(folder):
    np.save(folder / "images.npy", np.array([{"a": 1}]), allow_pickle=True)
    array = (folder / "images.npy").read_bytes()
    card = {"source": "source", "checksum": cache._checksum("source", NAMES, array), "names": NAMES}
    (folder / "images.json").write_text(json.dumps(card))
    assert cache.read(folder, "images", "source") is None


def test_default_folder_is_beside_the_data_or_the_users(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    assert cache.default_folder(data) == data / "neo-cache"
    data.chmod(0o555)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache.default_folder(data) == tmp_path / "user" / "neo"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache.default_folder(data) == tmp_path / "home" / ".cache" / "neo"
