"""Factories: torch's numbers, as LiteTensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neo import LiteTensor, creation


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("zeros", (3, 4)),
        ("zeros", ((3, 4),)),
        ("ones", ((2,),)),
        ("empty", ((2, 0),)),
        ("full", ((2, 2), 7.0)),
        ("eye", (3,)),
        ("arange", (2, 9, 3)),
        ("linspace", (0, 1, 5)),
        ("randn", (3, 4)),
        ("rand", ((3, 4),)),
        ("randint", (0, 9, (4,))),
        ("randperm", (6,)),
    ],
)
def test_factory_gives_the_numbers_of_torch(name, args):
    creation.manual_seed(3)
    got = getattr(creation, name)(*args)
    torch.manual_seed(3)
    assert isinstance(got, LiteTensor)
    assert torch.equal(got.data, getattr(torch, name)(*args))


def test_factory_takes_dtype_and_device():
    x = creation.randn((3, 4), device="cpu", dtype=torch.float64)
    assert (x.dtype, x.device.type, tuple(x.shape)) == (torch.float64, "cpu", (3, 4))


@pytest.mark.parametrize("name", ["zeros_like", "ones_like", "empty_like", "rand_like", "randn_like"])
def test_like_factory_takes_the_layout_of_a_lite_tensor(name):
    like = LiteTensor(torch.zeros(2, 3, dtype=torch.float64))
    got = getattr(creation, name)(like)
    assert isinstance(got, LiteTensor)
    assert (got.shape, got.dtype) == (like.shape, like.dtype)


def test_tensor_copies_what_it_is_given():
    source = torch.zeros(2)
    made = creation.tensor(source)
    source.add_(1)
    assert made.tolist() == [0.0, 0.0]
    assert creation.tensor(np.array([1, 2])).tolist() == [1, 2]
    assert creation.tensor([[1.5]], dtype=torch.float64).dtype == torch.float64


def test_factory_refuses_requires_grad():
    with pytest.raises(TypeError, match="requires_grad"):
        creation.zeros(3, requires_grad=True)
