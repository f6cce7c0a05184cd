"""torch.distributions.transforms and constraints on LiteTensors, to second order."""

import pytest
import torch
import torch.distributions as D
from torch.distributions import constraints

import neo
from tests.neo.functions.distributions.oracle import compare
from tests.neo.functions.distributions.table import MATRIX, ROWS, VECTOR, B, t

TRANSFORMS = {
    "abs": D.AbsTransform,
    "affine": lambda: D.AffineTransform(0.3, 2.0),
    "cat": lambda: D.CatTransform([D.ExpTransform(), D.TanhTransform()], dim=-1, lengths=[1, 2]),
    "composed": lambda: D.ComposeTransform(
        [D.AffineTransform(0.3, 2.0), D.TanhTransform(), D.ExpTransform()]
    ),
    "composed, with a cache": lambda: D.ComposeTransform(
        [D.AffineTransform(0.3, 2.0, cache_size=1), D.TanhTransform(cache_size=1)], cache_size=1
    ),
    "corr_cholesky": D.CorrCholeskyTransform,
    "cumulative distribution": lambda: D.transforms.CumulativeDistributionTransform(D.Normal(t(0.0), t(1.0))),
    "exp": D.ExpTransform,
    "independent": lambda: D.IndependentTransform(D.ExpTransform(), 1),
    "lower_cholesky": D.LowerCholeskyTransform,
    "positive_definite": D.PositiveDefiniteTransform,
    "power": lambda: D.PowerTransform(t(2.0)),
    "reshape": lambda: D.ReshapeTransform((3,), (3, 1)),
    "sigmoid": D.SigmoidTransform,
    "softmax": D.SoftmaxTransform,
    "softplus": D.SoftplusTransform,
    "stack": lambda: D.StackTransform([D.ExpTransform(), D.TanhTransform(), D.SigmoidTransform()], dim=-1),
    "stick_breaking": D.StickBreakingTransform,
    "tanh": D.TanhTransform,
}
ALL = pytest.mark.parametrize("name", TRANSFORMS)
CONSTRAINTS = {
    "cat": constraints.cat([constraints.positive, constraints.unit_interval], dim=-1, lengths=[1, 2]),
    "corr_cholesky": constraints.corr_cholesky,
    "greater_than": constraints.greater_than(1.0),
    "greater_than_eq": constraints.greater_than_eq(1.0),
    "half_open_interval": constraints.half_open_interval(-1.0, 2.0),
    "independent": constraints.independent(constraints.positive, 1),
    "interval": constraints.interval(-1.0, 2.0),
    "less_than": constraints.less_than(2.0),
    "lower_cholesky": constraints.lower_cholesky,
    "nonnegative": constraints.nonnegative,
    "positive": constraints.positive,
    "positive_definite": constraints.positive_definite,
    "real": constraints.real,
    "real_vector": constraints.real_vector,
    "simplex": constraints.simplex,
    "stack": constraints.stack([constraints.positive, constraints.unit_interval, constraints.real], dim=-1),
    "unit_interval": constraints.unit_interval,
}
CHECKS = {
    **CONSTRAINTS,
    "boolean": constraints.boolean,
    "integer_interval": constraints.integer_interval(0, 3),
    "multinomial": constraints.multinomial(3),
    "nonnegative_integer": constraints.nonnegative_integer,
    "one_hot": constraints.one_hot,
    "positive_integer": constraints.positive_integer,
    "positive_semidefinite": constraints.positive_semidefinite,
    "square": constraints.square,
    "symmetric": constraints.symmetric,
    "lower_triangular": constraints.lower_triangular,
}


def given(name: str) -> torch.Tensor:
    if name in ("lower_cholesky", "positive_definite"):
        return MATRIX
    return ROWS.exp() if name == "power" else ROWS


@ALL
def test_forward_matches_torch(name):
    compare(lambda x: TRANSFORMS[name]()(x), (given(name),))


@ALL
def test_inverse_matches_torch(name):
    y = TRANSFORMS[name]()(given(name))
    compare(lambda y: TRANSFORMS[name]().inv(y), (y,))


@ALL
def test_log_abs_det_jacobian_matches_torch(name):
    def fn(x):
        transform = TRANSFORMS[name]()
        return transform.log_abs_det_jacobian(x, transform(x))

    try:
        fn(given(name))
    except NotImplementedError:
        pytest.skip("torch has none")
    compare(fn, (given(name),))


@ALL
def test_there_and_back_matches_torch(name):
    def fn(x):
        transform = TRANSFORMS[name]()
        return transform.inv(transform(x)) * x

    compare(fn, (given(name),))


def test_parameters_of_transforms_are_differentiated():
    def affine(x, loc, scale):
        transform = D.AffineTransform(loc, scale)
        return transform(x) + transform.log_abs_det_jacobian(x, x) + transform.inv(x)

    def power(x, exponent):
        transform = D.PowerTransform(exponent)
        return transform(x) + transform.log_abs_det_jacobian(x, transform(x)) + transform.inv(x)

    compare(affine, (ROWS, VECTOR, B))
    compare(power, (ROWS.exp(), B))


@pytest.mark.parametrize("to", [D.transform_to, D.biject_to], ids=["transform_to", "biject_to"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_way_to_a_constraint_matches_torch(name, to):
    try:
        transform = to(CONSTRAINTS[name])
    except NotImplementedError:
        pytest.skip("torch has none")
    compare(transform, (given(name),))


@pytest.mark.parametrize("to", [D.transform_to, D.biject_to], ids=["transform_to", "biject_to"])
def test_bounds_of_a_constraint_are_differentiated(to):
    compare(lambda x, low, width: to(constraints.interval(low, low + width))(x), (ROWS, VECTOR, B))
    compare(lambda x, low: to(constraints.greater_than(low))(x), (ROWS, VECTOR))


@pytest.mark.parametrize("name", CHECKS)
def test_constraint_checks_as_torch_does(name):
    square = {"square", "symmetric", "positive_semidefinite", "lower_triangular", "corr_cholesky"}
    inside = MATRIX if name in square else given(name)
    for value in (inside, inside.round(), (inside > 0).double(), torch.eye(3, dtype=torch.float64)):
        expected = CHECKS[name].check(value)
        assert torch.equal(CHECKS[name].check(neo.LiteTensor(value)).data, expected)
