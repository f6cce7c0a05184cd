"""Every snippet of the README and of docs/ runs, and prints what the text block after it says."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets() -> list:
    """(source, expected output or None) of each python block; a ```text block right after it is its output."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = list(FENCE.finditer(text))
        for block, following in zip_longest(blocks, blocks[1:]):
            if block[1] != "python":
                continue
            output = None
            if (
                following is not None
                and following[1] == "text"
                and not text[block.end() : following.start()].strip()
            ):
                output = following[2]
            line = text[: block.start()].count("\n") + 2
            # Blank lines in front keep the page's line numbers in tracebacks.
            found.append(pytest.param("\n" * (line - 1) + block[2], output, page, id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize(("source", "expected", "page"), snippets())
def test_snippet_runs_and_prints_what_the_page_shows(source: str, expected: str | None, page: Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(page), "exec"), {"__name__": "__main__"})
    if expected is not None:
        assert printed.getvalue() == expected


def test_readme_has_snippets() -> None:
    assert sum("README.md" in str(case.id) for case in snippets()) >= 3
