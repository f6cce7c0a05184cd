"""MLflow: what a run leaves in its database, read back with MLflow's own client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meta.experiment import Experiment
from meta.loggers import Loggers, MLflow
from meta.metrics_file import read_metrics
from meta.resume import resumed_config
from tests.meta.runs import train
from tests.meta.test_run import tiny

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed; pip install 'neo-meta[mlflow]'")

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, about MLflow's tables


@pytest.fixture(autouse=True)
def _of_nobody(tmp_path, monkeypatch):
    """The current folder is an empty one, and no server is named."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")  # so that what the logger sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def runs(folder: Path, experiment: str = "neo"):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id])


def steps(client, run, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key))


def assert_logged(client, run, folder: Path) -> None:
    for key in ("train/loss", "train/accuracy", "val/accuracy", "seconds"):
        lines = read_metrics(folder / "metrics.jsonl")
        assert steps(client, run, key) == [(line["step"], line[key]) for line in lines if key in line]


def test_run_is_in_the_database_of_the_current_folder(tmp_path):
    result = train(tiny("logger=mlflow", "logger.mlflow.experiment=mine"), tmp_path / "first")
    client, (run,) = runs(tmp_path, "mine")
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert_logged(client, run, tmp_path / "first")
    assert run.data.metrics["test/accuracy"] == result["test/accuracy"]
    assert (run.data.params["task.ways"], run.data.params["model.ways"]) == ("3", "3")
    assert run.data.params["algorithm._target_"] == "meta.MAML"
    pictures = {Path(one.path).name for one in client.list_artifacts(run.info.run_id, "plots")}
    assert pictures == {"learning_curve.png", "tasks.png"}


def test_resumed_run_goes_on_as_the_same_run_from_another_folder(tmp_path, monkeypatch):
    class Killing(MLflow):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 3:
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "logger", Loggers([Killing()]))
        with pytest.raises(KeyboardInterrupt):
            train(tiny("logger=mlflow"), folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(resumed_config(folder, {"trainer.iterations": 6}), folder, resume=True)
    client, (run,) = runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in steps(client, run, "train/loss")] == [1, 2, 3, 4, 5, 6]
    lines = read_metrics(folder / "metrics.jsonl")
    assert [loss for _, loss in steps(client, run, "train/loss")] == [line["train/loss"] for line in lines]
    assert run.data.params["trainer.iterations"] == "4"
    assert run.data.tags["resumed.trainer.iterations"] == "6"
    assert not any((tmp_path / "elsewhere").iterdir())


def test_failed_run_is_closed_as_failed(tmp_path):
    with pytest.raises(RuntimeError, match="step 1"):
        train(tiny("logger=mlflow", "algorithm.inner_lr=1e38"), tmp_path / "run")
    _, (run,) = runs(tmp_path)
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("silent", [False, True])
def test_server_that_does_not_answer_costs_seconds_and_one_warning(tmp_path, monkeypatch, caplog, silent):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not silent:
            server.close()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        logger = Loggers([MLflow(timeout_s=1)])
        began = time.monotonic()
        logger.start(tmp_path, {"seed": 7}, resumed=False)
        assert time.monotonic() - began < 10
        logger.log(1, {"train/loss": 0.5})
        logger.close()
    (warning,) = [one.getMessage() for one in caplog.records if one.name.startswith("meta.loggers")]
    assert warning.startswith("mlflow could not start (MlflowException: ")


@pytest.mark.exhaustive
def test_processes_that_start_at_the_same_time_share_a_database(tmp_path):
    """As the arms of a parallel sweep do, before there are any tables."""
    code = """if True:
        import sys
        from pathlib import Path
        from meta.loggers import Loggers, MLflow
        folder = Path(sys.argv[1])
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("")
        logger = Loggers([MLflow()])
        logger.start(folder, {"a": 1}, False)
        logger.log(1, {"train/loss": 0.5})
        logger.finish({"iterations": 1}, {})
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    names = ["a", "b", "c"]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=tmp_path, env=environment) for name in names
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * len(names)
    client, found = runs(tmp_path)
    assert sorted(run.info.run_name for run in found) == names
    assert all(steps(client, run, "train/loss") == [(1, 0.5)] for run in found)
