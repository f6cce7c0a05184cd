"""Runs and sweeps as tables for a notebook: pandas.DataFrame, a row a logged step, or a row a run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf

from meta.metrics_file import read_metrics
from meta.report.arms import Arm, ReportError, Sweep, read

if TYPE_CHECKING:
    import pandas

__all__ = ["metrics", "results"]


def metrics(folder: str | Path) -> pandas.DataFrame:
    """What a run, or every run of a sweep, has logged: a row for each run and step, in the order of the runs' names.

        table = meta.metrics("multirun/rates")
        table.pivot(index="step", columns="algorithm.inner_lr", values="train/loss").plot()

    Columns: run (its folder, seen from `folder`), a column for each setting that was swept, by its key and with the
    values' own types (a list is a tuple), seed, step (from 1), seconds (since the run began), then train/loss ... and
    val/... as metrics.jsonl has them. NaN where a step has no such number, or it is not finite.

    Runs that still train, were stopped or failed are there with the steps that they have; a last line cut short by a
    kill is left out. A run whose files are not all of one run is left out, with a UserWarning that says why.

    Args:
        folder: of a run, or of a sweep, or of several sweeps.
    Raises: ReportError (a ValueError) for a folder without runs, or of a single run whose files disagree; MetricsError
        naming the damaged line of a metrics.jsonl; ImportError where pandas is not installed.
    Cost: reads every run's files once, its per-task results and the header of its last checkpoint among them.
    """
    frame = _pandas("meta.metrics").DataFrame
    sweep = read(Path(folder))
    swept = _swept(sweep)
    rows = []
    for arm in sweep.arms:
        if arm.status == "inconsistent":
            if sweep.single:
                raise ReportError(f"{folder}: {arm.reason}.")
            warnings.warn(f"meta.metrics leaves {arm.name} out: {arm.reason}.", UserWarning, stacklevel=2)
            continue
        about = {"run": arm.name, **swept[arm.name], "seed": arm.settings.get("seed")}
        path = sweep.place(arm) / "metrics.jsonl"
        rows += [{**about, **line} for line in (read_metrics(path) if path.exists() else ())]
    return _numeric(frame(rows, columns=_columns(rows, ["run", *_keys(swept), "seed", "step", "seconds"])))


def results(folder: str | Path) -> pandas.DataFrame:
    """How a run, or every run of a sweep, ended: a row for each run, in the order of the runs' names.

        meta.results("multirun/rates").sort_values("val/accuracy", ascending=False)

    Columns: run, the settings that were swept, seed, status (finished, stopped by a search, failed, unfinished, or
    inconsistent: its files are not all of one run), iterations, seconds, val/<metric> and val/ci95 of the last
    validation, test/<metric>, test/ci95, test/loss, test/tasks and test/chance of the test at the end, and reason: why
    a run has no result that counts. Numbers are NaN where there are none, and for an inconsistent run. Scores are
    fractions, ci95 the half-width of the 95% interval.

    Args, Raises, Cost: as metrics() has them.
    """
    frame = _pandas("meta.results").DataFrame
    sweep = read(Path(folder))
    swept = _swept(sweep)
    rows = []
    for arm in sweep.arms:
        about = {"run": arm.name, **swept[arm.name], "seed": arm.settings.get("seed"), "status": arm.status}
        numbers = {} if arm.status == "inconsistent" else _outcome(arm)
        rows.append({**about, **numbers, "reason": arm.reason})
    columns = _columns(rows, ["run", *_keys(swept), "seed", "status", "iterations", "seconds"])
    columns.append(columns.pop(columns.index("reason")))
    return _numeric(frame(rows, columns=columns))


def _pandas(caller: str) -> Any:
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise ImportError(
            f"{caller} gives a pandas.DataFrame, and pandas is not installed; pip install 'neo-meta[pandas]'."
        ) from error
    return pandas


def _outcome(arm: Arm) -> dict[str, Any]:
    last = arm.lines[-1] if arm.lines else {}
    found: dict[str, Any] = {
        "iterations": arm.result.get("iterations", last.get("step")),
        "seconds": arm.result.get("seconds", last.get("seconds")),
    }
    if arm.validation is not None and arm.metric is not None:
        found |= {f"val/{arm.metric.name}": arm.validation[0], "val/ci95": arm.validation[1]}
    return found | {key: value for key, value in arm.result.items() if key.startswith("test/")}


def _swept(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Name of a run → what was swept, with its values in that run.

    What was typed for some arms and not the same for all; where a run has no record of what was typed, as one begun in
    Python, the settings that differ.
    """
    typed = {arm.name: _overrides(sweep.place(arm)) for arm in sweep.arms}
    if all(overrides is not None for overrides in typed.values()):
        keys = dict.fromkeys(key for overrides in typed.values() for key in overrides or {})
        values = {key: {(overrides or {}).get(key) for overrides in typed.values()} for key in keys}
        keys = {key: None for key in keys if len(values[key]) > 1}
    else:
        keys = dict.fromkeys(sweep.differing)
    return {
        arm.name: {
            key: _plain(arm.settings.get(key, (typed[arm.name] or {}).get(key)))
            for key in keys
            if key != "seed"
        }
        for arm in sweep.arms
    }


def _overrides(folder: Path) -> dict[str, str] | None:
    """What was typed for a run: key → value as text. None where nothing tells."""
    try:
        lines = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    except (OSError, yaml.YAMLError):
        return None
    pairs = (str(line).lstrip("+~").partition("=") for line in lines or ())
    return {key: value for key, _, value in pairs}


def _plain(value: Any) -> Any:
    """Lists as tuples, which a table can group by."""
    return tuple(_plain(one) for one in value) if isinstance(value, list) else value


def _keys(swept: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(next(iter(swept.values()), {}))


def _columns(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*first, *(key for row in rows for key in row)]))


def _numeric(table: Any) -> Any:
    """A metric that was never finite as NaN: a column of None alone would be one of objects."""
    for name in table.columns:
        if "/" in name and table[name].isna().all():
            table[name] = table[name].astype(float)
    return table
