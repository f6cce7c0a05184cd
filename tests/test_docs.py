"""Every snippet of the README and of docs/ runs, and prints what the text block after it says; commands compose."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

import neo.functions
from meta.cli import dry_run
from meta.cli.overrides import check, parse
from neo.functions import registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {
    f"scripts/{name}.py": name
    for name in ("train", "evaluate", "export", "xray", "replay", "reproduce", "mnist", "bench")
} | {"scripts/plan.py": "train"}  # with a configuration each
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


def commands() -> list:
    """(config, arguments) of each call of a script in a ```sh block that hydra composes a configuration for."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in FENCE.finditer(text):
            if block[1] != "sh":
                continue
            line = text[: block.start()].count("\n") + 2
            for number, command in enumerate(block[2].replace("\\\n", " ").splitlines()):
                words = shlex.split(command, comments=True)
                for position, word in enumerate(words):
                    # With --config-dir choices are the reader's own, which tests/meta/cli/test_users_algorithm.py runs.
                    if word in SCRIPTS and "--config-dir" not in words:
                        name = f"{page.name}:{line}+{number}"
                        found.append(pytest.param(SCRIPTS[word], words[position + 1 :], id=name))
    return found


@pytest.fixture(autouse=True)
def ops_as_they_were() -> Iterator[None]:
    """A snippet may give a torch callable a Policy; no other test is to meet it."""
    tables = [registry._handlers, registry._twins, vars(neo.functions)]
    before = [dict(table) for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        for key in table.keys() - old.keys():
            del table[key]
        table.update(old)


@pytest.mark.parametrize(("source", "expected", "page"), snippets())
def test_snippet_runs_and_prints_what_the_page_shows(source: str, expected: str | None, page: Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(page), "exec"), {"__name__": "__main__"})
    if expected is not None:
        assert printed.getvalue() == expected


def test_readme_has_snippets() -> None:
    assert sum("README.md" in str(case.id) for case in snippets()) >= 3


@pytest.mark.parametrize(("config_name", "arguments"), commands())
def test_command_has_keys_and_choices_that_exist(config_name: str, arguments: list[str]) -> None:
    parsed = get_args_parser().parse_args([one for one in arguments if one != dry_run.FLAG])
    check(config_name, parse(parsed.overrides), parsed.multirun)


def test_pages_have_commands() -> None:
    assert len(commands()) >= 5
