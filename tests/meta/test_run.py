"""A run and its folder: repeatable, resumable, and whole in what it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

import tasks
from meta import experiment, machine
from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.evaluate_run import evaluate_run
from meta.files import lock_dir
from meta.interruption import Stopped
from meta.loggers import Logger
from meta.metrics_file import read_metrics
from meta.outcome import sentence
from meta.resume import resumed_config
from meta.tables import results
from tests.meta.runs import train

TINY = [
    "task.dataset.alphabets=4",
    "task.dataset.characters=6",
    "task.ways=3",
    "task.queries=2",
    "model.hidden=4",
    "trainer.meta_batch=2",
    "trainer.iterations=4",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
    "trainer.val_every=2",
    "trainer.val_tasks=3",
    "evaluation.tasks=5",
    "device=cpu",
]


def tiny(*overrides: str) -> DictConfig:
    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", [*TINY, *overrides])


def numbers(folder: Path) -> list[dict]:
    """The metrics without the one thing that may differ, time."""
    return [
        {k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder / "metrics.jsonl")
    ]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(Checkpoints(folder / "checkpoints").last())


def assert_same_run(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    assert tensors(one).keys() == tensors(other).keys()
    for name, tensor in tensors(one).items():
        assert torch.equal(tensor, tensors(other)[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(tiny(), folder)
    return folder


def test_run_leaves_the_whole_folder(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert names == {
        "checkpoints/best.safetensors",
        "checkpoints/step-00000000.safetensors",
        "checkpoints/step-00000002.safetensors",
        "checkpoints/step-00000004.safetensors",
        "metrics.jsonl",
        "plots/learning_curve.png",
        "plots/tasks.png",
        "record.json",
        "result.json",
        "test.safetensors",
    }


def test_metrics_have_a_line_for_each_logged_step(finished):
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "val/accuracy" in line] == [2, 4]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert all(0 <= line["train/accuracy"] <= 1 and line["train/loss"] > 0 for line in lines)


def test_result_has_the_accuracy_with_its_protocol(finished):
    result = json.loads((finished / "result.json").read_text())
    assert 0 <= result["test/accuracy"] <= 1
    assert result["test/ci95"] >= 0
    assert (result["test/tasks"], result["iterations"], result["seed"]) == (5, 4, 0)
    assert result["seconds"] > 0
    protocol = result["protocol"]
    assert (protocol["ways"], protocol["shots"], protocol["queries"]) == (3, 1, 2)
    assert protocol["test_inner_steps"] == protocol["inner_steps"] == 1
    assert protocol["inner_reduction"] == "mean"
    assert protocol["split"] == result["data"]["split"]


def test_checkpoint_carries_the_resolved_config(finished):
    header = read_header(Checkpoints(finished / "checkpoints").last())
    assert header["config"]["model"]["ways"] == 3
    assert header["config"]["task"]["seed"] == 0


def test_same_seed_gives_the_same_run_bit_for_bit(finished, tmp_path):
    train(tiny(), tmp_path)
    assert_same_run(finished, tmp_path)
    results = [json.loads((folder / "result.json").read_text()) for folder in (finished, tmp_path)]
    assert results[0]["test/accuracy"] == results[1]["test/accuracy"]


def test_another_seed_gives_another_run_on_the_same_test_tasks(finished, tmp_path):
    train(tiny("seed=1"), tmp_path)
    assert numbers(finished)[0]["train/loss"] != numbers(tmp_path)[0]["train/loss"]
    test = [experiment.Experiment(tiny(seed)).sampler("test").sample(0, 3) for seed in ("seed=0", "seed=1")]
    assert torch.equal(test[0].query.x, test[1].query.x)
    training = [
        experiment.Experiment(tiny(seed)).sampler("train").sample(0, 3) for seed in ("seed=0", "seed=1")
    ]
    assert not torch.equal(training[0].query.x, training[1].query.x)


def test_arms_with_one_seed_meet_the_same_training_tasks():
    arms = [
        experiment.Experiment(tiny(arm)).sampler("train").sample(3, 2)
        for arm in ("algorithm=maml", "algorithm=fomaml")
    ]
    assert torch.equal(arms[0].support.x, arms[1].support.x)


@pytest.mark.parametrize("stop", [3, 4])
def test_resumed_run_equals_the_uninterrupted_one(finished, tmp_path, stop):
    """Stopped after the log of a step by what a kill leaves: later metrics, but no later checkpoint."""

    class Killed(BaseException):
        pass

    class KillingLogger(Logger):
        def log(self, step, metrics):
            if step == stop:
                raise Killed

    config = tiny()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment.Experiment, "logger", KillingLogger())
        with pytest.raises(Killed):
            train(config, tmp_path)
    assert [line["step"] for line in numbers(tmp_path)] == list(range(1, stop + 1))
    assert not (tmp_path / "result.json").exists()
    train(resumed_config(tmp_path, {}), tmp_path, resume=True)
    assert_same_run(finished, tmp_path)


def test_run_that_is_told_to_stop_keeps_its_checkpoint_says_why_and_can_be_resumed(finished, tmp_path):
    seen = []

    def validated(step: int, score: float) -> str | None:
        seen.append((step, score))
        return "far behind"

    with pytest.raises(Stopped, match="far behind"):
        train(tiny("trainer.checkpoint_every=3"), tmp_path, validated=validated)
    assert seen == [
        (line["step"], line["val/accuracy"]) for line in numbers(tmp_path) if "val/accuracy" in line
    ]
    assert [step for step, _ in seen] == [2]
    assert json.loads((tmp_path / "stopped.json").read_text()) == {"reason": "far behind", "iterations": 2}
    assert Checkpoints(tmp_path / "checkpoints").last().name == "step-00000002.safetensors"
    assert not (tmp_path / "result.json").exists()
    # At the last step there is nothing left to stop.
    train(resumed_config(tmp_path, {}), tmp_path, resume=True, validated=validated)
    assert [step for step, _ in seen] == [2, 4]
    assert not (tmp_path / "stopped.json").exists()
    assert_same_run(finished, tmp_path)


def test_resumed_run_with_batched_tasks_equals_the_uninterrupted_one(tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny("batched=true"), whole)
    train(tiny("batched=true", "trainer.iterations=2"), run)
    train(resumed_config(run, {"trainer.iterations": 4}), run, resume=True)
    assert_same_run(whole, run)


def test_run_refuses_a_folder_that_holds_a_run_and_leaves_it_alone(finished):
    before = numbers(finished)
    with pytest.raises(FileExistsError):
        train(tiny("seed=3"), finished)
    assert numbers(finished) == before
    assert json.loads((finished / "result.json").read_text())["seed"] == 0


def test_run_that_another_process_is_writing_is_not_resumed(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = (folder / "metrics.jsonl").read_bytes()
    config = resumed_config(folder, {"trainer.iterations": 6})
    with (
        lock_dir(folder),
        pytest.raises(BlockingIOError, match=r"run is being written by process \d+ on .* alive"),
    ):
        train(config, folder, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == before
    train(config, folder, resume=True)  # once it has left


def test_split_for_testing_is_touched_once_and_at_the_end(tmp_path, monkeypatch):
    """Built before training, so that a task it cannot hold is refused at once; drawn from when training is over."""
    drawn: list[tuple[str, int, list[int]]] = []
    logged: list[int] = []
    sample = tasks.EpisodeSampler.sample

    def seen(self, iteration, slots):
        drawn.append((self.part, len(logged), list(range(slots)) if isinstance(slots, int) else list(slots)))
        return sample(self, iteration, slots)

    class Counting(Logger):
        def log(self, step, metrics):
            logged.append(step)

    monkeypatch.setattr(tasks.EpisodeSampler, "sample", seen)
    monkeypatch.setattr(experiment.Experiment, "logger", Counting())
    train(tiny(), tmp_path)
    parts = [part for part, _, _ in drawn]
    first = parts.index("test")
    assert set(parts[first:]) == {"test"}
    assert {steps for part, steps, _ in drawn if part == "test"} == {4}
    tested = [slots for part, _, slots in drawn if part == "test"]
    assert tested[0] == list(range(5))
    assert all(
        set(slots) <= set(tested[0]) for slots in tested[1:]
    )  # the pictures are of tasks that were tested
    assert {part for part, steps, _ in drawn if steps < 4} == {"train", "val"}


def test_resume_of_a_finished_run_gives_its_result_without_testing_again(finished, monkeypatch):
    monkeypatch.setattr(
        experiment.Experiment,
        "evaluate",
        lambda *arguments, **settings: pytest.fail("the test split was touched"),
    )
    result = train(resumed_config(finished, {}), finished, resume=True)
    assert result == json.loads((finished / "result.json").read_text())


def test_run_killed_between_its_first_files_can_be_resumed(finished, tmp_path):
    """The first checkpoint is written before metrics.jsonl, so that no moment leaves a run that cannot go on."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(finished / "checkpoints" / "step-00000000.safetensors", tmp_path / "checkpoints")
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(tiny(), tmp_path)
    train(resumed_config(tmp_path, {}), tmp_path, resume=True)
    assert_same_run(finished, tmp_path)


