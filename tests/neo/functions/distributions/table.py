"""One row for each distribution of torch's: parameters, how it is made of them, and values to ask its density at.

Parameters are float64 and differentiated; `value` is differentiated too where the support is continuous.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributions as D


def t(*numbers: Any) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@dataclass
class Row:
    params: tuple[torch.Tensor, ...]
    make: Callable[..., Any]
    value: torch.Tensor
    discrete: bool = False
    lacks: set[str] = field(default_factory=set)  # what torch itself has not


A, B, C = t(0.5, 1.3, 2.2), t(1.5, 0.7, 3.1), t(0.2, 0.5, 0.8)
LOGITS, VECTOR = t(0.3, -1.2, 0.8), t(0.4, -0.3, 1.1)
ROWS = t([0.3, -1.2, 0.8], [1.0, 0.2, -0.5])
SIMPLEX = t([0.2, 0.3, 0.5], [0.6, 0.1, 0.3])
MATRIX = t([2.0, 0.3, 0.1], [0.3, 1.5, -0.2], [0.1, -0.2, 1.1])
LOWER = t([1.2, 0.0, 0.0], [0.3, 0.9, 0.0], [-0.4, 0.2, 1.5])
HIGH = t(5.0, 6.0, 7.0)


def symmetric(m: Any) -> Any:
    return (m + m.transpose(-1, -2)) / 2


def lower(m: Any) -> Any:
    return torch.tril(m)


def of(cls: Any, *names: str, **settings: Any) -> Callable[..., Any]:
    """cls(name=param, ...)"""
    return lambda *params, **more: cls(**dict(zip(names, params, strict=True)), **settings, **more)


def mixture(weights: Any, loc: Any, scale: Any, **more: Any) -> Any:
    return D.MixtureSameFamily(D.Categorical(logits=weights), D.Normal(loc, scale, **more), **more)


def mixture_of_vectors(weights: Any, loc: Any, scale: Any, **more: Any) -> Any:
    parts = D.Independent(D.Normal(loc, scale, **more), 1, **more)
    return D.MixtureSameFamily(D.Categorical(logits=weights, **more), parts, **more)


def transformed(loc: Any, scale: Any, **more: Any) -> Any:
    base = D.Normal(loc, scale, **more)
    return D.TransformedDistribution(base, [D.SigmoidTransform(), D.AffineTransform(loc, 2.0)], **more)


def squashed(loc: Any, scale: Any, **more: Any) -> Any:
    base = D.Independent(D.Normal(loc, scale, **more), 1, **more)
    return D.TransformedDistribution(base, D.TanhTransform(), **more)


BIT = t(1.0, 0.0, 1.0)
COUNT = t(3.0, 0.0, 2.0)
ONE_HOT = t([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])

ROWS_BY_NAME: dict[str, Row] = {
    "Bernoulli of probs": Row((C,), of(D.Bernoulli, "probs"), BIT, True),
    "Bernoulli of logits": Row((LOGITS,), of(D.Bernoulli, "logits"), BIT, True),
    "Beta": Row((A, B), of(D.Beta, "concentration1", "concentration0"), C),
    "Binomial of probs": Row((C,), of(D.Binomial, "probs", total_count=5), COUNT, True),
    "Binomial of logits": Row((LOGITS,), of(D.Binomial, "logits", total_count=t(5.0, 4.0, 3.0)), COUNT, True),
    "Categorical of probs": Row((SIMPLEX,), of(D.Categorical, "probs"), torch.tensor([1, 2]), True),
    "Categorical of logits": Row((ROWS,), of(D.Categorical, "logits"), torch.tensor([1, 2]), True),
    "Cauchy": Row((VECTOR, B), of(D.Cauchy, "loc", "scale"), A),
    "Chi2": Row((B,), of(D.Chi2, "df"), A),
    "ContinuousBernoulli of probs": Row((C,), of(D.ContinuousBernoulli, "probs"), t(0.3, 0.6, 0.9)),
    "ContinuousBernoulli of logits": Row((LOGITS,), of(D.ContinuousBernoulli, "logits"), t(0.3, 0.6, 0.9)),
    "Dirichlet": Row((ROWS.exp(),), of(D.Dirichlet, "concentration"), SIMPLEX),
    "Exponential": Row((B,), of(D.Exponential, "rate"), A),
    "FisherSnedecor": Row((t(3.0, 5.0, 2.5), HIGH), of(D.FisherSnedecor, "df1", "df2"), A),
    "Gamma": Row((A, B), of(D.Gamma, "concentration", "rate"), C),
    "GeneralizedPareto": Row(
        (t(0.1, 0.2, 0.3), B, t(0.3, 0.2, 0.4)),
        of(D.GeneralizedPareto, "loc", "scale", "concentration"),
        t(0.5, 1.0, 2.0),
    ),
    "Geometric of probs": Row((C,), of(D.Geometric, "probs"), COUNT, True),
    "Geometric of logits": Row((LOGITS,), of(D.Geometric, "logits"), COUNT, True),
    "Gumbel": Row((VECTOR, B), of(D.Gumbel, "loc", "scale"), A),
    "HalfCauchy": Row((B,), of(D.HalfCauchy, "scale"), A),
    "HalfNormal": Row((B,), of(D.HalfNormal, "scale"), A),
    "Independent": Row(
        (ROWS, ROWS.exp()),
        lambda loc, scale, **more: D.Independent(D.Normal(loc, scale, **more), 1, **more),
        ROWS.sin(),
    ),
    "InverseGamma": Row((t(2.5, 3.0, 4.0), B), of(D.InverseGamma, "concentration", "rate"), A),
    "Kumaraswamy": Row((t(1.5, 1.3, 2.2), B + 1), of(D.Kumaraswamy, "concentration1", "concentration0"), C),
    "LKJCholesky": Row(
        (t(1.5),),
        lambda c, **more: D.LKJCholesky(3, c.reshape(()), **more),
        t([1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.28, 0.96]),
    ),
    "Laplace": Row((VECTOR, B), of(D.Laplace, "loc", "scale"), A),
    "LogNormal": Row((VECTOR, B), of(D.LogNormal, "loc", "scale"), A),
    "LogisticNormal": Row(
        (ROWS, ROWS.exp()),
        of(D.LogisticNormal, "loc", "scale"),
        t([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]),
    ),
    "LowRankMultivariateNormal": Row(
        (VECTOR, ROWS.T.contiguous(), B),
        of(D.LowRankMultivariateNormal, "loc", "cov_factor", "cov_diag"),
        A,
    ),
    "MixtureSameFamily": Row((ROWS, ROWS.cos(), ROWS.exp()), mixture, t(0.3, 1.2)),
    "MixtureSameFamily of vectors": Row((t(0.3, -0.5), ROWS, ROWS.exp()), mixture_of_vectors, A),
    "Multinomial of probs": Row(
        (SIMPLEX,), of(D.Multinomial, "probs", total_count=4), t([1.0, 2.0, 1.0], [0.0, 3.0, 1.0]), True
    ),
    "Multinomial of logits": Row(
        (ROWS,), of(D.Multinomial, "logits", total_count=4), t([1.0, 2.0, 1.0], [0.0, 3.0, 1.0]), True
    ),
    "MultivariateNormal of a covariance": Row(
        (VECTOR, MATRIX), lambda loc, m, **more: D.MultivariateNormal(loc, symmetric(m), **more), A
    ),
    "MultivariateNormal of a precision": Row(
        (VECTOR, MATRIX),
        lambda loc, m, **more: D.MultivariateNormal(loc, precision_matrix=symmetric(m), **more),
        A,
    ),
    "MultivariateNormal of a factor": Row(
        (VECTOR, LOWER), lambda loc, m, **more: D.MultivariateNormal(loc, scale_tril=lower(m), **more), A
    ),
    "NegativeBinomial of probs": Row(
        (t(3.0, 2.0, 4.5), C), of(D.NegativeBinomial, "total_count", "probs"), COUNT, True
    ),
    "NegativeBinomial of logits": Row(
        (t(3.0, 2.0, 4.5), LOGITS), of(D.NegativeBinomial, "total_count", "logits"), COUNT, True
    ),
    "Normal": Row((VECTOR, B), of(D.Normal, "loc", "scale"), A),
    "OneHotCategorical of probs": Row((SIMPLEX,), of(D.OneHotCategorical, "probs"), ONE_HOT, True),
    "OneHotCategorical of logits": Row((ROWS,), of(D.OneHotCategorical, "logits"), ONE_HOT, True),
    "OneHotCategoricalStraightThrough": Row(
        (ROWS,), of(D.OneHotCategoricalStraightThrough, "logits"), ONE_HOT, True
    ),
    "Pareto": Row((t(0.5, 0.7, 0.9), HIGH), of(D.Pareto, "scale", "alpha"), t(1.5, 1.7, 2.9)),
    "Poisson": Row((B,), of(D.Poisson, "rate"), COUNT, True),
    "RelaxedBernoulli of probs": Row(
        (t(0.7), C),
        lambda temperature, p, **more: D.RelaxedBernoulli(temperature, probs=p, **more),
        t(0.3, 0.6, 0.9),
    ),
    "RelaxedBernoulli of logits": Row(
        (t(0.7), LOGITS),
        lambda temperature, p, **more: D.RelaxedBernoulli(temperature, logits=p, **more),
        t(0.3, 0.6, 0.9),
    ),
    "RelaxedOneHotCategorical of probs": Row(
        (t(0.7), SIMPLEX),
        lambda temperature, p, **more: D.RelaxedOneHotCategorical(temperature, probs=p, **more),
        SIMPLEX.flip(0),
    ),
    "RelaxedOneHotCategorical of logits": Row(
        (t(0.7), ROWS),
        lambda temperature, p, **more: D.RelaxedOneHotCategorical(temperature, logits=p, **more),
        SIMPLEX.flip(0),
    ),
    "StudentT": Row((t(3.5, 2.5, 5.0), VECTOR, B), of(D.StudentT, "df", "loc", "scale"), A),
    "TransformedDistribution": Row((VECTOR, B), transformed, t(0.9, 0.5, 2.2)),
    "TransformedDistribution of vectors": Row((ROWS, ROWS.exp()), squashed, ROWS.tanh()),
    "Uniform": Row((t(-1.0, 0.0, 0.5), HIGH), of(D.Uniform, "low", "high"), A + 0.2),
    "VonMises": Row((VECTOR, B), of(D.VonMises, "loc", "concentration"), t(0.3, -1.0, 2.0)),
    "Weibull": Row((B, t(1.5, 2.0, 1.2)), of(D.Weibull, "scale", "concentration"), A),
    "Wishart of a covariance": Row(
        (t(4.5), MATRIX),
        lambda df, m, **more: D.Wishart(df.reshape(()), symmetric(m), **more),
        MATRIX @ MATRIX,
    ),
    "Wishart of a precision": Row(
        (t(4.5), MATRIX),
        lambda df, m, **more: D.Wishart(df.reshape(()), precision_matrix=symmetric(m), **more),
        MATRIX @ MATRIX,
    ),
    "Wishart of a factor": Row(
        (t(4.5), LOWER),
        lambda df, m, **more: D.Wishart(df.reshape(()), scale_tril=lower(m), **more),
        MATRIX @ MATRIX,
    ),
}
