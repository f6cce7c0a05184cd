"""learn2learn's Tasksets through our trainer, drawn as pure functions of where a task stands."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from hydra import compose, initialize_config_module

import neo
from meta import MAML, Trainer, evaluate
from tasks import DataError, Tasksets, TaskSource
from tests.meta.runs import train
from tests.peers.learn2learn_reference import import_learn2learn

CLASSES, DRAWINGS = 12, 8
pytestmark = pytest.mark.peers


class Characters(torch.utils.data.Dataset):
    """Images that say who they are: pixel (0, 0) the class, pixel (0, 1) the drawing; the rest is noise."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(CLASSES * DRAWINGS, 1, 16, 16, generator=generator)
        self.y = torch.arange(CLASSES).repeat_interleave(DRAWINGS)
        self.x[:, 0, 0, 0] = self.y.float()
        self.x[:, 0, 0, 1] = torch.arange(DRAWINGS).repeat(CLASSES).float()

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])

    def __len__(self):
        return len(self.y)


def taskset(ways: int = 3, shots: int = 5, tasks: int = -1, replacement: bool = False):
    l2l = import_learn2learn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = l2l.data.MetaDataset(Characters())
        transforms = l2l.data.transforms
        steps = [
            transforms.NWays(data, ways),
            transforms.KShots(data, shots, replacement=replacement),
            transforms.LoadData(data),
            transforms.RemapLabels(data, shuffle=True),
        ]
        return l2l.data.Taskset(data, steps, num_tasks=tasks)


def identities(x: torch.Tensor) -> list[tuple[float, float]]:
    """(class, drawing) of each image."""
    return [tuple(pair) for pair in x[:, 0, 0, :2].tolist()]


def test_support_and_query_share_no_image_and_labels_stand_for_classes():
    task = Tasksets(taskset()).sampler("train", shots=2, seed=0).sample(0, 6)
    assert task.support.x.shape == (6, 3 * 2, 1, 16, 16)
    assert task.query.y.shape == (6, 3 * 3)
    for one in task:
        assert one.support.y.tolist() == [0, 0, 1, 1, 2, 2]
        assert one.query.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert not set(identities(one.support.x)) & set(identities(one.query.x))
        classes = {
            label: {c for (c, _), y in zip(identities(b.x), b.y.tolist(), strict=True) if y == label}
            for b in (one.support, one.query)
            for label in range(3)
        }
        assert sorted(len(found) for found in classes.values()) == [1, 1, 1]


def test_task_is_a_function_of_seed_part_iteration_and_slot():
    source = Tasksets(taskset(), taskset())
    drawn = source.sampler("train", shots=1, seed=0)
    together = drawn.sample(4, 5)
    random.seed(99)
    drawn.sample(1, 2)
    assert torch.equal(drawn.sample(4, [3]).query.x[0], together.query.x[3])
    again = Tasksets(taskset(), taskset()).sampler("train", shots=1, seed=0)
    assert torch.equal(again.sample(4, 5).support.x, together.support.x)
    for other in (
        source.sampler("val", shots=1, seed=0).sample(4, 5),
        source.sampler("train", shots=1, seed=1).sample(4, 5),
        drawn.sample(5, 5),
    ):
        assert not torch.equal(other.support.x, together.support.x)


def test_drawing_leaves_the_global_random_numbers_alone():
    drawn = Tasksets(taskset()).sampler("train", shots=1, seed=0)
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1)
    random.seed(5)
    torch.manual_seed(5)
    drawn.sample(0, 3)
    assert (random.random(), torch.rand(1)) == expected


def test_finite_taskset_gives_no_more_tasks_than_it_has():
    drawn = Tasksets(taskset(tasks=4)).sampler("train", shots=1, seed=0)
    seen = {tuple(identities(task.support.x)) for task in drawn.sample(0, 40)}
    assert len(seen) == 4


def test_maml_trains_and_is_evaluated_on_a_taskset():
    source: TaskSource = Tasksets(taskset(), test=taskset())
    train, test = (source.sampler(part, shots=1, seed=0) for part in ("train", "test"))
    learner = MAML(neo.nn.Conv4(ways=3, size=16, hidden=4), inner_lr=0.4)
    trainer = Trainer(learner, neo.optim.adam(1e-2), iterations=12, meta_batch=4)
    start = trainer.start()
    before = evaluate(learner, start.params, test, 20)
    after = evaluate(learner, trainer.fit(train, start).params, test, 20)
    assert after.loss < before.loss  # the class stands in a pixel
    assert (test.title, test.chance) == ("3-way 1-shot", 1 / 3)


def toy() -> Tasksets:
    """What a configuration may name."""
    return Tasksets(taskset(shots=3), taskset(shots=3), taskset(shots=3), name="toy")


def test_taskset_trains_from_a_configuration(tmp_path):
    import_learn2learn()
    small = ["model.hidden=4", "model.size=16", "trainer.meta_batch=2", "trainer.iterations=2"]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", [*small, "trainer.val_tasks=2", "evaluation.tasks=3", "device=cpu"])
    task = {"dataset": {"_target_": f"{__name__}.toy"}, "ways": 3, "shots": 1, "queries": 2}
    kept = {key: config.task[key] for key in ("problem", "picture", "seed")}
    config.task = {**kept, **task}
    result = train(config, tmp_path)
    assert (result["data"]["dataset"], result["test/chance"]) == ("toy", 1 / 3)
    assert result["protocol"]["queries"] == 2


def test_description_tells_data_apart():
    about = Tasksets(taskset(), name="toy").describe()
    assert (about["dataset"], about["split"]) == ("toy", f"train {CLASSES * DRAWINGS}")
    assert about["checksum"] != Tasksets(test=taskset(), name="toy").describe()["checksum"]


def test_regression_tasks_give_their_first_examples_to_the_support_set():
    l2l = import_learn2learn()
    x = torch.arange(6.0)[:, None]
    data = torch.utils.data.TensorDataset(x, 2 * x[:, 0])

    def all_of_them(description):
        return [l2l.data.DataDescription(index) for index in range(6)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = l2l.data.MetaDataset(data)
        drawn = l2l.data.Taskset(data, [all_of_them, l2l.data.transforms.LoadData(data)])
    sampler = Tasksets(drawn).sampler("train", shots=2, seed=0)
    task = sampler.sample(0, 1)[0]
    assert task.support.x[:, 0].tolist() == [0, 1]
    assert task.query.y[:, 0].tolist() == [4, 6, 8, 10]
    assert (sampler.title, sampler.chance) == ("2-shot", None)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Tasksets(taskset()).sampler("val", shots=1, seed=0), "no Taskset for val, only for train"),
        (lambda: Tasksets(taskset()).sampler("train", shots=0, seed=0), "shots=0 is too small"),
        (
            lambda: Tasksets(taskset()).sampler("train", shots=5, seed=0),
            r"have \[5, 5, 5\] examples, expected .* more",
        ),
        (
            lambda: Tasksets(taskset()).sampler("train", shots=1, seed=0, ways=5),
            "ways=5 was asked for, .* have 3",
        ),
        (lambda: Tasksets(taskset()).sampler("train", shots=1, seed=0, queries=9), "queries=9 was .* have 4"),
        (
            lambda: Tasksets(taskset(replacement=True, shots=8)).sampler("train", shots=1, seed=0),
            "holds an example twice",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_what_is_no_taskset_is_refused():
    with pytest.raises(DataError, match="train must be a learn2learn Taskset, got Characters"):
        Tasksets(Characters())
