"""torch.distributions on LiteTensors: every distribution, every question, to second order, against torch itself."""

import warnings

import pytest
import torch
import torch.distributions as D

import neo
from neo.functions.registry import raw
from tests.neo.functions.distributions.oracle import compare
from tests.neo.functions.distributions.table import ROWS_BY_NAME, Row, t

pytestmark = pytest.mark.filterwarnings(
    "ignore:Singular sample detected"
)  # what torch says of Wishart's draws

QUANTILES = t(0.3, 0.5, 0.6)
VALIDATION = pytest.mark.parametrize("more", [{}, {"validate_args": False}], ids=["validated", "unvalidated"])
# torch's own in-place work stands in the way of its gradient, or its dtypes do not fit
TORCH_FAILS = {
    "rsample": ("Wishart",),
    **dict.fromkeys(("log_prob", "log_prob of a constant", "cdf", "expand"), ("GeneralizedPareto",)),
}
ONCE = ("Beta", "Dirichlet")  # their draws' second derivative is zero to torch, silently


def place_and_value(row: Row) -> tuple[torch.Tensor, ...]:
    return row.params if row.discrete else (*row.params, row.value)


QUESTIONS = {  # use -> (what is asked of a row, what it is differentiated by)
    "log_prob": (
        lambda row, *p: (
            row.make(*p).log_prob(row.value) if row.discrete else row.make(*p[:-1]).log_prob(p[-1])
        ),
        place_and_value,
    ),
    "log_prob of a constant": (lambda row, *p: row.make(*p).log_prob(row.value), lambda row: row.params),
    "expand": (
        lambda row, *p: (lambda made: made.expand((2, *made.batch_shape)).log_prob(row.value))(row.make(*p)),
        lambda row: row.params,
    ),
    "cdf": (lambda row, *p: row.make(*p[:-1]).cdf(p[-1]), lambda row: (*row.params, row.value)),
    "icdf": (lambda row, *p: row.make(*p).icdf(QUANTILES), lambda row: row.params),
    "entropy": (lambda row, *p: row.make(*p).entropy(), lambda row: row.params),
    "rsample": (lambda row, *p: row.make(*p).rsample((2,)), lambda row: row.params),
    "sample": (lambda row, *p: row.make(*p).sample((2,)), lambda row: row.params),
    "mean": (lambda row, *p: row.make(*p).mean, lambda row: row.params),
    "variance": (lambda row, *p: row.make(*p).variance, lambda row: row.params),
    "stddev": (lambda row, *p: row.make(*p).stddev, lambda row: row.params),
    "mode": (lambda row, *p: row.make(*p).mode, lambda row: row.params),
}


def questions() -> list[tuple[str, str]]:
    """(distribution, use) for what torch answers."""
    found = []
    for name, row in ROWS_BY_NAME.items():
        for use, (ask, inputs) in QUESTIONS.items():
            if name.partition(" ")[0] in TORCH_FAILS.get(use, ()):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ask(row, *inputs(row))
            except NotImplementedError:
                continue
            found.append((name, use))
    return found


def test_every_distribution_of_torchs_has_a_row():
    kinds = {type(row.make(*row.params)) for row in ROWS_BY_NAME.values()}
    published = [getattr(D, name) for name in D.__all__]
    lacking = {
        kind
        for kind in published
        if isinstance(kind, type) and issubclass(kind, D.Distribution) and kind not in kinds
    }
    assert lacking <= {D.Distribution, D.ExponentialFamily}


@pytest.mark.parametrize(("name", "use"), questions())
def test_answers_match_torch(name, use):
    row, (ask, inputs) = ROWS_BY_NAME[name], QUESTIONS[use]
    compare(lambda *p: ask(row, *p), inputs(row), once=use == "rsample" and name in ONCE)


@pytest.mark.parametrize("name", ROWS_BY_NAME)
def test_log_prob_without_validation_matches_torch(name):
    row = ROWS_BY_NAME[name]
    if name in TORCH_FAILS["log_prob"]:  # of float64; so in the dtype that it takes
        row = Row(tuple(p.float() for p in row.params), row.make, row.value.float())
        found = row.make(*map(neo.LiteTensor, row.params)).log_prob(neo.LiteTensor(row.value))
        assert torch.allclose(found.data, row.make(*row.params).log_prob(row.value))
        return
    compare(lambda *p: row.make(*p, validate_args=False).log_prob(row.value), row.params)


@pytest.mark.parametrize("name", ROWS_BY_NAME)
def test_sample_under_draws_is_a_pure_function_of_the_seed(name):
    row = ROWS_BY_NAME[name]

    def drawn(seed):
        with neo.nn.draws(seed):
            return raw(row.make(*map(neo.LiteTensor, row.params)).sample((40,)))

    state = torch.get_rng_state()
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ROWS_BY_NAME)
def test_invalid_parameters_and_values_are_refused_as_by_torch(name):
    row = ROWS_BY_NAME[name]

    def refused(params, value):
        try:
            row.make(*params).log_prob(value)
        except (ValueError, RuntimeError):  # the latter: what torch's own kernels say of its numbers
            return True
        return False

    good, bad = row.params, tuple(p * torch.nan for p in row.params)
    for params, value in ((good, row.value), (bad, row.value), (good, row.value * torch.nan)):
        assert refused(map(neo.LiteTensor, params), neo.LiteTensor(value)) == refused(params, value)


def test_numbers_beside_a_tensor_take_its_dtype():
    scale = t(0.5, 1.5)
    compare(lambda s: D.Normal(0.1, s).log_prob(t(0.3, 0.2)), (scale,))
    compare(lambda s: D.Gamma(0.7, s).log_prob(t(0.3, 0.2)), (scale,))
    compare(lambda s: D.Uniform(0.1, s).rsample(), (scale,))
    half = D.HalfNormal(neo.LiteTensor(torch.ones(3, dtype=torch.float16)))
    assert half.sample().dtype is torch.float16


def test_gradient_reaches_the_value_of_one_entry():
    # torch.as_tensor(value), with which these begin, would make a constant of it
    for make in (
        lambda x: D.Gamma(x.new_tensor(2.0), 1.0),
        lambda x: D.HalfCauchy(x.new_tensor(2.0)),
        lambda x: D.Chi2(x.new_tensor(3.0)),
    ):
        compare(lambda x, make=make: make(x).log_prob(x), (t(0.7),))
