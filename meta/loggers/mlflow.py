"""MLflow: a run in a database that `mlflow ui` opens, or on a tracking server."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from meta.files import lock_file, write_json
from meta.loggers.logger import Logger
from meta.record import flat

__all__ = ["MLflow"]

NOTE = "mlflow.json"  # in the run's folder: which run of MLflow it is, and where
DATABASE = "mlflow.db"  # in the current folder, where `mlflow ui` looks by itself
MOST_PARAMS = 100  # of one call, by MLflow's own limits
LONGEST = 6000  # characters of a parameter


class MLflow(Logger):
    """MLflow: metrics at every step, the configuration as parameters, pictures as artifacts, the result as metrics.

    MLFLOW_TRACKING_URI, or a database in the current folder. A run that is resumed goes on as the same run of MLflow,
    wherever it is resumed from; steps that MLflow has already are not logged twice, and settings that have changed,
    which MLflow's parameters cannot, become tags "resumed.<key>". A server that does not answer is given up after one
    more try of timeout_s, unless MLFLOW_HTTP_REQUEST_MAX_RETRIES and MLFLOW_HTTP_REQUEST_TIMEOUT say otherwise.

    Args:
        experiment: of the run, made where there is none of that name.
        name: of the run; None for its folder's.
        tracking_uri: None for MLFLOW_TRACKING_URI, and without one sqlite:///mlflow.db in the current folder.
        timeout_s: how long a server may take to answer, in seconds, ≥ 1.
    """

    name = extra = "mlflow"

    def __init__(
        self,
        experiment: str = "neo",
        name: str | None = None,
        tracking_uri: str | None = None,
        timeout_s: int = 10,
    ) -> None:
        if timeout_s < 1:
            raise ValueError(
                f"MLflow: timeout_s={timeout_s} is invalid; choose a number of seconds of 1 or more."
            )
        self.experiment, self.run_name, self.tracking_uri = experiment, name, tracking_uri
        self.timeout_s = timeout_s
        self._client: Any = None
        self._run_id = ""
        self._uri = ""
        self._last = 0  # step that MLflow has already

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        # Its own retries take minutes, and what it reports of its use goes online.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(self.timeout_s))
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # or it tells of every table that it makes
        from mlflow import MlflowClient

        note = folder / NOTE
        known = json.loads(note.read_text(encoding="utf-8")) if resumed and note.exists() else None
        self._uri = known["tracking_uri"] if known else self._tracking_uri()
        database = _file_of(self._uri)
        # It makes its tables as if nobody else did at the same time; arms of a sweep do, and broke them.
        with lock_file(database) if database else contextlib.nullcontext():
            self._client = MlflowClient(tracking_uri=self._uri)
        if known:
            self._run_id = known["run_id"]
            self._client.update_run(self._run_id, status="RUNNING")
            self._last = self._last_step()
        else:
            self._run_id = self._client.create_run(
                self._experiment_id(folder), run_name=self.run_name or folder.name
            ).info.run_id
            write_json(note, {"tracking_uri": self._uri, "run_id": self._run_id})
        self._log_settings(config)

    def destination(self) -> str | None:
        return f"run {self._run_id}; mlflow ui --backend-store-uri {shlex.quote(self._uri)}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step > self._last:
            self._log_metrics(step, metrics)

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        scores = {key: value for key, value in result.items() if key.startswith("test/")}
        self._log_metrics(result.get("iterations", 0), scores)
        for path in pictures.values():
            self._client.log_artifact(self._run_id, str(path), "plots")
        self._end("FINISHED")

    def close(self) -> None:
        if self._client is not None:
            self._end("FAILED")

    def _end(self, status: str) -> None:
        client, self._client = self._client, None
        client.set_terminated(self._run_id, status)

    def _tracking_uri(self) -> str:
        return (
            self.tracking_uri
            or os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{Path.cwd() / DATABASE}"  # absolute, for a run that is resumed from elsewhere
        )

    def _experiment_id(self, folder: Path) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        database = _file_of(self._uri)
        artifacts = str(database.absolute().parent / "mlartifacts") if database else None
        try:
            return self._client.create_experiment(self.experiment, artifact_location=artifacts)
        except MlflowException:  # another arm of a sweep was faster
            return self._client.get_experiment_by_name(self.experiment).experiment_id

    def _last_step(self) -> int:
        history = self._client.get_metric_history(self._run_id, "train/loss")
        return max((metric.step for metric in history), default=0)

    def _log_settings(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        logged = self._client.get_run(self._run_id).data.params
        settings = {key: str(value)[:LONGEST] for key, value in flat(config).items()}
        changed = {key: value for key, value in settings.items() if logged.get(key, value) != value}
        new = [Param(key, value) for key, value in settings.items() if key not in logged]
        for params in _chunks(new, MOST_PARAMS):
            self._client.log_batch(self._run_id, params=params)
        if changed:
            tags = [RunTag(f"resumed.{key}", value) for key, value in changed.items()]
            self._client.log_batch(self._run_id, tags=tags)

    def _log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        self._client.log_batch(
            self._run_id, [Metric(key, value, now_ms, step) for key, value in numbers.items()]
        )


def _file_of(uri: str) -> Path | None:
    """The file of a sqlite database; None for another kind of store."""
    path = uri.removeprefix("sqlite:///")
    return Path(path) if path not in (uri, "", ":memory:") else None


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