def test_checkpoint_carries_its_seeds_and_the_checksum_of_the_data(finished):
    header = read_header(Checkpoints(finished / "checkpoints").last())
    assert header["seeds"] == {"seed": 0, "task": 0, "evaluation": 0}
    assert header["data"]["checksum"] == experiment.Experiment(tiny()).dataset.checksum


def test_logger_may_change_when_a_run_is_resumed(finished):
    other = OmegaConf.create({"_target_": "meta.loggers.Wandb", "project": "else"})
    assert resumed_config(finished, {"logger": other}).logger == other
    assert resumed_config(finished, {"logger": tiny().logger}).logger == tiny().logger


def test_resume_on_other_data_is_refused(finished):
    with pytest.raises(
        CheckpointError, match=r"is of a run on other data: split was .*seed=0.*here it is .*seed=5"
    ):
        train(
            resumed_config(finished, {"task.dataset.seed": 5, "trainer.iterations": 9}), finished, resume=True
        )


def test_evaluate_run_repeats_the_final_test(finished):
    evaluation = evaluate_run(finished, tasks=5)
    assert evaluation["test/accuracy"] == json.loads((finished / "result.json").read_text())["test/accuracy"]
    assert evaluation == json.loads((finished / "evaluation.json").read_text())
    (finished / "evaluation.json").unlink()


