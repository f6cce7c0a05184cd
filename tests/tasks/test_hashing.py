from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks import hashing
from tasks.hashing import WORD, derive, stream, uniform

words = st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1)


def test_derive_is_splitmix64():
    # The first words of the reference generator (Vigna, splitmix64.c) seeded with 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [derive(1234567, i) for i in range(4)] == expected


@given(words, words)
def test_derive_agrees_between_integers_and_tensors(key, value):
    expected = derive(key, value)
    for one, other in (
        (key, torch.tensor(value)),
        (torch.tensor(key), value),
        (torch.tensor(key), torch.tensor(value)),
    ):
        assert derive(one, other).item() & WORD == expected


@given(st.lists(words, max_size=20), st.lists(words, min_size=1, max_size=3))
def test_derive_of_many_words_is_the_one_of_each(values, keys):
    found = derive(torch.tensor(keys)[:, None], torch.tensor(values, dtype=torch.int64))
    assert found.shape == (len(keys), len(values))
    assert [[word & WORD for word in row] for row in found.tolist()] == [
        [derive(key, value) for value in values] for key in keys
    ]


def test_derive_is_the_same_without_the_extension(monkeypatch):
    keys, values = torch.arange(-3, 4)[:, None], torch.arange(1000)[::3]
    found, of_one = derive(keys, values), derive(torch.tensor(5), 7)
    assert found.is_contiguous()
    monkeypatch.setattr(hashing, "mix", None)
    assert torch.equal(found, derive(keys, values))
    assert torch.equal(of_one, derive(torch.tensor(5), 7))


@pytest.mark.skipif(hashing.mix is None, reason="tasks/_mix.pyx was not built")
def test_derive_leaves_its_arguments_as_they_are():
    keys, values = torch.arange(4), torch.arange(4)
    derive(keys, values)
    derive(keys, 3)
    assert keys.tolist() == values.tolist() == [0, 1, 2, 3]


def test_derive_under_a_transform_of_torch_is_the_same():
    values = torch.arange(12).view(3, 4)
    assert torch.equal(torch.func.vmap(lambda value: derive(9, value))(values), derive(9, values))


def test_derive_never_repeats_a_word_in_one_stream():
    assert derive(5, torch.arange(100_000)).unique().numel() == 100_000


def test_stream_depends_on_every_part_and_their_order():
    keys = {stream(0, "a"), stream(1, "a"), stream(0, "b"), stream("a", 0), stream(0, "a", 0), stream(0)}
    assert len(keys) == 6


def test_uniform_is_even_over_the_unit_interval():
    draws = uniform(stream("test"), 400, 250)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, bins=100, min=0, max=1)  # 1000 expected in each, standard deviation 31
    assert (counts - 1000).abs().max() < 160
