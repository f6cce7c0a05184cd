"""TensorBoard: what a run leaves there, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy
import pytest
from PIL import Image

from meta.experiment import Experiment
from meta.loggers import Loggers, TensorBoard
from meta.metrics_file import read_metrics
from meta.resume import resumed_config
from tests.meta.runs import train
from tests.meta.test_run import tiny

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="tensorboard is not installed; pip install 'neo-meta[tensorboard]'",
)
plugin_data_pb2 = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")


def read(folder: Path):
    accumulator = event_accumulator.EventAccumulator(
        str(folder / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}
    )
    return accumulator.Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = read(folder)
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.jsonl, in the float32 that TensorBoard keeps."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(folder / "metrics.jsonl"):
        for key, value in line.items():
            if key != "step":
                found.setdefault(key, []).append((line["step"], float(numpy.float32(value))))
    return found


def of_training(found: dict) -> dict:
    return {key: value for key, value in found.items() if not key.startswith("test/")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(tiny("logger=tensorboard"), folder)


def test_metrics_and_result_are_those_of_the_run(finished):
    folder, result = finished
    found = scalars(folder)
    assert of_training(found) == logged(folder)
    assert len(found["val/accuracy"]) == 2
    for key in ("test/accuracy", "test/ci95", "test/loss"):
        assert found[key] == [(4, pytest.approx(result[key], rel=1e-6))]


def test_pictures_are_those_of_the_run(finished):
    folder, _ = finished
    found = read(folder)
    assert sorted(found.Tags()["images"]) == ["learning_curve", "tasks"]
    for name in ("learning_curve", "tasks"):
        (event,) = found.Images(name)
        shown = numpy.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
        drawn = numpy.asarray(Image.open(folder / "plots" / f"{name}.png").convert("RGB"))
        assert event.step == 4
        assert (shown == drawn).all()


def test_configuration_is_there_as_text_and_as_hyperparameters(finished):
    folder, _ = finished
    found = read(folder)
    (event,) = found.Tensors("config/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert json.loads(text.removeprefix("```json\n").removesuffix("\n```"))["task"]["ways"] == 3
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["task.ways"].number_value == 3
    assert settings["model.ways"].number_value == 3  # a reference, resolved
    assert settings["algorithm.first_order"].bool_value is False
    assert settings["algorithm._target_"].string_value == "meta.MAML"
    content = found.SummaryMetadata("_hparams_/experiment").plugin_data.content
    shown = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.metric_infos
    assert "test/accuracy" in {info.name.tag for info in shown}


def test_resumed_run_goes_on_in_the_same_folder_with_each_step_once(tmp_path, monkeypatch):
    class Killing(TensorBoard):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "logger", Loggers([Killing()]))
        with pytest.raises(KeyboardInterrupt):
            train(tiny("logger=tensorboard"), tmp_path)
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3]  # all that had been logged
    train(resumed_config(tmp_path, {}), tmp_path, resume=True)
    assert of_training(scalars(tmp_path)) == logged(tmp_path)
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3, 4]


def test_metric_that_is_not_finite_is_shown_as_such(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    logger = TensorBoard()
    logger.start(tmp_path, {"a": {"b": [1, None]}}, resumed=False)
    logger.log(1, {"train/loss": float("nan")})
    logger.finish({"iterations": 1, "test/accuracy": None}, {})
    ((step, value),) = scalars(tmp_path)["train/loss"]
    assert step == 1
    assert value != value
