"""Every algorithm on every family of tasks that can be made here: it trains, or is refused before a run begins."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from meta.cli.configs import composed
from meta.cli.overrides import groups
from meta.experiment import Experiment
from tasks.mnist import Digits
from tests.meta.test_other_shapes import MADE, image_files

ALGORITHMS = groups()["algorithm"]
TRAINING_CLASSES = {"baseline", "baseline_plus_plus", "nearest_centroid"}  # tell all of them apart
COMPARING = {"matchingnet", "metaoptnet", "protonet", "r2d2", "relationnet"}  # read classes from labels
OF_CLASSES = TRAINING_CLASSES | COMPARING | {"distillation", "reweighting"}

SMALL = [
    *("trainer.iterations=2", "trainer.meta_batch=2", "trainer.val_every=2", "trainer.val_tasks=2"),
    *("evaluation.tasks=2", "device=cpu", "workers=1"),
]
DIGITS = [
    *("task.dataset.examples=60", "task.dataset.clean=20", "task.dataset.validation=20", "task.shots=60"),
    *("task.queries=6", "model._args_=[784,5,10]"),
]
GLYPHS = ["task.dataset.images.alphabets=4", "task.dataset.images.characters=3", "model._args_=[2,6,1]"]
FEW = ["task.dataset.fractions=[0.4,0.3,0.3]", "task.ways=2", "task.queries=2"]
TASKS = {
    "bandit": ["task.shots=4", "task.queries=4"],
    "completion": ["task.shots=9", "task.queries=9", "task.test_queries=9", *GLYPHS],
    "distillation": ["task.test_queries=10", *DIGITS],
    "function": ["task.dataset.function=tests.tasks.test_function_tasks.lines"],
    "glyphs": ["task.dataset.alphabets=4", "task.dataset.characters=6", "task.ways=3", "task.queries=4"],
    "harmonic": ["model._args_=[1,4,1]"],
    "hyperparameters": DIGITS,
    "images": ["task.dataset.size=16", *FEW],
    "learned_loss": [],
    "learned_optimizer": [],
    "multi_label": ["task.dataset.size=16", "task.ways=3", "task.queries=2"],
    "navigation": ["task.dataset.horizon=5", "task.shots=3", "task.queries=3", "task.layers=[2,5,2]"],
    "pinn": ["task.shots=4", "task.values=2", "model._args_=[2,4,1]"],
    "reweighting": DIGITS,
    "segmentation": [],
    "siren": GLYPHS,
    "sinusoid": ["model._args_=[1,5,1]"],
    "table": [],
    "tokens": [],
}
BATCHED = {name for name in TASKS if composed("train", [f"task={name}"]).batched}

# --- which pairs do not go together, and why --------------------------------------------------------------------------

UNSUITED = r"algorithm\._target_=meta\.\w+ does not go with the tasks of [\w.]+: .*Choose another algorithm=... or task"
NO_CLASSES = (
    r"learns to tell all training classes apart, and the tasks of .* are not made of classes; choose another"
)

REGRESSION = {
    *(
        "completion",
        "function",
        "harmonic",
        "learned_loss",
        "learned_optimizer",
        "siren",
        "sinusoid",
        "table",
    ),
}
WITHOUT_EXAMPLES = {"bandit", "navigation", "pinn"}  # environments, and an equation
OTHER_LABELS = {"multi_label", "segmentation"}  # several of an image, one of a pixel
MNIST = {"distillation", "hyperparameters", "reweighting"}  # of the same classes in training and test

REFUSED: dict[tuple[str, str], str] = {
    **{
        (algorithm, task): UNSUITED
        for task in REGRESSION | WITHOUT_EXAMPLES | OTHER_LABELS
        for algorithm in OF_CLASSES
    },
    **{
        (algorithm, task): NO_CLASSES
        for task in REGRESSION | WITHOUT_EXAMPLES | MNIST
        for algorithm in TRAINING_CLASSES
    },
    **{(algorithm, task): UNSUITED for task in WITHOUT_EXAMPLES for algorithm in ("learned_loss", "reptile")},
    (
        "distillation",
        "segmentation",
    ): "Distillation: classes must be an integer of 2 .* takes it from task.ways",
    ("distillation", "tokens"): UNSUITED,  # which have no gradient
    # A straight line, and a linear map without a name for its one layer: nothing but a head.
    ("boil", "learned_loss"): r"algorithm\.freeze=.* matches every parameter that would adapt",
    (
        "boil",
        "learned_optimizer",
    ): r"in algorithm\.freeze, 'head\.\*' matches no parameter.*algorithm\.freeze='weight'",
    ("cavia", "learned_optimizer"): "CAVIA: the model has no layer .* take a model that has",
    ("tnet", "learned_optimizer"): "TNet: the model has no layer .* Take a model of layers",
}

# --- what has to be typed for a pair, which the refusal says ----------------------------------------------------------

TYPED: dict[tuple[str, str], tuple[str, list[str]]] = {
    **{
        (algorithm, task): ("leave out batched=true", ["batched=false"])
        for task in MNIST & BATCHED
        for algorithm in COMPARING
    },
    **{("es_maml", task): ("runs without batched=true", ["batched=false"]) for task in BATCHED},
    **{
        (algorithm, "tokens"): ("set algorithm.features=2", ["algorithm.features=2"])
        for algorithm in (*TRAINING_CLASSES, "relationnet")
    },
    ("anil", "learned_optimizer"): ("algorithm.adapt='weight'", ["algorithm.adapt=weight"]),
    ("cavia", "tokens"): ("name one with algorithm.at: ", ["algorithm.at=hidden"]),
    ("distillation", "images"): ("set algorithm.shape to the latter", ["algorithm.shape=[3,16,16]"]),
    ("maml_plus_plus", "learned_optimizer"): (
        "algorithm.per_step_norm=false",
        ["algorithm.per_step_norm=false"],
    ),
}
TYPED |= {
    ("relationnet", task): (
        "set algorithm.features=10",
        ["algorithm.features=10", *(["batched=false"] if task in BATCHED else [])],
    )
    for task in MNIST
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Task → overrides by which it finds data that were made here."""
    places = {name: tmp_path_factory.mktemp(name) for name in (*MADE, "images")}
    folder = image_files.as_folder(places["images"] / "data", image_files.images())
    found = {name: make(places[name]) for name, make in MADE.items()}
    found["multi_label"] = [one for one in found["multi_label"] if "data_dir" in one or "split" in one]
    return {
        name: [one for one in overrides if not one.startswith("model.")] for name, overrides in found.items()
    } | {"images": [f"data_dir={folder}"]}


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(120, 784, generator=torch.Generator().manual_seed(0))
    digits = Digits(x, torch.arange(120) % 10)
    monkeypatch.setattr("tasks.mnist_batches.load_mnist", lambda data_dir: (digits, digits))


