"""docs/first-hour.ipynb runs from its first cell to its last, and prints what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.helpers import notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "first-hour.ipynb"
ROUNDED = re.compile(r"%|^predicted|^better")  # lines that may be others on a processor that rounds otherwise


def kept(text: str) -> list[str]:
    return [line for line in text.splitlines() if not ROUNDED.search(line)]


def test_is_a_notebook_of_format_4_with_small_outputs():
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in content["cells"]]
    assert len(set(names)) == len(names)
    assert NOTEBOOK.stat().st_size < 30_000
    for cell in content["cells"]:
        assert {"cell_type", "id", "metadata", "source"} <= set(cell)
        if cell["cell_type"] == "code":
            assert max(map(len, "".join(cell["source"]).splitlines())) <= 130
            assert cell["execution_count"] is None
            assert all(output["output_type"] == "stream" for output in cell["outputs"])


@pytest.mark.slow
def test_runs_and_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for cell, text in notebook.run(NOTEBOOK):
        assert kept(text) == kept(notebook.printed(cell))
