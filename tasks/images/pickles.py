"""Pickles of others, read without running anything: numpy arrays and plain containers come out, all else is refused."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import DataError

__all__ = ["read_pickle"]

_RECONSTRUCT: Any = np.empty(0).__reduce__()[
    0
]  # numpy's private functions, under the names that the running numpy has
_SCALAR: Any = np.float64(0).__reduce__()[0]
_FROMBUFFER: Any = np.empty(0).__reduce_ex__(5)[0]


class _RefusedError(Exception):
    """Names what a pickle would import."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """codecs.encode for what it stands for in pickles of protocol 2 and less: bytes, and no other codec."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"the codec {encoding!r}")
    return codecs.latin_1_encode(text)[0]


# What a pickle may name: makers of arrays and of containers, none of which calls what it is given.
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("_codecs", "encode"): _encode,
    **{
        (f"{package}.multiarray", name): function
        for package in ("numpy.core", "numpy._core")
        for name, function in (("_reconstruct", _RECONSTRUCT), ("scalar", _SCALAR))
    },
    **{(f"{package}.numeric", "_frombuffer"): _FROMBUFFER for package in ("numpy.core", "numpy._core")},
    **{
        (module, name): builtin
        for module in ("builtins", "__builtin__")
        for name, builtin in (
            ("set", set),
            ("frozenset", frozenset),
            ("bytearray", bytearray),
            ("list", list),
        )
    },
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "defaultdict"):
            return lambda *_: defaultdict(list)  # its factory is of the reader's choosing, not of the file's
        if (module, name) not in ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return ALLOWED[module, name]


def read_pickle(file: Path) -> Any:
    """What a pickle of numpy arrays, numbers, strings and plain containers holds; text for Python 2's str.

    Raises: DataError naming what else it would import and so could run, or for a file that is damaged.
    """
    try:
        with file.open("rb") as content:
            return _Plain(content, encoding="latin1").load()
    except _RefusedError as error:
        raise DataError(
            f"images: the pickle {file} asks for {error}, which could run code; only numpy arrays and plain containers "
            "are read, and nothing was run. Get it from where it is published, or save its arrays as .npz."
        ) from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"images: the pickle {file} is damaged ({error}); get it again.") from error
