"""What a table of numbers does not show: ties, layouts, dtypes, names, refusals, and work that is not done."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import neo.functions
from neo import LiteTensor
from neo.autograd import Tape, TapeContext, session
from neo.errors import InPlaceError
from neo.functions import convolution, linalg
from tests.neo.functions.orders import assert_orders_agree, close


def gradient(fn, *args):
    """The gradients of Σ fn by each argument, as torch tensors; one alone for one argument."""
    given = [x if isinstance(x, LiteTensor) else LiteTensor(x, dtype=torch.float64) for x in args]
    found = session.grad(fn, argnums=tuple(range(len(given))))(*given)
    return found[0].data if len(found) == 1 else [g.data for g in found]


# --- ties and kinks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [torch.maximum, torch.minimum])
def test_extreme_of_two_gives_each_half_when_they_tie(fn):
    assert [g.tolist() for g in gradient(fn, [1.0, 2.0], [1.0, 5.0 if fn is torch.maximum else -5.0])] == [
        [0.5, 0.0],
        [0.5, 1.0],
    ]


@pytest.mark.parametrize("fn", [torch.max, torch.min, torch.amax, torch.amin])
def test_extreme_of_all_shares_the_gradient_among_ties(fn):
    assert gradient(fn, [3.0, 3.0]).tolist() == [0.5, 0.5]


def test_max_over_a_dim_gives_the_gradient_to_the_entry_it_picked():
    assert gradient(lambda x: x.max(0).values, [3.0, 3.0]).tolist() == [1.0, 0.0]


def test_relu_and_abs_have_gradient_zero_at_zero():
    assert gradient(torch.relu, [0.0]).tolist() == gradient(torch.abs, [0.0]).tolist() == [0.0]


def test_clamp_passes_the_gradient_at_its_ends_and_hardtanh_does_not():
    assert gradient(lambda x: torch.clamp(x, -1, 1), [-1.0, 0.0, 1.0, 2.0]).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert gradient(F.hardtanh, [-1.0, 0.0, 1.0, 2.0]).tolist() == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("fn", [torch.norm, torch.linalg.vector_norm, torch.std])
def test_root_of_a_sum_of_squares_has_gradient_zero_at_zero(fn):
    assert gradient(fn, [0.0, 0.0]).tolist() == [0.0, 0.0]


def test_sinc_has_its_curvature_at_zero():
    curvature = gradient(lambda x: session.grad(torch.sinc, argnums=0)(x), [0.0])
    close(curvature, torch.tensor([-(math.pi**2) / 3], dtype=torch.float64), "sinc″(0)")


def test_prod_is_right_where_entries_are_zero():
    assert gradient(torch.prod, [0.0, 2.0, 3.0]).tolist() == [6.0, 0.0, 0.0]


# --- work nobody asked for -----------------------------------------------------------------------------------


def refuse(*args, **kwargs):
    raise AssertionError("computed a gradient that nobody asked for")


def test_conv_computes_no_image_gradient_when_the_image_needs_none(monkeypatch):
    monkeypatch.setattr(convolution, "input_gradient", refuse)
    image = torch.randn(2, 1, 5, 5)
    weight = LiteTensor(torch.randn(3, 1, 3, 3))
    found = session.grad(lambda w: F.conv2d(LiteTensor(image), w), argnums=0)(weight)
    assert found.shape == weight.shape
    with pytest.raises(AssertionError, match="nobody asked"):
        session.grad(F.conv2d, argnums=0)(LiteTensor(image), weight)


def test_conv_computes_no_weight_gradient_when_the_weight_needs_none(monkeypatch):
    monkeypatch.setattr(convolution, "weight_gradient", refuse)
    image, weight = LiteTensor(torch.randn(2, 1, 5, 5)), LiteTensor(torch.randn(3, 1, 3, 3))
    assert session.grad(F.conv2d, argnums=0)(image, weight).shape == image.shape


def test_linear_computes_only_the_products_it_needs(monkeypatch):
    calls = []
    product = linalg.product
    monkeypatch.setattr(linalg, "product", lambda *args: calls.append(args) or product(*args))
    x, w, b = (LiteTensor(torch.randn(shape)) for shape in ((4, 3), (5, 3), (5,)))
    session.grad(F.linear, argnums=1)(x, w, b)
    assert len(calls) == 1


def test_constant_ops_are_not_recorded():
    tape = Tape()
    x = LiteTensor(torch.randn(3))
    tape.watch(x)
    TapeContext.push(tape)
    try:
        made = [
            x == x,
            x > 0,
            torch.isnan(x),
            x.argmax(),
            torch.zeros_like(x),
            x.detach(),
            x.long(),
            x.to(torch.int32),
            x != 1,
        ]
    finally:
        TapeContext.pop()
    assert len(tape) == 0
    assert all(isinstance(value, LiteTensor) for value in made)


# --- layouts and dtypes --------------------------------------------------------------------------------------


def is_last(x):
    return x.data.is_contiguous(memory_format=torch.channels_last) and not x.data.is_contiguous()


def test_channels_last_survives_a_convolutional_block_and_its_gradient():
    x = LiteTensor(torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    w = LiteTensor(torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    stages = []

    def block(x):
        for stage in (
            lambda h: F.conv2d(h, w, padding=1),
            lambda h: F.batch_norm(h, None, None, training=True),
            torch.relu,
            lambda h: F.max_pool2d(h, 2),
        ):
            x = stage(x)
            stages.append(x)
        return x

    found = session.grad(lambda x: block(x) ** 2, argnums=0)(x)
    assert all(is_last(stage) for stage in stages)
    assert is_last(found)


def test_one_channel_asked_to_be_channels_last_makes_a_convolution_go_on_in_it():
    x = LiteTensor(torch.randn(2, 1, 6, 6)).contiguous(memory_format=torch.channels_last)
    assert is_last(F.conv2d(x, LiteTensor(torch.randn(4, 1, 3, 3))))


@pytest.mark.parametrize("op", [torch.add, torch.mul, torch.sub, torch.div, torch.maximum])
def test_binary_op_gives_each_gradient_in_the_dtype_and_shape_of_its_input(op):
    x, y = LiteTensor(torch.rand(3, 1) + 1), LiteTensor(torch.rand(4, dtype=torch.float64) + 1)
    found = session.grad(op, argnums=(0, 1))(x, y)
    assert [(g.dtype, tuple(g.shape)) for g in found] == [(torch.float32, (3, 1)), (torch.float64, (4,))]


def test_where_broadcasts_gradients_back_to_a_number_of_another_dtype():
    x, y = LiteTensor(torch.rand(2, 3)), LiteTensor(torch.tensor(2.0, dtype=torch.float64))
    found = session.grad(lambda x, y: torch.where(x > 0.5, x, y), argnums=(0, 1))(x, y)
    assert [(g.dtype, tuple(g.shape)) for g in found] == [(torch.float32, (2, 3)), (torch.float64, ())]


def test_integers_beside_floats_get_no_gradient():
    counts = LiteTensor(torch.tensor([1, 2, 3]))
    assert session.grad(lambda x: x * counts, argnums=0)(LiteTensor([1.0, 1.0, 1.0])).tolist() == [
        1.0,
        2.0,
        3.0,
    ]


# --- names and places where ops are reached ------------------------------------------------------------------


def test_reductions_take_every_spelling_of_their_dims():
    x = LiteTensor(torch.arange(24.0).reshape(2, 3, 4))
    expected = x.data.sum((0, 1), keepdim=True)
    for got in (
        x.sum(0, 1, keepdim=True),
        x.sum((0, 1), True),
        x.sum(dim=(0, 1), keepdim=True),
        x.sum(axis=(0, 1), keepdims=True),
        torch.sum(x, [0, 1], True),
        torch.sum(input=x, dim=(0, -2), keepdim=True),
        neo.functions.sum(x, axis=(0, 1), keepdims=True),
    ):
        close(got, expected, "sum")


def test_torch_names_of_operands_are_taken_as_keywords():
    x, y = LiteTensor([1.0, 2.0]), LiteTensor([3.0, 4.0])
    assert torch.add(input=x, other=y).tolist() == [4.0, 6.0]
    assert torch.dot(input=x, tensor=y).item() == 11.0
    assert torch.softmax(input=x * 0, dim=0).tolist() == [0.5, 0.5]


def test_plain_tensor_array_and_number_may_stand_on_the_left():
    x = LiteTensor(torch.tensor([1.0, 2.0], dtype=torch.float64))
    left = torch.tensor([3.0, 5.0], dtype=torch.float64)
    for other in (left, left.numpy()):
        for got, expected in (
            (other + x, [4.0, 7.0]),
            (other - x, [2.0, 3.0]),
            (other * x, [3.0, 10.0]),
            (other / x, [3.0, 2.5]),
            (other**x, [3.0, 25.0]),
            (other @ x, 13.0),
            (other > x, [True, True]),
        ):
            assert isinstance(got, LiteTensor)
            assert got.tolist() == expected
    assert (7 // x).tolist() == [7.0, 3.0]
    assert (7 % x).tolist() == [0.0, 1.0]
    assert (np.float64(2) ** x).tolist() == [2.0, 4.0]


def test_comparisons_give_bool_tensors_and_equal_gives_a_bool():
    x = LiteTensor([1.0, 2.0])
    assert (x == 1).dtype == torch.bool
    assert torch.equal(x, x) is True
    assert torch.allclose(x, x + 1) is False
    assert (~(x > 1) | (x > 1)).all().item() is True


def test_transposes_are_attributes():
    x = LiteTensor(torch.randn(2, 3, 4))
    assert x[0].T.shape == (4, 3)
    assert x.mT.shape == (2, 4, 3)


# --- batch norm, dropout, losses -----------------------------------------------------------------------------


def test_batch_norm_refuses_to_update_running_statistics():
    x, mean, var = LiteTensor(torch.randn(4, 3)), LiteTensor(torch.zeros(3)), LiteTensor(torch.ones(3))
    with pytest.raises(InPlaceError, match=r"Neo never writes in place.*running_mean=None"):
        F.batch_norm(x, mean, var, training=True)


def test_batch_norm_by_running_statistics_differentiates_them():
    x, mean, var = (torch.rand(shape, dtype=torch.float64) + 1 for shape in ((4, 3), (3,), (3,)))
    assert_orders_agree(
        lambda x, m, v: F.batch_norm(x, m, v),
        [x, mean, var],
        2,
        examiner=lambda x, m, v: (x - m) / torch.sqrt(v + 1e-5),
    )


def test_batch_norm_of_one_value_a_channel_is_refused():
    with pytest.raises(ValueError, match=r"more than 1 value per channel"):
        F.batch_norm(LiteTensor(torch.randn(1, 3)), None, None, training=True)


def test_dropout_keeps_its_mask_at_every_order_and_is_the_identity_outside_training():
    torch.manual_seed(0)
    x = LiteTensor(torch.rand(1000, dtype=torch.float64) + 1)
    out, slope = session.value_and_grad(lambda x: F.dropout(x, 0.25), argnums=0)(x)
    kept = out.data != 0
    assert 0.7 < kept.double().mean().item() < 0.8
    close(slope, kept.double() / 0.75, "slope")
    assert F.dropout(x, 0.25, training=False) is x
    pair = {}

    def inner(x):
        pair["out"] = F.dropout(x, 0.5) ** 2
        return pair["out"]

    curvature = session.grad(lambda x: session.grad(inner, argnums=0)(x), argnums=0)(x)
    close(curvature, (pair["out"].data != 0).double() * 2 / 0.25, "curvature")
    planes = F.dropout2d(LiteTensor(torch.ones(8, 16, 3, 3)), 0.5).data.flatten(2)
    assert bool((planes == planes[..., :1]).all())


def test_cross_entropy_differentiates_class_weights():
    x, w = torch.randn(4, 3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    labels = torch.tensor([0, 2, 1, 2])

    def by_hand(x, w):
        return -(torch.log_softmax(x, 1)[torch.arange(4), labels] * w[labels]).sum() / w[labels].sum()

    assert_orders_agree(lambda x, w: F.cross_entropy(x, labels, w), [x, w], 2, examiner=by_hand)


def test_cross_entropy_names_the_shapes_when_targets_do_not_fit():
    with pytest.raises(ValueError, match=r"target of shape \(4,\)"):
        F.cross_entropy(LiteTensor(torch.randn(4, 3)), torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda x: torch.stft(x, 2, return_complex=True), "stft"),
        (lambda x: torch.scatter(x, 0, torch.zeros(1, 1, dtype=torch.long), x, reduce="add"), "reduce"),
        (lambda x: torch.fft.fft(x), r"torch\.fft\.fft"),
        (lambda x: x.to(torch.complex64), "complex"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(call, what):
    with pytest.raises(NotImplementedError, match=what):
        call(LiteTensor(torch.randn(2, 2)))


def test_pooling_indices_are_reached_through_both_of_torchs_names():
    x = torch.randn(1, 2, 4, 4)
    for fn in (F.max_pool2d_with_indices, torch.nn.functional.max_pool2d_with_indices):
        values, places = fn(LiteTensor(x), 2)
        expected, expected_places = F.max_pool2d(x, 2, return_indices=True)
        assert torch.equal(values.data, expected)
        assert torch.equal(places.data, expected_places)


@pytest.mark.parametrize(
    "name",
    [
        "matmul",
        "exp",
        "softmax",
        "conv2d",
        "batch_norm",
        "cross_entropy",
        "einsum",
        "sum",
        "max",
        "norm",
        "where",
        "getitem",
        "relu",
        "pad",
    ],
)
def test_op_is_found_under_its_name_in_the_library(name):
    assert callable(getattr(neo.functions, name))


CLASS_WEIGHTS = {
    "too short": torch.ones(3, dtype=torch.float64),
    "too long": torch.ones(7, dtype=torch.float64),
    "a matrix": torch.ones(4, 1, dtype=torch.float64),
}


@pytest.mark.parametrize("weight", CLASS_WEIGHTS.values(), ids=CLASS_WEIGHTS.keys())
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss, F.multi_margin_loss], ids=lambda f: f.__name__)
def test_class_weights_that_torch_refuses_are_refused(loss, weight):
    x, target = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    with pytest.raises((RuntimeError, ValueError)):
        loss(x, target, weight=weight)
    with pytest.raises((RuntimeError, ValueError), match="weight"):
        loss(LiteTensor(x), target, weight=weight)
