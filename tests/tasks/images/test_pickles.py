"""Pickles of others: what benchmarks are made of is read, and nothing is ever run."""

from __future__ import annotations

import codecs
import collections
import os
import pickle
import subprocess

import numpy as np
import pytest

from tasks import DataError
from tasks.images.pickles import read_pickle

CONTENT = {
    "image_data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "class_dict": collections.OrderedDict(n01=[0], n02=[np.int64(1)]),
    "names": np.array(["a", "b"]),
    "objects": np.array([b"png", "text", None], dtype=object),
    b"bytes": [b"\x00\xff", {1, 2}, (1.5, True), np.float32(2)],
    "columns": np.asfortranarray(np.ones((2, 3))),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_are_read_in_every_protocol(tmp_path, protocol):
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(CONTENT, protocol))
    found = read_pickle(tmp_path / "data.pkl")
    assert found.keys() == CONTENT.keys()
    for key, expected in CONTENT.items():
        if isinstance(expected, np.ndarray):
            assert np.array_equal(found[key], expected)
            assert found[key].dtype == expected.dtype
        else:
            assert found[key] == expected


def test_pickle_of_python_2_is_read(tmp_path):
    # A dict with a str, as cPickle of Python 2 writes CIFAR-100's files: text, where it holds text.
    (tmp_path / "meta").write_bytes(b"\x80\x02}U\x10fine_label_names]U\x05appleas.")
    assert read_pickle(tmp_path / "meta") == {"fine_label_names": ["apple"]}


def test_pickle_of_older_numpy_is_read(tmp_path):
    content = pickle.dumps({"data": np.arange(6, dtype=np.uint8)}, 2)
    assert b"numpy._core" in content
    (tmp_path / "data.pkl").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    assert read_pickle(tmp_path / "data.pkl")["data"].tolist() == [0, 1, 2, 3, 4, 5]


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# What a pickle may name, under one name or another of Python's, and how it would be called with the path of a file.
EVIL = {
    "system": lambda marker: Calls(os.system, f"touch {marker}"),
    "eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Calls(exec, f"open({str(marker)!r}, 'w')"),
    "getattr": lambda marker: Calls(getattr, str(marker), "upper"),
    "Popen": lambda marker: [np.zeros(2), Calls(subprocess.Popen, ["touch", str(marker)])],
    "open": lambda marker: np.array([Calls(open, str(marker), "w")], dtype=object),
    "load": lambda marker: Calls(np.load, str(marker)),
    "zlib_codec": lambda marker: Calls(codecs.encode, b"x", "zlib_codec"),
    "pathlib": lambda marker: marker,
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickle_that_would_run_code_is_refused_by_name_and_nothing_is_run(tmp_path, name, protocol):
    marker = tmp_path / "was run"
    (tmp_path / "data.pkl").write_bytes(pickle.dumps({"data": EVIL[name](marker)}, protocol))
    with pytest.raises(DataError, match=rf"data\.pkl asks for .*{name}.*, which could run code"):
        read_pickle(tmp_path / "data.pkl")
    assert not marker.exists()


@pytest.mark.parametrize("length", [0, 1, 20, 60])
def test_damaged_pickle_is_said(tmp_path, length):
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(CONTENT)[:length])
    with pytest.raises(DataError, match=r"data\.pkl is damaged .*get it again"):
        read_pickle(tmp_path / "data.pkl")
