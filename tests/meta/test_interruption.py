"""Signals: the first ends a run between two steps, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import torch

from meta.checkpoint import Checkpoints
from meta.experiment import Experiment
from meta.interruption import Interrupted, Interruptions
from meta.loggers import Logger
from meta.metrics_file import read_metrics
from meta.resume import resumed_config
from meta.trainer import Trainer
from neo.optim import sgd
from tests.meta.runs import train
from tests.meta.test_run import assert_same_run, tiny
from tests.meta.toy import Pull, TargetSampler


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """As in a terminal: a shell starts what runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_raises_and_says_which(number):
    with Interruptions(), pytest.raises(Interrupted) as caught:
        send(number)
    assert caught.value.number == number
    assert isinstance(caught.value, KeyboardInterrupt)


def test_patience_notes_the_first_signal_and_gives_way_to_the_second():
    with Interruptions() as interruptions, interruptions.patiently():
        send(signal.SIGTERM)
        assert interruptions.caught == signal.SIGTERM
        with pytest.raises(Interrupted):
            send(signal.SIGINT)


def test_handlers_are_what_they_were_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruptions():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruptions():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interruptions():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_fit_stops_after_the_step_at_hand():
    loop = Trainer(Pull(), sgd(0.1), iterations=9, meta_batch=2, val_every=0)
    answers = iter([False, False, True])
    state = loop.fit(TargetSampler(), loop.start(), stop=lambda: next(answers))
    assert state.step == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_told_to_stop_keeps_its_step_and_goes_on_from_there(tmp_path, monkeypatch, number):
    class Asking(Logger):
        def log(self, step, metrics):
            if step == 3:
                send(number)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(tiny(), whole)
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "logger", Asking())
        with pytest.raises(Interrupted, match=signal.Signals(number).name):
            train(tiny(), stopped)
    assert [line["step"] for line in read_metrics(stopped / "metrics.jsonl")] == [1, 2, 3]
    assert Checkpoints(stopped / "checkpoints").last().name == "step-00000003.safetensors"
    train(resumed_config(stopped, {}), stopped, resume=True)
    assert_same_run(whole, stopped)


def test_run_that_is_told_to_stop_in_its_test_can_be_tested_later(tmp_path, monkeypatch):
    sound = Experiment.evaluate

    def interrupted(self, params, sampler, tasks, **options):
        if sampler.part == "test":
            send(signal.SIGTERM)
        return sound(self, params, sampler, tasks, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "evaluate", interrupted)
        with pytest.raises(Interrupted):
            train(tiny(), tmp_path)
    assert not (tmp_path / "result.json").exists()
    result = train(resumed_config(tmp_path, {}), tmp_path, resume=True)
    assert result["iterations"] == 4
    assert torch.isfinite(torch.tensor(result["test/accuracy"]))
