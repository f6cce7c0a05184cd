"""torch.distributions on LiteTensors: every distribution, every question, to second order, against torch itself."""

import pytest
import torch
import torch.distributions as D

import neo
from tests.neo.functions.distributions.oracle import compare
from tests.neo.functions.distributions.table import ROWS_BY_NAME, Row, t

ALL = pytest.mark.parametrize("name", ROWS_BY_NAME)
VALIDATION = pytest.mark.parametrize("more", [{}, {"validate_args": False}], ids=["validated", "unvalidated"])
QUANTILES = t(0.3, 0.5, 0.6)
# torch's own in-place work stands in the way of its gradient, or its dtypes do not fit
TORCH_FAILS = {
    ("Wishart", "rsample"),
    ("GeneralizedPareto", "log_prob"),
    ("GeneralizedPareto", "cdf"),
    ("GeneralizedPareto", "expand"),
}
ONCE = ("Beta", "Dirichlet")  # their draws' second derivative is zero to torch, silently


def row_of(name: str, use: str) -> Row:
    if (name.partition(" ")[0], use) in TORCH_FAILS:
        pytest.skip("torch itself fails")
    return ROWS_BY_NAME[name]


def asked(fn, row):
    """Skip what the distribution does not have."""
    try:
        fn(*row)
    except NotImplementedError:
        pytest.skip("torch has none")


@ALL
def test_every_distribution_of_torchs_has_a_row(name):
    assert ROWS_BY_NAME[name].make(*ROWS_BY_NAME[name].params) is not None
    kinds = {type(row.make(*row.params)) for row in ROWS_BY_NAME.values()}
    published = {getattr(D, name) for name in D.__all__ if isinstance(getattr(D, name), type)}
    lacking = {kind for kind in published if issubclass(kind, D.Distribution) and kind not in kinds}
    assert lacking <= {D.Distribution, D.ExponentialFamily}


@ALL
@VALIDATION
def test_log_prob_matches_torch(name, more):
    row = row_of(name, "log_prob")
    if row.discrete:
        compare(lambda *p: row.make(*p, **more).log_prob(row.value), row.params)
    else:
        compare(lambda *p: row.make(*p[:-1], **more).log_prob(p[-1]), (*row.params, row.value))


@ALL
def test_log_prob_of_a_torch_tensor_matches_torch(name):
    row = row_of(name, "log_prob")
    compare(lambda *p: row.make(*p).log_prob(row.value), row.params)


@ALL
@pytest.mark.parametrize("use", ["mean", "variance", "stddev", "mode"])
def test_moments_match_torch(name, use):
    row = row_of(name, use)

    def fn(*params):
        return getattr(row.make(*params), use)

    asked(fn, row.params)
    compare(fn, row.params)


@ALL
def test_entropy_matches_torch(name):
    row = row_of(name, "entropy")

    def fn(*params):
        return row.make(*params).entropy()

    asked(fn, row.params)
    compare(fn, row.params)


@ALL
def test_cdf_and_icdf_match_torch(name):
    row = row_of(name, "cdf")

    def cdf(*params):
        return row.make(*params[:-1]).cdf(params[-1])

    def icdf(*params):
        return row.make(*params).icdf(QUANTILES)

    asked(cdf, (*row.params, row.value))
    compare(cdf, (*row.params, row.value))
    asked(icdf, row.params)
    compare(icdf, row.params)


@ALL
@VALIDATION
def test_rsample_matches_torch_for_the_same_draws(name, more):
    row = row_of(name, "rsample")

    def fn(*params):
        return row.make(*params, **more).rsample((2,))

    asked(fn, row.params)
    compare(fn, row.params, once=name in ONCE)


@ALL
def test_sample_is_what_torch_draws_and_a_constant(name):
    row = row_of(name, "sample")
    compare(lambda *params: row.make(*params).sample((2,)), row.params)


@ALL
def test_sample_under_draws_is_a_pure_function_of_the_seed(name):
    row = row_of(name, "sample")

    def drawn(seed):
        with neo.nn.draws(seed):
            return neo.functions.registry.raw(row.make(*map(neo.LiteTensor, row.params)).sample((40,)))

    state = torch.get_rng_state()
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(torch.get_rng_state(), state)


@ALL
def test_expand_matches_torch(name):
    row = row_of(name, "expand")

    def fn(*params):
        made = row.make(*params)
        return made.expand((2, *made.batch_shape)).log_prob(row.value)

    compare(fn, row.params)


@ALL
def test_invalid_parameters_and_values_are_refused_as_by_torch(name):
    row = ROWS_BY_NAME[name]

    def refused(params, value):
        try:
            row.make(*params).log_prob(value)
        except ValueError:
            return True
        except RuntimeError:  # what torch's own kernels say of its numbers
            return True
        return False

    good, bad = row.params, tuple(p * torch.nan for p in row.params)
    for params, value in ((good, row.value), (bad, row.value), (good, row.value * torch.nan)):
        assert refused(map(neo.LiteTensor, params), neo.LiteTensor(value)) == refused(params, value)
