"""--help of a command: what it does, its groups with their choices, and every key with its comment in conf/."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from meta.cli.comments import ConfigFile, chain, find
from meta.cli.configs import CONF, composed
from meta.cli.overrides import groups, leaves, parse, value_of
from meta.cli.value_types import format_value

__all__ = ["help_text"]

INDENT = 34  # columns before a comment
FLAGS = """\
  -m                sweep: several values of a key, separated by commas, are an arm each
  --config-dir DIR  configuration files of your own, beside those below
  --cfg job         print the configuration as it is composed, and do nothing else
  --help            this, for the choices that stand beside it: {example}--help"""
FOLDERS = """
  hydra.run.dir=DIR, with -m hydra.sweep.dir=DIR: where a run, a sweep is written"""


def help_text(
    config_name: str, overrides: Sequence[str], folders: Sequence[Path], program: str, about: str | None
) -> str:
    """What --help prints, for the choices and values among the overrides.

    Args:
        overrides: those of one value, checked.
        folders: of further configuration files, beside conf/.
        program: the command's name.
        about: what it does, with examples.
    """
    config = composed(config_name, overrides, with_hydra=True)
    main = ConfigFile(CONF / f"{config_name}.yaml")
    chosen = _choices(config, overrides, main)
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    files = [
        main,
        *(file for group, names in chosen.items() for name in names for file in chain(group, name, folders)),
    ]
    comments = _merged(files)
    return "\n\n".join(
        part
        for part in (
            (about or "\n".join(main.header)).strip(),
            _usage(program, main),
            _group_list(main, chosen, folders),
            *_sections(config, comments, chosen, folders),
        )
        if part
    )


def _usage(program: str, main: ConfigFile) -> str:
    example = "task=sinusoid algorithm=protonet " if "algorithm" in main.groups else ""
    writes = "sweep" in main.groups
    usage = f"usage: {program} [key=value ...] [group=choice ...]\n{FLAGS.format(example=example)}"
    return usage + (FOLDERS if writes else "")


def _choices(config: DictConfig, overrides: Sequence[str], main: ConfigFile) -> dict[str, list[str]]:
    """Group → its choices, in the order of the defaults list: mostly one, several where a list was typed, or none."""
    found: dict[str, list[str]] = {}
    typed, runtime = parse(overrides), config.hydra.runtime.choices
    for group in main.groups:
        choice = value_of(typed, group) or runtime.get(group)
        found[group] = (
            [str(one) for one in choice] if isinstance(choice, list) else [choice] if choice else []
        )
    return found


def _merged(files: Sequence[ConfigFile]) -> dict[str, str]:
    """Dotted key → its comment: of several that a choice and its bases have, the choice's own.

    A published setting repeats keys to give them values; what a key is, and its range, is said where it comes from.
    """
    found: dict[str, str] = {}
    for file in files:
        for key, comment in file.comments.items():
            if not found.get(key) or (comment and file.group != "experiment"):
                found[key] = comment
    return found


def _group_list(main: ConfigFile, chosen: Mapping[str, Sequence[str]], folders: Sequence[Path]) -> str:
    if not main.groups:
        return ""
    lines = ["Groups, their choices, and with * the one that is described below:"]
    available = groups(folders)
    for group, comment in main.groups.items():
        lines.append(_row(f"  {group}", comment))
        for choice in available.get(group, ()):
            file = find(group, choice, folders)
            line = file.header[0] if file and file.header else ""
            lines.append(_row(f"  {'*' if choice in chosen[group] else ' '} {group}={choice}", line))
    return "\n".join(lines)


def _sections(
    config: DictConfig,
    comments: Mapping[str, str],
    chosen: Mapping[str, Sequence[str]],
    folders: Sequence[Path],
) -> list[str]:
    """The keys of each group under the comment of its choice, after those of no group."""
    content = OmegaConf.to_container(config, resolve=False)
    rows: dict[str | None, list[str]] = {None: []}
    for key, value in leaves(config).items():
        group = key.split(".")[0]
        if _is_told(content, key, comments):
            shown = _written(content, key) if value is None else format_value(value)
            row = _row(f"  {key}={shown}", comments.get(key, ""))
            rows.setdefault(group if group in chosen and "." in key else None, []).append(row)
    for name in chosen.get("sweep", ()):  # whose keys are hydra's, which the configuration of a run has not
        for part in chain("sweep", name, folders):
            values = yaml.safe_load(part.text) or {}
            rows["sweep"] = [
                _row(f"  {key}={_written(values, key)}", comment)
                for key, comment in part.comments.items()
                if _is_told(values, key, part.comments)
            ]
    sections = ["\n".join(["Keys:", *rows.pop(None)])]
    for group, names in chosen.items():
        headers = [
            _row(f"{group}={name}", " ".join(" ".join(file.header).split()))
            for name in names
            if (file := find(group, name, folders))
        ]
        if headers and (group in rows or group == "experiment"):
            sections.append("\n".join([*headers, *rows.get(group, ())]))
    return sections


def _is_told(content: Any, key: str, comments: Mapping[str, str]) -> bool:
    """Whether a key has a line: none that has keys of its own, or that names a class and needs no comment."""
    node = _raw(content, key)
    has_keys = isinstance(node, Mapping) and len(node) > 0
    return not has_keys and (bool(comments.get(key)) or not key.endswith("_target_"))


def _written(content: Any, key: str) -> str:
    """A value as its file has it, references left as they are; {} for an empty mapping, ??? for what must be given."""
    value = _raw(content, key)
    return "{}" if isinstance(value, Mapping) else format_value(value)


def _raw(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content[part]
    return content


def _row(left: str, comment: str) -> str:
    """A key and its comment, which goes on under itself; below the key, where that is long."""
    width = max(80, shutil.get_terminal_size((120, 24)).columns)
    if not comment:
        return left
    lines = textwrap.wrap(comment, width - INDENT, break_long_words=False, break_on_hyphens=False)
    if len(left) + 2 <= INDENT:
        lines[0] = f"{left:<{INDENT}}{lines[0]}"
        return f"\n{' ' * INDENT}".join(lines)
    return f"\n{' ' * INDENT}".join([left, *lines])
