"""Siren: the paper's formula, and activations that keep their distribution."""

from __future__ import annotations

import math

import pytest
import torch

import neo
from neo.nn import Siren


def test_siren_is_sines_between_linear_layers():
    model = Siren(2, 5, 4, 1, frequency=7.0)
    params = model.init(seed=0, dtype=torch.float64)
    x = torch.rand(6, 2, dtype=torch.float64)
    hidden = x
    for i in range(2):
        hidden = torch.sin(
            7.0 * (hidden @ params[f"linear{i}.weight"].data.T + params[f"linear{i}.bias"].data)
        )
    expected = hidden @ params["linear2.weight"].data.T + params["linear2.bias"].data
    torch.testing.assert_close(model(params, x).data, expected)
    neo.autograd.session.gradcheck(lambda x: model(params, x).sum(), (neo.LiteTensor(x),), order=2)


def test_activations_keep_their_distribution_from_layer_to_layer():
    """Sines of what is spread wide are distributed as an arcsine, of variance 1/2 (section 3.2)."""
    sizes = [2, *(256 for _ in range(5)), 1]
    model, x = Siren(*sizes), torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    params = model.init(seed=1)
    for layer, local in model.split(params):
        x = layer(local, x)
        if type(layer).__name__ == "Sine":
            assert float(x.data.var()) == pytest.approx(0.5, abs=0.05)
    assert float(params["linear1.weight"].data.abs().max()) == pytest.approx(
        math.sqrt(6 / 256) / 30, rel=1e-2
    )


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Siren(2), "at least an input and an output size"),
        (lambda: Siren(2, 1, frequency=0.0), "frequency must be"),
    ],
)
def test_values_out_of_range_are_refused_by_name(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
