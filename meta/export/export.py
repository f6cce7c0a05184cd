"""From a run's checkpoint to files that need torch alone, held against what Neo predicts."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import neo
from meta import checkpoint
from meta.experiment import Experiment
from meta.export.definition import define
from meta.export.support import read_support
from meta.files import atomic_write, write_json
from meta.learner import ModelPredictor, Step, as_predictor, seed_of
from meta.loading import checkpoint_paths, loaded
from meta.machine import versions
from meta.precision import computing
from meta.problems import constant
from meta.resume import expect_own
from meta.trained import Trained
from neo.nn import Module
from neo.typing import PyTree
from tasks import Batch

__all__ = ["FORMATS", "export_run"]

FORMATS = ("torch", "torch_export", "onnx")
NEEDED = ("onnx", "onnxscript")  # by torch.onnx.export
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-12}  # of the largest prediction


def export_run(
    folder: Path,
    *,
    which: str = "last",
    support: Path | None = None,
    slot: int | None = None,
    inner_steps: int | None = None,
    formats: Sequence[str] = ("torch",),
    out: Path | None = None,
) -> dict[str, Any]:
    """Write a run's model, as it was meta-learned or adapted to a support set, for torch without Neo.

    Leaves in `out`: model.py (the module's definition; load() gives it with its weights) and state_dict.pt; with
    torch_export model.pt2, with onnx model.onnx, each for any number of examples; export.json, which says what it is.

    Args:
        which: "last" or "best" checkpoint.
        support: adapt to this, see meta.export.support; at most one of support and slot.
        slot: adapt to the support set of this test task, as an evaluation of the run does.
        inner_steps: of adaptation; None: as an evaluation of the run takes.
        out: None: folder/export.
    Raises: ValueError for what cannot be exported, where the module's predictions are not those of Neo, or a
        package is missing that onnx needs; CheckpointError, DataError, OSError as meta.load has them.
    Cost: one adaptation, and one prediction by each.
    """
    _expect(formats, which, support, slot)
    (path,) = checkpoint_paths(folder, which)
    expect_own(folder, path)
    config = OmegaConf.create(checkpoint.read_header(path)["composed"])
    assert isinstance(config, DictConfig)
    config.device = "cpu"
    experiment = Experiment(config)
    trained = loaded(experiment, [path], which)
    drawn = experiment.sampler("test").sample(0, [slot or 0])[0]
    batch, names = drawn.support, None
    if support is not None:
        batch, names = read_support(support, drawn.support, config.task)
    steps = config.evaluation.inner_steps if inner_steps is None else inner_steps
    if support is None and slot is None:
        model, params = _meta_learned(trained)
    else:
        _expect_labels(batch, config, support)
        model, params = _adapted(trained, batch, steps, slot or 0)
    x = batch.x if support is not None else drawn.query.x
    what = (
        f"adapted to {support or f'test task {slot}'}" if support or slot is not None else "as meta-learned"
    )
    item = tuple(x.shape[1:])
    given = f"{str(x.dtype).partition('.')[2]} (n, {', '.join(map(str, item))})"
    made = define(model, params, _about(folder, path, what, given))
    with neo.nn.draws(None, dropout=False):
        expected = constant(model(params, x))

    target = out or folder / "export"
    target.mkdir(parents=True, exist_ok=True)
    atomic_write(target / "model.py", made.source.encode())
    atomic_write(target / "state_dict.pt", _saved(made.state))
    module = _load(target / "model.py")
    difference = _expect_same(module, x, expected)
    written = ["model.py", "state_dict.pt"]
    if "torch_export" in formats:
        written.append(_torch_export(module, x, target / "model.pt2"))
    if "onnx" in formats:
        written.append(_onnx(module, x, target / "model.onnx"))
    result = {
        "what": what,
        "checkpoint": path.name,
        "iterations": trained.iteration,
        "inner_steps": None if what == "as meta-learned" else steps,
        "classes": names,
        "input": given,
        "outputs": list(expected.shape[1:]),
        "difference": difference,
        "batch_norm": "statistics of the batch that is given",
        "files": [*written, "export.json"],
        "folder": str(target),
        "versions": versions(),
        "record": checkpoint.read_header(path).get("record"),
    }
    write_json(target / "export.json", result)
    return result


def _expect(formats: Sequence[str], which: str, support: Path | None, slot: int | None) -> None:
    for name in formats:
        if name not in FORMATS:
            raise ValueError(
                f"unknown format {name!r}; choose formats=[{','.join(FORMATS)}], or some of them."
            )
    missing = [name for name in NEEDED if "onnx" in formats and importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"formats=[onnx] needs {' and '.join(missing)}; pip install {' '.join(missing)}.")
    if which == "ensemble":
        raise ValueError("checkpoint=ensemble is several models; export one, checkpoint=best or last.")
    if support is not None and slot is not None:
        raise ValueError(
            f"support={support} and slot={slot}: a model adapts to one of them; leave the other out."
        )
    if slot is not None and slot < 0:
        raise ValueError(f"slot={slot} must be the number of a test task, 0 or more.")


def _expect_labels(batch: Batch, config: DictConfig, support: Path | None) -> None:
    ways = OmegaConf.select(config, "task.ways")
    if ways is None or batch.y.is_floating_point():
        return
    labels = int(batch.y.max()) + 1
    if labels > int(ways) or int(batch.y.min()) < 0:
        raise ValueError(
            f"support={support} has {labels} classes, and the model of this run tells {ways} apart; leave some out."
        )


def _meta_learned(trained: Trained) -> tuple[Module, PyTree]:
    """The model with its parameters among the meta-parameters."""
    learner, params = trained.learner, trained.params
    if not hasattr(learner, "model"):
        raise ValueError(f"{type(learner).__name__} has no model of its own; adapt it to a task: slot=0.")
    if isinstance(params, Mapping) and isinstance(params.get("params"), Mapping):
        params = params["params"]
    return learner.model, params


def _adapted(trained: Trained, support: Batch, steps: int | None, slot: int) -> tuple[Module, PyTree]:
    """The model with its parameters after adaptation, as an evaluation adapts (meta.evaluate.adapted)."""
    learner = trained.learner
    seed = seed_of(trained.evaluation_seed, 0, slot)
    step = Step(trained.iteration, slot, seed, False, steps, trained.state)
    with neo.nn.draws(seed, dropout=False), computing(learner, trained.params):
        predictor = as_predictor(learner.adapt(trained.params, support, step))
    if not isinstance(predictor, ModelPredictor):
        raise ValueError(
            f"{type(learner).__name__} predicts by more than its model and adapted parameters, which no module of its "
            "own holds; what it has meta-learned can be exported: leave out support and slot."
        )
    return predictor.model, predictor.params


def _about(folder: Path, path: Path, what: str, given: str) -> str:
    return f"""The model of the run {folder.absolute().name}, {path.stem}, {what}; written by Neo, needs torch alone.

    import model

    module = model.load()
    prediction = module(x)  # x: {given}

Batch norm without running statistics normalises by the batch that is given: predict the queries of a task together."""


def _load(path: Path) -> torch.nn.Module:
    """As a reader of the file would."""
    spec = importlib.util.spec_from_file_location("neo_exported_model", path)
    assert spec is not None
    assert spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    module: torch.nn.Module = source.load()
    return module


def _saved(state: Mapping[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous().clone() for name, tensor in state.items()}, buffer)
    return buffer.getvalue()


def _expect_same(module: torch.nn.Module, x: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference. Raises: ValueError where it is more than rounding."""
    with torch.no_grad():
        found = module(x)
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(f"the exported module gives {got}, and the run's model {tuple(expected.shape)}.")
    difference, size = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= CLOSE.get(expected.dtype, 1e-2) * max(1.0, size):
        raise ValueError(
            f"the exported module's predictions differ by {difference:.3g} from the run's, of {size:.3g} at most: its "
            "forward does something else in eval mode, or its constructor draws what no state_dict holds."
        )
    return difference


def _torch_export(module: torch.nn.Module, x: torch.Tensor, path: Path) -> str:
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("examples", min=2)},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    atomic_write(path, buffer.getvalue())
    return path.name


def _onnx(module: torch.nn.Module, x: torch.Tensor, path: Path) -> str:
    examples = torch.export.Dim("examples", min=2)
    torch.onnx.export(
        module,
        (x,),
        path,
        input_names=["x"],
        output_names=["prediction"],
        dynamic_shapes=({0: examples},),
        dynamo=True,
    )
    return path.name
