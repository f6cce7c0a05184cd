"""Neo against its peers: python scripts/bench.py, or works=[w1,w4] peers=[torch,learn2learn] rounds=5.

Every contender runs in a process of its own at its own fastest setting, on the same weights and tasks; that they agree
is checked before anything is timed; then they take turns. quick=true tries the plumbing on toy sizes, guard=true
compares the ratios with the recorded ones and exits 1 where one lost more than 15%.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from omegaconf import DictConfig

from benchmarks import compare, guard, plot, record, report, unroll
from benchmarks.contender import ContenderError
from benchmarks.problem import images
from benchmarks.record import Found
from benchmarks.settings import GRIDS, contenders
from benchmarks.works import Unroll, choose
from meta.cli import command
from meta.machine import device_name, resolve_device

CLOCKS = {"wall": "", "processor": ", processor time"}  # what the tables say of it
PAGE = "docs/benchmarks.md"
PEERS = sorted({peer for grid in GRIDS.values() for peer in grid})


def job(config: DictConfig) -> None:
    works = choose(list(config.works), config.quick)
    options = _options(config)
    absent = [peer for peer in config.peers if not any(peer in contenders(work) for work in works)]
    if absent:
        raise ValueError(
            f"peers={list(config.peers)}: {', '.join(absent)} takes part in none of works={list(config.works)}; add a "
            "work that includes it, or leave it out."
        )
    kind = torch.device(options.device).type
    recorded = record.read(Path(config.record)) if config.guard else {}
    dataset = images(config.data_dir, config.quick)
    page = _page(config)
    everything: list[Found] = []
    for work in works:
        try:
            found = (
                unroll.measure(work, dataset, options)
                if isinstance(work, Unroll)
                else compare.measure(work, dataset, options)
            )
        except ContenderError as error:
            raise ValueError(str(error)) from error
        print(f"\n{report.table(found)}\n", flush=True)
        if page is not None:  # after each work, so that an interrupted run keeps what it has
            _write(page, kind, found)
        everything.append(found)
    lost = guard.lost(recorded.get(kind, {}), everything) if config.guard else []
    for sentence in lost:
        print(f"lost: {sentence}", file=sys.stderr)
    if lost:
        sys.exit(1)


def _options(config: DictConfig) -> compare.Options:
    unknown = sorted(set(config.peers) - set(PEERS))
    if unknown:
        raise ValueError(
            f"peers={list(config.peers)}: unknown {', '.join(unknown)}; expected some of {', '.join(PEERS)}."
        )
    if config.rounds < 1:
        raise ValueError(f"rounds={config.rounds} is too small; choose rounds ≥ 1.")
    device = resolve_device(config.device)
    clock = config.clock if device.type == "cpu" else "wall"  # a GPU has its own
    if clock not in CLOCKS:
        raise ValueError(f"clock={clock} is unknown; choose clock={' or clock='.join(CLOCKS)}.")
    return compare.Options(
        peers=list(config.peers) or PEERS,
        device=str(device),
        clock=clock,
        rounds=min(config.rounds, 2) if config.quick else config.rounds,
        quick=config.quick,
        limit_s=config.limit_s,
        jax_python=config.jax_python or str(Path(sys.prefix) / "jax" / "bin" / "python"),
        machine=f"{device_name(device)}{CLOCKS[clock]}; {_versions()}",
        note=config.note,
        say=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )


def _versions() -> str:
    found = [f"torch {torch.__version__}"]
    for library in ("learn2learn", "higher"):
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _page(config: DictConfig) -> Path | None:
    """Where the report goes; with auto, toy sizes and guards do not touch the recorded one."""
    if config.write == "auto":
        return None if config.quick or config.guard else Path(PAGE)
    return None if config.write in (None, "none") else Path(config.write)


def _write(page: Path, kind: str, found: Found) -> None:
    """Page, record (.json) and picture (.png) beside one another; works not measured now stay as they were."""
    page.parent.mkdir(parents=True, exist_ok=True)
    kept = page.with_suffix(".json")
    everything = record.merge(record.read(kept) if kept.exists() else {}, kind, [found])
    record.write(kept, everything)
    plots = {device: f"{page.stem}{'' if device == 'cpu' else f'-{device}'}.png" for device in everything}
    plot.draw(everything[kind], page.with_name(plots[kind]))
    report.insert(page, report.render(everything, plots))


def main() -> None:
    command.run("bench", job)


if __name__ == "__main__":
    main()
