"""wandb: what a run leaves there, read back with wandb's own reader, and what happens where there is no network."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meta.loggers import Wandb
from meta.loggers.wandb import has_key
from meta.metrics_file import read_metrics
from meta.resume import resumed_config
from tests.meta.loggers.wandb_server import serve
from tests.meta.runs import train
from tests.meta.test_run import tiny

wandb = pytest.importorskip("wandb", reason="wandb is not installed; pip install 'neo-meta[wandb]'")

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # wandb leaves a Popen

ROOT = Path(__file__).parents[3]
KEY = "k" * 40


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user whom wandb has never met."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    wandb.teardown()  # or the next test would meet this one's settings


def records(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Every record of the one run in a folder, as `wandb leet inspect` reads it."""
    (path,) = (folder / "wandb").glob(f"{pattern}/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in printed.splitlines()]


def history(read: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in read if record["type"] == "history"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("meta.loggers")]


def dead_end() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.mark.slow
def test_offline_run_holds_config_metrics_images_and_result(tmp_path):
    result = train(tiny("logger=wandb"), tmp_path)
    read = records(tmp_path, "offline-run-*")
    (run,) = [record["run"] for record in read if record["type"] == "run"]
    config = run["config"]["update"]
    assert (config["task"]["ways"], config["model"]["ways"], config["seed"]) == (
        3,
        3,
        0,
    )  # references resolved
    logged = history(read)
    for line in read_metrics(tmp_path / "metrics.jsonl"):
        (row,) = [row for row in logged if row["_step"] == line["step"] and "train/loss" in row]
        assert {key: row[key] for key in line if "/" in key} == {key: line[key] for key in line if "/" in key}
    (last,) = [row for row in logged if "tasks.path" in row]
    for name in ("tasks", "learning_curve"):
        assert last[f"{name}._type"] == "image-file"
        image = next((tmp_path / "wandb").glob(f"offline-run-*/files/{last[f'{name}.path']}"))
        assert image.read_bytes() == (tmp_path / "plots" / f"{name}.png").read_bytes()
    summary: dict[str, Any] = {}
    for record in read:
        summary |= record["summary"]["update"] if record["type"] == "summary" else {}
    assert summary["test/accuracy"] == result["test/accuracy"]
    assert [record["exit"]["exit_code"] for record in read if record["type"] == "exit"] == [0]


def test_resumed_run_goes_on_under_its_own_id(tmp_path):
    train(tiny("logger=wandb"), tmp_path)
    train(resumed_config(tmp_path, {"trainer.iterations": 6}), tmp_path, resume=True)
    own = (tmp_path / "wandb" / "run-id").read_text().strip()
    files = [path.name for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb")]
    assert files == [f"run-{own}.wandb"] * 2  # the folders' names end in a number within one second


def test_failed_run_is_closed_as_failed(tmp_path):
    with pytest.raises(RuntimeError, match="step 1"):
        train(tiny("logger=wandb", "algorithm.inner_lr=1e38"), tmp_path)
    read = records(tmp_path, "offline-run-*")
    assert [record["exit"]["exit_code"] for record in read if record["type"] == "exit"] == [1]


def test_run_goes_online_with_a_key(tmp_path, monkeypatch, caplog):
    with serve() as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        train(tiny("logger=wandb"), tmp_path)
    assert not warnings(caplog)
    assert server.configs[0]["task"]["value"]["ways"] == 3
    assert {row["_step"] for row in server.history if "train/loss" in row} == {1, 2, 3, 4}


@pytest.mark.parametrize("silent", [False, True])
def test_run_is_kept_offline_where_the_network_is_dead(tmp_path, monkeypatch, caplog, silent):
    with socket.create_server(("127.0.0.1", 0)) as hole:  # takes calls, and never says a word
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        port = hole.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}" if silent else dead_end())
        began = time.monotonic()
        logger = Wandb(timeout_s=1)
        logger.start(tmp_path, {"seed": 7}, resumed=False)
        assert time.monotonic() - began < 8
        logger.log(1, {"train/loss": 0.5})
        logger.finish({"test/accuracy": 0.75}, {})
    (warning,) = warnings(caplog)
    assert warning.startswith("wandb could not go online (CommError: ")
    assert warning.endswith("; it keeps the run offline.")
    read = records(tmp_path, "offline-run-*")
    assert history(read)[0]["train/loss"] == 0.5
    assert next(record["run"] for record in read if record["type"] == "run")["config"]["update"]["seed"] == 7


def test_network_that_dies_on_the_way_holds_the_end_up_no_longer_than_told(tmp_path, monkeypatch, caplog):
    with serve() as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        logger = Wandb(timeout_s=2)
        logger.start(tmp_path, {}, resumed=False)
        logger.log(1, {"train/loss": 0.5})
        server.stop()
        began = time.monotonic()
        for step in range(2, 200):
            logger.log(step, {"train/loss": 1 / step})
        assert time.monotonic() - began < 2
        logger.finish({"test/accuracy": 0.75}, {})
        assert time.monotonic() - began < 10
    (warning,) = warnings(caplog)
    assert warning.startswith("wandb could not send all within 2 s; what is left: wandb sync ")
    assert (Path(warning.rpartition(" ")[2]) / "files").is_dir()
    assert {row["_step"] for row in history(records(tmp_path, "run-*-*"))} >= set(
        range(1, 200)
    )  # nothing is lost


@pytest.mark.parametrize(
    ("host", "base_url"), [("api.wandb.ai", None), ("wandb.example.org", "https://wandb.example.org:8080/")]
)
def test_key_is_found_in_netrc(tmp_path, monkeypatch, host, base_url):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if base_url:
        monkeypatch.setenv("WANDB_BASE_URL", base_url)
    assert not has_key()
    (tmp_path / "netrc").write_text(f"machine elsewhere.example login user password {KEY}\n")
    assert not has_key()
    (tmp_path / "netrc").write_text(f"machine {host} login user password {KEY}\n")
    assert has_key()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [{}, {"WANDB_MODE": "online"}])
def test_nothing_is_asked_on_a_terminal(tmp_path, mode):
    """Without a key, wandb itself would ask for one there."""
    terminal, end = pty.openpty()
    code = """if True:
        from pathlib import Path
        from meta.loggers import Wandb
        logger = Wandb()
        logger.start(Path("."), {}, False)
        logger.close()
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **mode}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdin=end, stdout=end, stderr=end
    )
    os.close(end)
    printed, patience = b"", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < patience:
        if select.select([terminal], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # at the end of the process, that of the terminal
                printed += os.read(terminal, 4096)
    process.kill()
    os.close(terminal)
    assert process.wait() == 0, printed
    assert b"(1) Create" not in printed
    assert list((tmp_path / "wandb").glob("offline-run-*"))
