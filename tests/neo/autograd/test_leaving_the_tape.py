"""Rule 13: a tensor leaves the tape only by its user's word; everything else raises, or is recorded."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import neo
from neo import autograd
from neo.autograd import TapeContext
from neo.errors import SessionError
from neo.functions import function

X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def grad(fn):
    return neo.grad(fn, argnums=0)(neo.LiteTensor(X.clone()))


READERS = {
    "np.asarray": np.asarray,
    "np.array": np.array,
    "numpy()": lambda p: p.numpy(),
    "np.dot": lambda p: np.dot(np.ones(3), p),
    "np.mean of two losses": lambda p: np.mean([p[0] ** 2, p[1] ** 2]),
    "np.stack": lambda p: np.stack([p, p]),
    "np.linalg.norm": np.linalg.norm,
    "np.concatenate": lambda p: np.concatenate([p, p]),
    "torch.tensor of entries": lambda p: torch.tensor([p[0], p[1]]),
    "torch.tensor with a dtype": lambda p: torch.tensor([p[0], p[1]], dtype=torch.float64),
    "torch.DoubleTensor": lambda p: torch.DoubleTensor([p[0]]),
    "torch.as_tensor": lambda p: torch.as_tensor([p[0]], dtype=torch.float64),
    "new_tensor of torch's": lambda p: torch.ones(2).new_tensor([p[0], p[1]]),
    "from_numpy": lambda p: torch.from_numpy(np.asarray(p)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_reading_what_a_session_tracks_is_refused(read):
    with pytest.raises((SessionError, RuntimeError, TypeError)):
        grad(lambda p: p.sum() * 0 + torch.as_tensor(read(p)).sum())
    assert TapeContext.current() is None


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_message_says_what_to_do(read):
    if read in (READERS["torch.tensor of entries"],):
        pytest.skip("torch itself refuses, in its own words")

    def fn(p):
        with pytest.raises(SessionError, match=r"x\.detach\(\)"):
            read(p)
        return p.sum()

    grad(fn)


WORDS = {
    "item": lambda p: p[0].item(),
    "tolist": lambda p: sum(p.tolist()),
    "detach": lambda p: p.detach().sum(),
    "detach, numpy": lambda p: float(p.detach().numpy().sum()),
    "stop_gradient": lambda p: neo.stop_gradient(p).sum(),
    "data": lambda p: p.data.sum(),
    "float": lambda p: float(p[0]),
    "math": lambda p: math.exp(p[0]),
    "format": lambda p: float(f"{p[0]:.3f}"),
    "truth": lambda p: 1.0 if p[0] > 0 else 2.0,
}


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS.keys())
def test_users_word_makes_a_constant(word):
    assert grad(lambda p: (p * 0 + word(p)).sum()).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_are_recorded(duplicate):
    def fn(p):
        tree = duplicate({"a": [p * 1], "b": p})
        return (tree["a"][0] * tree["b"]).sum()

    torch.testing.assert_close(grad(fn).data, 2 * X)
    torch.testing.assert_close(grad(lambda p: grad_inside(fn, p).sum()).data, torch.full_like(X, 2.0))


def test_numpy_functions_that_call_a_method_are_recorded():
    torch.testing.assert_close(grad(lambda p: np.sum(p * p)).data, 2 * X)


def grad_inside(fn, p):
    return neo.grad(fn, argnums=0)(p)


def test_outside_of_sessions_and_under_no_grad_numpy_reads_as_ever():
    x = neo.LiteTensor(X)
    assert np.asarray(x).tolist() == X.tolist()
    assert np.dot(np.ones(3), x) == 1.5
    assert pickle.loads(pickle.dumps(x)).tolist() == X.tolist()
    assert copy.deepcopy(x).data.data_ptr() != x.data.data_ptr()

    def fn(p):
        with torch.no_grad():
            scale = float(np.asarray(p).sum())
        return (p * scale).sum()

    assert grad(fn).tolist() == [1.5, 1.5, 1.5]


def test_constants_inside_a_session_are_read():
    y = neo.LiteTensor(X)
    assert grad(lambda p: (p * float(np.asarray(y)[0])).sum()).tolist() == [0.5, 0.5, 0.5]


def test_tensor_closed_over_by_a_policys_forward_is_refused():
    def with_closure(read):
        def fn(p):
            class Scaled(autograd.Policy):
                def forward(self, x):
                    self.ctx.save(x)
                    return read(x, p)

                def backward(self, g):
                    return g

            return function(Scaled)(p * 1).sum()

        return fn

    with pytest.raises(SessionError, match="inside the forward of a Policy"):
        grad(with_closure(lambda x, p: (x * p).data))
    with pytest.raises(SessionError, match="inside the forward of a Policy"):
        grad(with_closure(lambda x, p: x * torch.exp(p).item()))
    assert grad(with_closure(lambda x, p: x * p.data)).tolist() == [1.0, 1.0, 1.0]


def test_session_inside_a_policys_forward_differentiates_what_it_makes():
    class Slope(autograd.Policy):
        """y = f′(x) of f = x³, by a session in forward."""

        def forward(self, x):
            self.ctx.save(x)
            return neo.grad(lambda x: (x**3).sum(), argnums=0)(neo.LiteTensor(x)).data

        def backward(self, g):
            (x,) = self.ctx.release
            return 6 * x * g

    torch.testing.assert_close(grad(lambda p: function(Slope)(p).sum()).data, 6 * X)