def test_evaluate_run_says_the_protocol_that_it_used(finished):
    evaluation = evaluate_run(
        finished, tasks=2, which="best", part="val", overrides={"evaluation.inner_steps": 3}
    )
    assert evaluation["checkpoint"] == "best.safetensors"
    assert (evaluation["protocol"]["test_inner_steps"], evaluation["protocol"]["inner_steps"]) == (3, 1)
    assert evaluation["protocol"]["test_tasks"] == evaluation["val/tasks"] == 2
    (finished / "evaluation.json").unlink()


def test_evaluate_run_says_so_when_there_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint that can be read"):
        evaluate_run(tmp_path, tasks=2)
    assert not (tmp_path / "evaluation.json").exists()


def test_diverging_run_keeps_what_it_has_written(tmp_path):
    with pytest.raises(RuntimeError, match=r"step \d+: .* try a smaller algorithm\.inner_lr or optimizer.lr"):
        train(tiny("optimizer.lr=1e30", "trainer.checkpoint_every=1"), tmp_path)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")][:1] == [1]
    assert read_header(Checkpoints(tmp_path / "checkpoints").last())["step"] >= 1


@pytest.mark.slow
def test_finished_run_made_longer_is_the_longer_run(tmp_path):
    """Also where it ended between two validations; that end stays in its log, and its result under its own name."""
    often = ("trainer.log_every=2", "trainer.iterations=6")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny(*often), whole)
    train(tiny(*often, "trainer.iterations=3"), run)
    short = (run / "result.json").read_bytes()
    with pytest.raises(Stopped):
        train(
            resumed_config(run, {"trainer.iterations": 6}),
            run,
            resume=True,
            validated=lambda step, score: "enough",
        )
    assert not (run / "result.json").exists()
    assert results(run)["status"].tolist() == ["stopped"]
    train(resumed_config(run, {}), run, resume=True)
    assert [line for line in numbers(run) if line["step"] != 3] == numbers(whole)
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor, tensors(run)[name]), name
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (run, whole))
    assert ours["test/loss"] == theirs["test/loss"]
    assert ours["protocol"] == theirs["protocol"]
    assert (run / "result-00000003.json").read_bytes() == short
    assert (run / "test-00000003.safetensors").exists()


