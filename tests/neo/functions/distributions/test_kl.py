"""kl_divergence of every pair that torch registers, to second order."""

import pytest
import torch.distributions as D
from torch.distributions.kl import _KL_REGISTRY

from tests.neo.functions.distributions.oracle import compare
from tests.neo.functions.distributions.table import ROWS_BY_NAME

MADE = [(name, row, type(row.make(*row.params))) for name, row in ROWS_BY_NAME.items()]


def pairs():
    for p_kind, q_kind in _KL_REGISTRY:
        for p_name, p, kind in MADE:
            if not issubclass(kind, p_kind):
                continue
            others = [(name, q) for name, q, kind in MADE if issubclass(kind, q_kind)]
            for q_name, q in others[:2]:
                yield pytest.param(p, q, id=f"{p_kind.__name__}, {q_kind.__name__}: {p_name}, {q_name}")
            break


def test_every_registered_pair_has_a_row():
    kinds = [kind for _, _, kind in MADE]
    for pair in _KL_REGISTRY:
        for asked in pair:
            assert any(issubclass(kind, asked) for kind in kinds)


@pytest.mark.parametrize(("p", "q"), list(pairs()))
def test_kl_divergence_matches_torch(p, q):
    count = len(p.params)
    inputs = (*p.params, *(param * 1.1 for param in q.params))

    def fn(*params):
        return D.kl_divergence(p.make(*params[:count]), q.make(*params[count:]))

    try:
        fn(*inputs)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        pytest.skip(f"torch has none: {error}")
    compare(fn, inputs)
