"""One order of additions, whoever computes which slots."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neo
from meta.averaging import blocks, mean, mean_of_rows


def numbers(count: int) -> list[torch.Tensor]:
    """Values of very different sizes, so that nearly any other order of additions rounds differently."""
    generator = torch.Generator().manual_seed(count)
    wide = torch.randn(count, 50, generator=generator) * 10 ** (
        4 * torch.randn(count, 50, generator=generator)
    )
    return list(wide)


def shared(leaves: list[torch.Tensor], cuts: list[int]) -> torch.Tensor:
    """The mean as processes find it that have the slots between cuts."""
    parts, sizes = [], []
    for start, stop in zip([0, *cuts], [*cuts, len(leaves)], strict=True):
        for block in blocks(range(start, stop)):
            parts.append(mean(leaves[slot] for slot in block))
            sizes.append(len(block))
    return mean(parts, sizes)


@given(st.data())
def test_mean_is_bit_for_bit_the_same_however_slots_are_shared_out(data):
    count = data.draw(st.integers(1, 70))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=8)))
    leaves = numbers(count)
    assert torch.equal(shared(leaves, cuts), mean(leaves))


def test_mean_in_slot_order_would_not_be_the_same():
    """What the tree is for: the same test, for a plain sum, fails."""
    leaves = numbers(32)
    halves = [sum(leaves[:16]) / 16, sum(leaves[16:]) / 16]
    assert not torch.equal(sum(halves) / 2, sum(leaves) / 32)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 25, 32, 33])
def test_mean_is_the_mean(count):
    leaves = [leaf.double() for leaf in numbers(count)]
    scale = torch.stack(leaves).abs().mean(0)
    assert ((mean(leaves) - torch.stack(leaves).mean(0)).abs() <= 1e-15 * scale * count).all()


def test_mean_of_pytrees_of_lite_tensors_keeps_their_structure():
    trees = [{"a": neo.LiteTensor([float(i)]), "b": (neo.LiteTensor([[2.0 * i]]),)} for i in range(5)]
    average = mean(trees)
    assert average["a"].tolist() == [2.0]
    assert average["b"][0].tolist() == [[4.0]]


def test_mean_leaves_what_it_averages_alone():
    leaves = numbers(4)
    before = [leaf.clone() for leaf in leaves]
    mean(leaves)
    assert all(torch.equal(leaf, was) for leaf, was in zip(leaves, before, strict=True))


def test_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to average"):
        mean([])


def test_trees_that_differ_are_refused():
    with pytest.raises(ValueError, match="trees of one structure"):
        mean([{"w": torch.ones(2)}, {"v": torch.ones(2)}])


@given(st.integers(0, 300), st.integers(0, 300))
def test_blocks_are_aligned_powers_of_two_that_cover_the_slots_in_order(start, length):
    slots = range(start, start + length)
    found = blocks(slots)
    assert [slot for block in found for slot in block] == list(slots)
    for block in found:
        size = len(block)
        assert size & (size - 1) == 0
        assert block.start % size == 0


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16, 32])
def test_share_of_a_power_of_two_is_one_block(ranks):
    size = 32 // ranks
    assert all(len(blocks(range(rank * size, (rank + 1) * size))) == 1 for rank in range(ranks))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 25, 33])
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.float32, torch.float64)], ids=["one", "two"])
def test_the_mean_of_stacked_trees_has_the_bits_of_the_mean_of_trees(
    count: int, dtypes: tuple[torch.dtype, ...]
) -> None:
    generator = torch.Generator().manual_seed(count)
    stacked = {
        name: neo.LiteTensor(torch.randn(count, *shape, generator=generator).to(dtype))
        for name, shape, dtype in zip("ab", ((3, 2), ()), dtypes, strict=True)
    }
    right = mean([{name: leaf[i] for name, leaf in stacked.items()} for i in range(count)])
    found = mean_of_rows(stacked)
    for name, leaf in right.items():
        assert isinstance(found[name], neo.LiteTensor)
        assert found[name].dtype is leaf.dtype
        assert torch.equal(found[name].data, leaf.data)


def test_the_mean_of_stacked_trees_is_differentiated_by_the_session_around_it() -> None:
    stacked = neo.LiteTensor(torch.randn(5, 2, dtype=torch.float64))
    (gradient,) = neo.grad(lambda x: (mean_of_rows([x])[0] ** 2).sum(), argnums=(0,))(stacked)
    expected = (2 / 5 * stacked.data.mean(0)).expand(5, 2)
    torch.testing.assert_close(gradient.data, expected, rtol=1e-12, atol=1e-12)


def test_no_rows_have_no_mean() -> None:
    with pytest.raises(ValueError, match="nothing to average"):
        mean_of_rows({"a": torch.zeros(0, 3)})