@pytest.mark.parametrize("optimizer", ["adam_cosine", "adam_warmup"])
def test_a_schedule_over_the_length_of_a_run_keeps_it_from_being_made_longer(optimizer, tmp_path):
    rate = ["optimizer.lr.warmup_steps=1"] if optimizer == "adam_warmup" else []
    with pytest.raises(Stopped):
        train(tiny(f"optimizer={optimizer}", *rate), tmp_path, validated=lambda step, score: "enough")
    said = r"trainer\.iterations=8 makes optimizer\.lr\.steps 8, and it was 4 .* a new run with init_from="
    with pytest.raises(CheckpointError, match=said):
        resumed_config(tmp_path, {"trainer.iterations": 8})


SINUSOID = [
    "task=sinusoid",
    "model._args_=[1,8,1]",
    "algorithm.inner_lr=0.01",
    "task.test_queries=20",
    "trainer.meta_batch=2",
    "trainer.iterations=4",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
    "trainer.val_every=2",
    "trainer.val_tasks=3",
    "evaluation.tasks=5",
    "device=cpu",
]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", list(overrides))


def test_regression_run_reports_an_error_and_keeps_the_smallest(tmp_path):
    result = train(composed(*SINUSOID), tmp_path)
    assert result["test/mse"] == pytest.approx(result["test/loss"])
    assert result["test/chance"] == pytest.approx(4.2517, abs=1e-4)
    assert result["protocol"]["queries"] == 10
    assert result["protocol"]["test_queries"] == 20
    assert sentence(result).startswith(f"test mse {result['test/mse']:.3f} ± ")
    errors = {line["step"]: line["val/mse"] for line in numbers(tmp_path) if "val/mse" in line}
    best = read_header(Checkpoints(tmp_path / "checkpoints").best())
    assert best["val/mse"] == min(errors.values()) == errors[best["step"]]
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"learning_curve", "tasks"}


@pytest.mark.parametrize("algorithm", ["anil", "meta_sgd", "reptile"])
def test_every_algorithm_resumes_and_is_evaluated_whatever_its_meta_parameters(algorithm, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    arm = [f"algorithm={algorithm}", "evaluation.inner_steps=2"]
    train(tiny(*arm), whole)
    train(tiny(*arm, "trainer.iterations=2"), halves)
    train(resumed_config(halves, {"trainer.iterations": 4}), halves, resume=True)
    assert tensors(whole).keys() == tensors(halves).keys()
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor, tensors(halves)[name]), name
    rates = {name for name in tensors(whole) if name.startswith("params.rates.")}
    assert bool(rates) == (algorithm == "meta_sgd")
    evaluation = evaluate_run(whole, tasks=5)
    assert evaluation["test/accuracy"] == json.loads((whole / "result.json").read_text())["test/accuracy"]


def test_run_without_a_picture_draws_its_curve_alone(tmp_path):
    train(tiny("task.picture=null", "trainer.iterations=1"), tmp_path)
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"learning_curve"}


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99"])
def test_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=rf"device='?{device}'? ?.*choose device="):
        machine.resolve_device(device)


def test_batch_norm_policy_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"unknown evaluation\.batch_norm='running'"):
        experiment.Experiment(tiny("evaluation.batch_norm=running"))


def test_fewer_ways_in_the_test_are_tested_as_evaluate_run_tests_them(tmp_path):
    """One protocol gives one number: of fewer ways, as if the head had been made so small."""
    result = train(tiny("task.ways=4", "task.test_ways=2"), tmp_path)
    assert result["test/chance"] == 0.5
    again = evaluate_run(tmp_path, tasks=5)
    assert (again["test/accuracy"], again["test/loss"]) == (result["test/accuracy"], result["test/loss"])


def test_more_ways_in_the_test_than_the_model_has_outputs_are_refused_before_training(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"model.ways=3 .* gives predictions \(10, 3\) .* do not fit the targets of these tasks",
    ):
        train(tiny("task.test_ways=5"), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_trainer_of_a_users_own_configuration_has_its_defaults(tmp_path):
    config = tiny()
    OmegaConf.set_struct(config, False)
    for key in ("keep", "keep_best", "capture"):
        del config.trainer[key]
    train(config, tmp_path)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 3
    assert evaluate_run(tmp_path, tasks=2, which="ensemble")["test/tasks"] == 2
