"""MNIST in batches: which digits, which labels are wrong, and a pure function of where a batch stands."""

from __future__ import annotations

import pytest
import torch

from tasks import MNIST
from tasks.mnist import Digits

SIZES = {"examples": 300, "clean": 40, "validation": 60}


@pytest.fixture(autouse=True)
def _digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each digit's first pixel is its number in MNIST, so that it is known again; labels go round."""

    def numbered(count: int, first: int) -> Digits:
        x = torch.zeros(count, 784)
        x[:, 0] = torch.arange(first, first + count)
        return Digits(x, torch.arange(count) % 10)

    monkeypatch.setattr(
        "tasks.mnist_batches.load_mnist", lambda data_dir: (numbered(450, 0), numbered(80, 450))
    )


def numbers(batch) -> list[int]:
    return batch.x[..., 0, 0, 0].flatten().int().tolist()


def test_sets_are_disjoint_and_only_the_training_set_has_wrong_labels():
    mnist = MNIST(noise=0.4, **SIZES)
    sets = [mnist.support, *mnist.queries.values()]
    assert [len(batch) for batch in sets] == [300, 40, 60, 80]
    everything = [number for batch in sets for number in numbers(batch)]
    assert len(set(everything)) == len(everything)
    for batch, truth in ((mnist.support, mnist.true), *((batch, batch.y) for batch in sets[1:])):
        assert torch.equal(truth, torch.tensor(numbers(batch)) % 10)
    wrong = mnist.support.y != mnist.true
    assert int(wrong.sum()) == 120 == mnist.describe()["wrong_labels"]
    shifts = ((mnist.support.y - mnist.true) % 10)[wrong].bincount(minlength=10)
    # 120 flips over 9 other classes: 13.3 each, standard deviation 3.4; none stays, none is far off.
    assert shifts[0] == 0
    assert 2 <= int(shifts[1:].min()) <= int(shifts.max()) <= 30


def test_seed_decides_which_digits_and_labels_and_the_split_says_so():
    one, again, other = (
        MNIST(noise=0.4, **SIZES),
        MNIST(noise=0.4, **SIZES),
        MNIST(noise=0.4, seed=1, **SIZES),
    )
    assert one.describe() == again.describe()
    assert numbers(one.support) != numbers(other.support)
    assert one.describe()["checksum"] != other.describe()["checksum"]
    assert one.split != other.split


def test_batch_is_drawn_without_replacement_and_is_a_function_of_iteration_and_slot():
    drawn = MNIST(noise=0.4, **SIZES).sampler("val", shots=300, queries=20, seed=0)
    together, alone = drawn.sample(9, 6), drawn.sample(9, [4])
    assert torch.equal(together[4].query.x, alone[0].query.x)
    assert sorted(numbers(alone[0].support)) == sorted(numbers(drawn.source.support))
    assert len(set(numbers(alone[0].query))) == 20
    assert {*numbers(alone[0].query)} <= {*numbers(drawn.source.queries["val"])}
    assert numbers(together[3].query) != numbers(together[4].query)
    assert together.support.x.shape == (6, 300, 1, 28, 28)
    assert torch.equal(together.query.y, torch.tensor(numbers(together.query)).view(6, 20) % 10)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MNIST(noise=1.0), r"noise must be a fraction .* got 1\.0"),
        (lambda: MNIST(examples=0), "examples=0 is too small"),
        (lambda: MNIST(examples=400, clean=40, validation=60), "more than its 450 training digits"),
        (
            lambda: MNIST(**SIZES).sampler("train", shots=5, queries=41, seed=0),
            "queries=41 is more than the 40",
        ),
        (lambda: MNIST(**SIZES).sampler("dev", shots=5, queries=4, seed=0), "unknown part 'dev'"),
    ],
)
def test_values_out_of_range_are_refused_by_name(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