def trained(algorithm: str, task: str, overrides: list[str]) -> float:
    """The test loss after what scripts/train.py does before and in a run of two iterations, which writes nothing."""
    config = composed("train", [*SMALL, f"task={task}", f"algorithm={algorithm}", *TASKS[task], *overrides])
    if "hidden" in config.model:
        config.model.hidden = 4
    if task == "tokens":
        config.model.size, config.model.blocks = 8, 1
    if algorithm == "es_maml":
        config.algorithm.pairs = 1
    if config.evaluation.inner_steps:
        config.algorithm.inner_steps = config.evaluation.inner_steps = 2
    experiment = Experiment(config)
    samplers = {part: experiment.sampler(part) for part in ("train", "val", "test")}
    start = experiment.start()
    experiment.expect_adaptation(start, samplers["val"])
    experiment.expect_training(start, samplers["train"])
    held_out = experiment.for_tasks_of(samplers["val"], experiment.trained(start))
    end = experiment.trainer.fit(
        samplers["train"], start, validate=lambda state: held_out.evaluate(state, samplers["val"], 2)
    )
    return held_out.evaluate(end, samplers["test"], 2, record=True).loss


def pairs() -> list[Any]:
    """All of them; a diagonal, on which each algorithm and each task is met, is not of the exhaustive tests."""
    return [
        pytest.param(
            algorithm,
            task,
            id=f"{algorithm}-{task}",
            marks=pytest.mark.slow if (row - column) % len(TASKS) == 0 else pytest.mark.exhaustive,
        )
        for row, algorithm in enumerate(ALGORITHMS)
        for column, task in enumerate(TASKS)
    ]


@pytest.mark.parametrize(("algorithm", "task"), pairs())
def test_pair_trains_or_is_refused_by_name(algorithm, task, made):
    pair, data = (algorithm, task), made.get(task, [])
    if pair in REFUSED:
        with pytest.raises(ValueError, match=f"(?s){REFUSED[pair]}"):
            trained(algorithm, task, data)
        return
    typed: list[str] = []
    if pair in TYPED:
        sentence, typed = TYPED[pair]
        with pytest.raises(ValueError, match=re.escape(sentence)):
            trained(algorithm, task, data)
    assert math.isfinite(trained(algorithm, task, [*data, *typed]))


def test_every_task_is_in_the_matrix_or_needs_the_data_of_others():
    elsewhere = {
        "cifar_fs",
        "cub",
        "fc100",
        "mini_imagenet",
        "omniglot",
        "tiered_imagenet",
    }  # as images, and glyphs
    assert set(groups()["task"]) == TASKS.keys() | elsewhere
    named = {algorithm for algorithm, _ in [*REFUSED, *TYPED]}
    assert named <= set(ALGORITHMS)
