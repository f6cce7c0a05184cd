"""A run's record: what its numbers depend on, hashed, so that files of two runs in one folder are not taken for one's.

record.json is written once, before a run's first checkpoint, and a copy goes into the header of each checkpoint, into
result.json and into the per-task results: "config" (dotted key → value as composed, without what may change when a run
goes on), "seeds", "data" and "versions" (of when it began), and the "sha256" of all that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = ["FILE", "RESUMABLE", "disagreements", "flat", "make", "may_change", "read"]

FILE = "record.json"
PARTS = ("config", "seeds", "data", "versions")
SHOWN = 3  # differences that are named

# What may change when a run is resumed: nothing that its past steps depended on. Of a group, everything in it.
RESUMABLE = (
    "resume",
    "data_dir",
    "debug",
    "device",
    "evaluation.batch",
    "logger",
    "published",
    "rank_timeout_s",
    "trainer.capture",
    "trainer.checkpoint_every",
    "trainer.iterations",
    "trainer.keep",
    "trainer.keep_best",
    "trainer.patience",
    "trainer.xray_every",
    "trainer.xray_tasks",
    "workers",
)


def may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)


def make(about: Mapping[str, Any], init_from: str | None = None) -> dict[str, Any]:
    """The record of a run. about: as Experiment.about() has it; init_from: checksum of the checkpoint it began at."""
    record = _plain({"config": _lasting(about["composed"]), **{part: about[part] for part in PARTS[1:]}})
    if init_from is not None:
        record["seeds"]["init_from"] = init_from
    return {"sha256": _hash(record), **record}


def read(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder, {} where it is damaged; None without one, as runs of Neo 0.1.0 are."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def disagreements(folder: Path, copies: Mapping[Path, Mapping[str, Any] | None]) -> list[str]:
    """Where record.json, .hydra/config.yaml and the copies of the record in other files say different things of a run.

    Each names the key and what each of the two says of it; none where nothing has a record.

    Args:
        copies: file → the record in it; None for a file without one.
    Cost: reads two small files.
    """
    place, own = folder / FILE, read(folder)
    if own is None:  # its copies are then all that is known
        place, own = next(((path, dict(copy)) for path, copy in copies.items() if copy), (place, None))
    if own is None:
        return []
    found = []
    for path, copy in copies.items():
        if copy is None:
            found.append(f"{path} has no record, and {place} is one: they are of two runs")
        elif path != place:
            found += _differences(path, _parts(copy), place, _parts(own))
    configured = folder / ".hydra" / "config.yaml"
    settings = _configuration(configured)
    if settings is not None:
        found += _differences(configured, settings, place, own.get("config") or {})
    if not found and own.get("sha256") != _hash(own):
        found.append(f"{place} is damaged: its content does not have its sha256")
    return found


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of every leaf; lists are leaves."""
    if not isinstance(node, Mapping):
        return {prefix[:-1]: node}
    return {
        key: value for name, child in node.items() for key, value in flat(child, f"{prefix}{name}.").items()
    }


def _differences(one: Path, ours: Mapping[str, Any], other: Path, theirs: Mapping[str, Any]) -> list[str]:
    keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    said = [f"{key} is {ours.get(key)!r} in {one} and {theirs.get(key)!r} in {other}" for key in keys[:SHOWN]]
    return said + ([f"{len(keys) - SHOWN} more differ between the two"] if keys[SHOWN:] else [])


def _parts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their own keys, the rest as "data.checksum", "versions.torch" ..."""
    rest = {part: record.get(part) for part in PARTS[1:]}
    return {**(record.get("config") or {}), **flat(rest), "sha256 of the record": record.get("sha256")}


def _configuration(path: Path) -> dict[str, Any] | None:
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, yaml.YAMLError, OmegaConfBaseException):
        return None  # none, as of a run begun in Python, or unreadable, which is said elsewhere
    return _plain(_lasting(config)) if isinstance(config, dict) else None


def _lasting(composed: Any) -> dict[str, Any]:
    return {key: value for key, value in flat(composed).items() if not may_change(key)}


def _plain(content: Any) -> Any:
    """As it comes back from a file; NaN and infinity, which JSON cannot say, as words."""
    return json.loads(json.dumps(content), parse_constant=str)


def _hash(record: Mapping[str, Any]) -> str:
    content = {part: record.get(part) for part in PARTS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
