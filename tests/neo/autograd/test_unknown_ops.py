"""Rule 10: an op without a Policy is refused by name, never handed to torch.autograd."""

import pytest
import torch

import neo
from neo.functions import implements, registry

X = neo.LiteTensor([[2.0, 1.0], [1.0, 3.0]])

UNKNOWN = {
    "torch.special.airy_ai": lambda: torch.special.airy_ai(X),
    "torch.as_strided_scatter": lambda: torch.as_strided_scatter(X, X, (2, 2), (2, 1)),
    "torch.linalg.ldl_factor": lambda: torch.linalg.ldl_factor(X),
    "torch.Tensor.geqrf": lambda: X.geqrf(),
    "torch.geqrf": lambda: torch.geqrf(X),
    "torch.fft.rfft": lambda: torch.fft.rfft(X),
}


@pytest.mark.parametrize("spelled", UNKNOWN)
def test_unknown_op_is_refused_with_the_text_of_rule_ten(spelled):
    with pytest.raises(NotImplementedError) as caught:
        UNKNOWN[spelled]()
    assert (
        str(caught.value) == f"{spelled} has no Policy; give it one with @neo.functions.implements({spelled})"
    )


def test_unknown_op_is_refused_inside_a_session_too():
    with pytest.raises(NotImplementedError, match=r"torch\.geqrf has no Policy"):
        neo.grad(lambda x: torch.geqrf(x)[0])(X)


@pytest.fixture
def restored():
    """The op library as it was, after a test has registered a Policy."""
    tables = [(table, dict(table)) for table in (registry._handlers, registry._twins)]
    names = {name: getattr(neo.LiteTensor, name, None) for name in ("airy_ai", "special_airy_ai")}
    yield
    for table, before in tables:
        table.clear()
        table.update(before)
    for name, method in names.items():
        if method is None and name in vars(neo.LiteTensor):
            delattr(neo.LiteTensor, name)
    if hasattr(neo.functions, "airy_ai"):
        delattr(neo.functions, "airy_ai")


@pytest.mark.usefixtures("restored")
def test_unknown_op_works_once_it_has_a_policy():
    target = torch.special.airy_ai
    assert target not in neo.functions.supported()

    @implements(target)
    class Airy(neo.autograd.Policy):
        """A stand-in: y = 2 x."""

        def forward(self, x):
            return x * 2

        def backward(self, grad):
            return grad * 2

    assert target in neo.functions.supported()
    assert neo.grad(target, argnums=0)(X).tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_attributes_that_graphs_hang_on_do_not_exist():
    for name in ("grad", "grad_fn"):
        with pytest.raises(AttributeError, match=name):
            getattr(X, name)
    assert not hasattr(X, "no_such_thing")
    assert X.requires_grad is False
