"""The comments of configuration files: what each key is, and what each file is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from meta.cli.configs import CONF

__all__ = ["ConfigFile", "chain", "find"]

GLOBAL = "# @package _global_"


@dataclass(frozen=True)
class ConfigFile:
    """A file of a configuration.

    prefix: of its keys in a configuration that chooses it, "algorithm." say.
    """

    path: Path
    group: str | None = None

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def prefix(self) -> str:
        return "" if self.group is None or self.text.startswith(GLOBAL) else f"{self.group}."

    @cached_property
    def header(self) -> list[str]:
        """The lines of the comment at its top."""
        lines = []
        for line in self.text.removeprefix(GLOBAL).lstrip("\n").splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").removeprefix(" "))
        return lines

    @cached_property
    def comments(self) -> dict[str, str]:
        """Dotted key → the comment behind it, "" for none. All keys that this file gives, but for the defaults list."""
        found: dict[str, str] = {}
        root, lines = yaml.compose(self.text), self.text.splitlines()
        if isinstance(root, yaml.MappingNode):
            for key, comment in _comments(root, lines, self.prefix):
                found[key] = comment
        found.pop(f"{self.prefix}defaults", None)
        return found

    @cached_property
    def groups(self) -> dict[str, str]:
        """Of a file with a defaults list: group → the comment behind its entry."""
        root, lines = yaml.compose(self.text), self.text.splitlines()
        found: dict[str, str] = {}
        for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
            if key.value != "defaults":
                continue
            for entry in value.value:
                if isinstance(entry, yaml.MappingNode) and "override" not in entry.value[0][0].value:
                    name, choice = entry.value[0]
                    found[name.value] = _behind(lines, choice)
        return found

    @cached_property
    def bases(self) -> list[str]:
        """The other choices of its group that it starts from."""
        content = yaml.safe_load(self.text) or {}
        return [
            entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"
        ]


def find(group: str, choice: str, folders: Sequence[Path] = ()) -> ConfigFile | None:
    """The file of a choice, the user's folders first; None for a choice without one (device=cuda:1)."""
    for root in (*folders, CONF):
        path = root / group / f"{choice}.yaml"
        if path.is_file():
            return ConfigFile(path, group)
    return None


def chain(group: str, choice: str, folders: Sequence[Path] = ()) -> list[ConfigFile]:
    """The files that a choice is made of, those that it starts from first."""
    file = find(group, choice, folders)
    if file is None:
        return []
    return [*(one for base in file.bases for one in chain(group, base, folders)), file]


def _comments(node: yaml.MappingNode, lines: Sequence[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        nested = isinstance(value, yaml.MappingNode) and not value.flow_style
        yield name, _behind(lines, key if nested else value)
        if nested:
            yield from _comments(value, lines, f"{name}.")


def _behind(lines: Sequence[str], node: yaml.Node) -> str:
    """The comment behind a node, on the line that it ends on."""
    line = lines[node.end_mark.line] if node.end_mark.line < len(lines) else ""
    before, mark, comment = line[node.end_mark.column :].partition("#")
    return comment.strip() if mark and before.strip(" :") == "" else ""
