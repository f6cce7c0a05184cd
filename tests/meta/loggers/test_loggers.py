"""Watching a run must neither stop it nor ask anything of it."""

from __future__ import annotations

import sys

import pytest
from omegaconf import OmegaConf

from meta import loggers
from meta.cli.configs import composed
from meta.cli.overrides import ConfigError, check, groups, parse
from meta.experiment import Experiment
from meta.loggers import CSV, Logger, Loggers, MLflow, TensorBoard, Wandb
from tests.meta.runs import train
from tests.meta.test_run import numbers, tiny

OPTIONAL = {
    "mlflow": (MLflow, "mlflow"),
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (Wandb, "wandb"),
}


class Recording(Logger):
    """Remembers what it was asked; fails at one call."""

    name = "recording"

    def __init__(self, fails_at: str | None = None) -> None:
        self.fails_at, self.asked = fails_at, []

    def _ask(self, what):
        self.asked.append(what)
        if what == self.fails_at:
            raise ConnectionError("no route\nto host")

    def start(self, folder, config, resumed):
        self._ask("start")

    def log(self, step, metrics):
        self._ask("log")

    def finish(self, result, pictures):
        self._ask("finish")

    def close(self):
        self._ask("close")


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path_factory):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("meta.loggers")]


@pytest.mark.parametrize("choice", OPTIONAL)
def test_package_that_is_not_installed_costs_one_warning(tmp_path, monkeypatch, caplog, choice):
    package = OPTIONAL[choice][1]
    for module in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)  # makes the import fail
    for module in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)  # so that it is imported again
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    result = train(tiny(f"logger={choice}"), run)
    assert warnings(caplog) == [
        f"{choice} could not start ({package} is not installed; pip install 'neo-meta[{choice}]'); the run goes on "
        "without it."
    ]
    assert result["iterations"] == 4
    assert (run / "result.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("moment", ["start", "log", "finish", "close"])
def test_logger_that_fails_is_asked_no_more_and_the_others_go_on(tmp_path, caplog, monkeypatch, moment):
    failing, other = Recording(moment), Recording()
    monkeypatch.setattr(Experiment, "logger", Loggers([failing, other]))
    train(tiny(), tmp_path)
    assert warnings(caplog) == [
        f"recording could not {moment} (ConnectionError: no route to host); the run goes on without it."
    ]
    assert failing.asked[-1] == moment
    assert failing.asked.count(moment) == 1
    assert other.asked == ["start", "log", "log", "log", "log", "finish", "close"]


def test_run_that_fails_closes_its_loggers(tmp_path, monkeypatch):
    seen = Recording()
    monkeypatch.setattr(Experiment, "logger", Loggers([seen]))
    with pytest.raises(RuntimeError, match="step 1"):
        train(tiny("algorithm.inner_lr=1e38"), tmp_path)
    assert seen.asked == ["start", "close"]


def test_loggers_change_no_number_of_a_run(tmp_path, monkeypatch):
    train(tiny(), tmp_path / "plain")
    monkeypatch.chdir(tmp_path)
    train(tiny("logger=[csv,tensorboard]"), tmp_path / "logged")
    assert numbers(tmp_path / "logged") == numbers(tmp_path / "plain")


# --- the configuration --------------------------------------------------------------------------------------------


def classes(*overrides: str) -> list[type]:
    return [type(logger) for logger in Experiment(composed("train", overrides)).logger._loggers]


def test_every_class_has_a_choice_of_its_own():
    found = {one for choice in groups()["logger"] for one in classes(f"logger={choice}")}
    assert found == {getattr(loggers, name) for name in loggers.__all__} - {Loggers}
    assert classes() == [Logger]


def test_several_loggers_are_a_list_of_choices():
    assert classes("logger=[wandb,csv]", "logger.wandb.project=mine") == [Wandb, CSV]
    check("train", parse(["logger=[wandb,csv]", "logger.wandb.project=mine"]), False)
    check("train", parse(["logger=[wandb,csv],csv"]), True)


def test_choice_that_is_none_is_refused_in_a_list_too():
    with pytest.raises(ConfigError, match=r"invalid logger 'cvs'; did you mean csv\?"):
        check("train", parse(["logger=[wandb,cvs]"]), False)
    with pytest.raises(ConfigError, match="invalid task"):
        check("train", parse(["task=[glyphs,omniglot]"]), False)


def test_key_of_one_logger_says_where_it_is_now():
    with pytest.raises(
        ConfigError, match=r"unknown key 'logger\.project'; its name is logger\.wandb\.project now"
    ):
        check("train", parse(["logger=wandb", "logger.project=mine"]), False)


def test_node_with_a_target_is_one_logger():
    config = composed("train")
    config.logger = OmegaConf.create({"_target_": "meta.loggers.Wandb", "project": "else"})
    (logger,) = Experiment(config).logger._loggers
    assert (type(logger), logger.project) == (Wandb, "else")
