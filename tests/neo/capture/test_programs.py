"""capture on the CPU, on random small programs of views, writes, draws and Neo's own ops: replayed bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neo
from neo import LiteTensor

pytestmark = pytest.mark.usefixtures("replays")

SIDE = 4
OPS = {  # of tensors (SIDE, SIDE): the last ones made, b and c the ones at two places
    "add": lambda b, c: b + c,
    "mul": lambda b, c: torch.mul(b, c),
    "product": lambda b, c: torch.tanh(b @ c),
    "transposed": lambda b, c: b.t(),
    "shifted": lambda b, c: torch.cat([b[1:], c[:1]]),
    "column": lambda b, c: b[:, 1:2].expand(SIDE, SIDE),
    "detached": lambda b, c: b.detach(),
    "constant": lambda b, c: torch.full((SIDE, SIDE), 0.5, dtype=b.dtype) * b,
    "arange": lambda b, c: torch.arange(SIDE, dtype=b.dtype).expand(SIDE, SIDE),
    "drawn": lambda b, c: b + torch.rand(SIDE, SIDE, dtype=b.dtype),
    "sorted": lambda b, c: torch.sort(b, dim=1)[0],
    "gathered": lambda b, c: b[torch.arange(SIDE).flip(0)],
    "where": lambda b, c: torch.where(b > c, b, c),
    "gradient": lambda b, c: neo.grad(lambda x: (torch.sin(x) * c).sum(), argnums=0)(LiteTensor(b)).data,
    "second order": lambda b, c: neo.grad(
        lambda x: (neo.grad(lambda z: torch.tanh(z @ LiteTensor(c)).sum(), argnums=0)(x) ** 2).sum(), argnums=0
    )(LiteTensor(b)).data,
    "over rows": lambda b, c: neo.vmap(lambda x, z: torch.softmax(x * z, 0), in_dims=(0, None))(b, c[0]),
    "softmax": lambda b, c: torch.softmax(b, dim=1),
    "normed": lambda b, c: torch.nn.functional.layer_norm(b, (SIDE,)),
    # in place, on memory of the step's own
    "added to": lambda b, c: b.clone().add_(c),
    "row written": lambda b, c: _write(b, lambda own: own[1].copy_(c[2])),
    "view scaled": lambda b, c: _write(b, lambda own: own.t()[:2].mul_(2)),
    "filled": lambda b, c: _write(b, lambda own: own.diagonal().fill_(1.5)),
}  # fmt: skip


def _write(b, change):
    own = b * 1
    change(own)
    return own


@st.composite
def programs(draw):
    """Names of ops, with the places of their operands among what was made before."""
    lines = []
    for i in range(draw(st.integers(1, 10))):
        place = st.integers(0, i + 1)
        lines.append((draw(st.sampled_from(sorted(OPS))), draw(place), draw(place)))
    outputs = draw(st.lists(st.integers(0, len(lines) + 1), min_size=1, max_size=3))
    return lines, outputs


def run(program, x, y):
    lines, outputs = program
    made = [x, y]
    for name, b, c in lines:
        made.append(OPS[name](made[b], made[c]))
    return [made[i] for i in outputs], {"lite": LiteTensor(made[-1])}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs(), dtype=st.sampled_from([torch.float32, torch.float64]), transposed=st.booleans())
def test_random_programs(program, dtype, transposed):
    captured = neo.capture(lambda x, y: run(program, x, y))
    for i in range(4):
        x, y = torch.randn(2, SIDE, SIDE, dtype=dtype, generator=torch.Generator().manual_seed(i))
        x = x.t() if transposed else x
        torch.manual_seed(i)
        (expected, last), state = run(program, x, y), torch.get_rng_state()
        torch.manual_seed(i)
        found, of_last = captured(x, y)
        assert torch.equal(state, torch.get_rng_state())
        for one, other in zip([*found, of_last["lite"].data], [*expected, last["lite"].data], strict=True):
            assert torch.equal(one, other)
