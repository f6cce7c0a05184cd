"""Rule 8: tensors do not change; what is changed behind the tape's back is found out."""

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import autograd
from neo.autograd import session
from neo.errors import InPlaceError, SavedTensorError
from neo.functions import function
from tests.neo.autograd.policies import cube, square


def d(fn):
    return session.grad(fn, argnums=0)


def through_data(x, source):
    x.data.add_(1)


def through_the_source(x, source):
    source.mul_(2)


def through_a_view(x, source):
    x.data.view(-1)[0] = 7.0


def through_a_view_of_the_source(x, source):
    source[:1].zero_()


@pytest.mark.parametrize(
    "mutate",
    [through_data, through_the_source, through_a_view, through_a_view_of_the_source],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("order", [1, 2])
def test_mutation_of_a_saved_input_is_caught(mutate, order):
    source = torch.tensor([1.0, 2.0])
    x = neo.LiteTensor(source)

    def fn(x):
        y = square(x)
        mutate(x, source)
        return y

    with pytest.raises(SavedTensorError, match=r"Square: saved tensor 0, shape \(2,\), was changed in place"):
        (d(fn) if order == 1 else d(d(fn)))(x)


def test_mutation_between_the_inner_and_the_outer_backward_is_caught():
    x = neo.LiteTensor([1.0, 2.0])

    def fn(x):
        g = d(lambda x: square(x) * x)(x)
        x.data.add_(1)
        return g

    with pytest.raises(SavedTensorError, match="changed in place"):
        d(fn)(x)


def test_mutation_of_a_saved_output_is_caught():
    def fn(x):
        y = torch.exp(x)
        y.data.zero_()
        return y

    with pytest.raises(SavedTensorError, match="Exp: saved tensor 0"):
        d(fn)(neo.LiteTensor(1.0))


def test_mutation_through_a_view_op_is_caught():
    def fn(x):
        y = x * 2
        z = square(y)
        y.reshape(-1).data.zero_()
        return z

    with pytest.raises(SavedTensorError, match="Square: saved tensor 0"):
        d(fn)(neo.LiteTensor([[1.0, 2.0]]))


def test_mutation_of_a_saved_plain_constant_is_caught():
    weight = torch.ones(2)

    def fn(x):
        y = x * weight
        weight.add_(1)
        return y

    with pytest.raises(SavedTensorError, match="Mul: saved tensor"):
        d(fn)(neo.LiteTensor([1.0, 2.0]))


def test_mutation_of_a_constant_is_caught():
    class Masked(autograd.Policy):
        def forward(self, x, mask):
            self.ctx.constant(mask)
            return x * mask

        def backward(self, grad):
            (mask,) = self.ctx.release
            return grad * mask, None

    mask = torch.ones(2)

    def fn(x):
        y = function(Masked)(x, mask)
        mask.zero_()
        return y

    with pytest.raises(SavedTensorError, match="Masked: saved tensor 0"):
        d(fn)(neo.LiteTensor([1.0, 2.0]))


def test_mutation_of_an_argument_that_a_replay_starts_from_is_caught():
    def fn(x):
        y = x * 1
        z = cube(y)
        y.data.add_(1)
        return z

    x = neo.LiteTensor([1.0, 2.0])
    assert d(fn)(x).tolist() == [3.0, 12.0]  # cube saved x² and not x: what it saved is as it was
    with pytest.raises(SavedTensorError, match="Cube: saved intermediate 0 came out different"):
        d(d(fn))(x)


def test_mutation_after_the_last_use_is_nobodys_business():
    x = neo.LiteTensor([1.0, 2.0])
    g = d(square)(x)
    x.data.add_(1)
    assert g.tolist() == [2.0, 4.0]


def test_forward_that_changes_its_input_is_refused():
    class Doubling(autograd.Policy):
        def forward(self, x):
            return x.mul_(2)

    with pytest.raises(InPlaceError, match=r"Doubling.forward: input 0, shape \(2,\), was changed in place"):
        function(Doubling)(neo.LiteTensor([1.0, 2.0]))


def test_checkpoint_finds_a_mutated_input():
    def fn(x):
        y = x * 1
        z = session.checkpoint(square)(y)
        y.data.add_(1)
        return z

    with pytest.raises(SavedTensorError, match=r"checkpoint\(.*changed in place"):
        d(fn)(neo.LiteTensor([1.0, 2.0]))


@pytest.mark.parametrize("op", [square, torch.sin])
def test_inference_mode_around_a_session_changes_nothing(op):
    x = neo.LiteTensor([1.0, 2.0])
    expected = d(lambda x: op(x * 2))(x).tolist()
    with torch.inference_mode():
        assert d(lambda x: op(x * 2))(x).tolist() == expected
        assert torch.is_inference_mode_enabled()


def test_what_is_saved_of_an_inference_tensor_which_counts_no_mutations_is_a_copy():
    """As nobody could tell that it was changed."""
    with torch.inference_mode():
        x = neo.LiteTensor([1.0, 2.0])
        _, pullback = session.vjp(square, x)
        x.data.mul_(10)
        assert pullback(torch.ones(2))[0].tolist() == [2.0, 4.0]


def test_augmented_assignment_rebinds():
    x = before = neo.LiteTensor([1.0, 2.0])
    x += 1
    x *= 3
    x -= neo.LiteTensor([1.0, 1.0])
    x /= 2
    x **= 2
    assert x is not before
    assert before.tolist() == [1.0, 2.0]
    assert x.tolist() == [6.25, 16.0]


def test_augmented_assignment_inside_a_session_is_differentiated():
    def fn(x):
        y = x
        y += x
        y *= x
        return y

    assert d(fn)(neo.LiteTensor(3.0)).item() == 12.0


IN_PLACE = {
    "x[0] = 1": (lambda x: x.__setitem__(0, 1.0), r"x\[i\] = v.*torch.where"),
    "torch.relu_": (lambda x: torch.relu_(x), r"torch.relu_ .*torch.relu\b"),
    "x.add_": (lambda x: x.add_(1), r"add_ .*in place.*add\("),
    "x.zero_": (lambda x: x.zero_(), "zero_ .*in place"),
    "torch.sin_": (lambda x: torch.sin_(x), "torch.sin_ .*in place"),
    "F.relu(inplace)": (lambda x: F.relu(x, inplace=True), "in.?place"),
    "F.relu_": (lambda x: F.relu_(x), "relu_ .*in place"),
    "out=": (lambda x: torch.add(x, x, out=torch.empty(2)), "out="),
    "out= of a LiteTensor": (lambda x: torch.exp(torch.ones(2), out=x), "out="),
    "nn.init": (lambda x: torch.nn.init.normal_(x), "normal_ .*in place"),
    "del x[0]": (lambda x: x.__delitem__(0), "deleted"),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_op_is_refused_and_named(name):
    work, message = IN_PLACE[name]
    x = neo.LiteTensor([1.0, -2.0])
    with pytest.raises(InPlaceError, match=message):
        work(x)
    assert x.tolist() == [1.0, -2.0]


def test_data_is_read_only():
    x = neo.LiteTensor(1.0)
    with pytest.raises(AttributeError):
        x.data = torch.ones(2)
    with pytest.raises(AttributeError, match="read-only"):
        x._bind(torch.ones(2))
