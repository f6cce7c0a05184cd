"""`import tasks` loads what is asked of it, and no library that only some of its families need."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tasks


def test_what_type_checkers_read_is_what_is_loaded():
    tree = ast.parse(Path(tasks.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        name.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert declared == tasks._MODULE_OF
    assert sorted(declared) == sorted(tasks.__all__)


@pytest.mark.parametrize("name", tasks.__all__)
def test_each_name_is_found(name):
    assert getattr(tasks, name) is getattr(sys.modules[tasks._MODULE_OF[name]], name)
    assert name in dir(tasks)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'tasks' has no attribute 'Sinusoids'"):
        tasks.Sinusoids  # noqa: B018


def test_meta_is_imported_without_the_libraries_of_images():
    code = "import sys, meta; print([name for name in ('PIL', 'safetensors', 'tasks.images') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
