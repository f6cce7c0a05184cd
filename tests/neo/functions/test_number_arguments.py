"""Rule 14: a tensor where an op takes a number gets its gradient at every value, or is refused by name."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from neo.autograd import session
from neo.errors import NeoError, NumberError

pytest.importorskip("expecttest", reason="torch's operator database needs it")
pytest.importorskip("torch.testing._internal.common_methods_invocations")

from tests.neo.functions.certificate import ENTRIES, full_name
from tests.neo.functions.number_arguments import calls_of, judge

# What stands there may be a tensor: of indices, where torch's words name it; the other of two in max(x, other).
NOT_A_NUMBER = {"__getitem__", "repeat_interleave", "max-reduction_with_dim", "min-reduction_with_dim"}


def verdicts(op: Any, samples: int) -> Counter[str]:
    return Counter(
        verdict
        if verdict in ("right", "refused") or verdict.startswith("torch refuses")
        else f"{call}: {verdict}"
        for call in calls_of(op, samples)
        for verdict in [judge(call)]
    )


@pytest.mark.parametrize("op", [op for op in ENTRIES if full_name(op) not in NOT_A_NUMBER], ids=full_name)
def test_number_of_an_op_gets_its_gradient_or_is_refused(op: Any):
    faults = {
        key for key in verdicts(op, 2) if key not in ("right", "refused") and "torch refuses" not in key
    }
    assert not faults


@pytest.mark.exhaustive
@pytest.mark.parametrize("op", [op for op in ENTRIES if full_name(op) not in NOT_A_NUMBER], ids=full_name)
def test_number_of_an_op_gets_its_gradient_or_is_refused_on_every_sample(op: Any):
    faults = {
        key for key in verdicts(op, 10**6) if key not in ("right", "refused") and "torch refuses" not in key
    }
    assert not faults


# --- numbers with a gradient ---------------------------------------------------------------------------------

_generator = torch.Generator().manual_seed(14)


def normal(*shape: int) -> LiteTensor:
    return LiteTensor(torch.randn(shape, dtype=torch.float64, generator=_generator))


X, Y, V, W = normal(3, 3), normal(3, 3), normal(3), normal(3)
B1, B2 = normal(2, 3, 3), normal(2, 3, 3)
PLAIN = X.data.clone()
TARGET, SIGNS = torch.tensor([0, 2, 1]), torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)

# name -> the op, of its number alone; at which values
DIFFERENTIATED = {
    "add.alpha": (lambda a: torch.add(X, Y, alpha=a), (-1, 0, 1, 2, 0.5)),
    "add.alpha-of-plain-tensors": (lambda a: torch.add(PLAIN, PLAIN, alpha=a), (0, 1, 2)),
    "method-add.alpha": (lambda a: X.add(Y, alpha=a), (0, 1)),
    "sub.alpha": (lambda a: torch.sub(X, Y, alpha=a), (-1, 0, 1, 2, 0.5)),
    "rsub.alpha": (lambda a: torch.rsub(X, Y, alpha=a), (0, 1, 2)),
    "addmm.alpha": (lambda a: torch.addmm(X, X, Y, alpha=a), (0, 1, 2)),
    "addmm.beta": (lambda b: torch.addmm(X, X, Y, beta=b), (0, 1, 2)),
    "addmv.alpha": (lambda a: torch.addmv(V, X, W, alpha=a), (0, 1, 2)),
    "addmv.beta": (lambda b: torch.addmv(V, X, W, beta=b), (0, 1, 2)),
    "addr.alpha": (lambda a: torch.addr(X, V, W, alpha=a), (0, 1, 2)),
    "addr.beta": (lambda b: torch.addr(X, V, W, beta=b), (0, 1, 2)),
    "baddbmm.alpha": (lambda a: torch.baddbmm(B1, B1, B2, alpha=a), (0, 1, 2)),
    "baddbmm.beta": (lambda b: torch.baddbmm(B1, B1, B2, beta=b), (0, 1, 2)),
    "addbmm.alpha": (lambda a: torch.addbmm(X, B1, B2, alpha=a), (0, 1, 2)),
    "addbmm.beta": (lambda b: torch.addbmm(X, B1, B2, beta=b), (0, 1, 2)),
    "addcmul.value": (lambda v: torch.addcmul(X, X, Y, value=v), (0, 1, 2)),
    "addcdiv.value": (lambda v: torch.addcdiv(X, X, Y, value=v), (0, 1, 2)),
    "index_add.alpha": (lambda a: torch.index_add(X, 0, torch.tensor([0, 2]), Y[:2], alpha=a), (0, 1, 2)),
    "var.correction": (lambda c: torch.var(X, correction=c), (0, 1, 2)),
    "std.correction": (lambda c: X.std(1, correction=c), (0, 1, 2)),
    "var_mean.correction": (lambda c: torch.var_mean(X, 0, correction=c)[0], (0, 1)),
    "std.correction-of-a-plain-tensor": (lambda c: torch.std(PLAIN, correction=c), (0, 1)),
    "lerp.weight": (lambda w: torch.lerp(X, Y, w), (0, 0.5, 1)),
    "sdpa.scale": (lambda s: F.scaled_dot_product_attention(B1, B2, B1, scale=s), (0, 0.5, 1, 2)),
    "cross_entropy.label_smoothing": (lambda e: F.cross_entropy(X, TARGET, label_smoothing=e), (0, 0.1, 0.5)),
    "cross_entropy.label_smoothing-of-probabilities": (
        lambda e: F.cross_entropy(X, torch.softmax(Y, 1), label_smoothing=e),
        (0, 0.1),
    ),
    "norm.p": (lambda p: torch.norm(X, p), (1, 2, 3, 0.5, -1)),
    "norm.p-of-a-plain-tensor": (lambda p: torch.norm(PLAIN, p), (1, 2)),
    "norm.p-over-dim": (lambda p: X.norm(p, 1), (1, 2)),
    "vector_norm.ord": (lambda p: torch.linalg.vector_norm(X, p, 0), (1, 2, 3, 0.5, -2)),
    "linalg.norm.ord": (lambda p: torch.linalg.norm(V, p), (1, 2)),
    "dist.p": (lambda p: torch.dist(X, Y, p), (1, 2, 3)),
    "cdist.p": (lambda p: torch.cdist(X, Y, p), (1, 2, 3)),
    "pdist.p": (lambda p: F.pdist(X, p), (1, 2, 3)),
    "pairwise_distance.p": (lambda p: F.pairwise_distance(X, Y, p), (1, 2, 3)),
    "pairwise_distance.eps": (lambda e: F.pairwise_distance(X, Y, eps=e), (0, 0.1)),
    "normalize.p": (lambda p: F.normalize(X, p), (1, 2, 3)),
    "normalize.p-of-a-plain-tensor": (lambda p: F.normalize(PLAIN, p), (1, 2)),
    "normalize.eps": (lambda e: F.normalize(X, eps=e), (1e-12, 10)),
    "renorm.p": (lambda p: torch.renorm(X, p, 0, 0.5), (1, 2, 3)),
    "renorm.maxnorm": (lambda m: torch.renorm(X, 2, 0, m), (0.5, 1)),
    "lp_pool1d.norm_type": (lambda p: F.lp_pool1d(torch.exp(X), p, 2), (1, 2, 3)),
    "cosine_similarity.eps": (lambda e: F.cosine_similarity(X, Y, eps=e), (1e-8, 2)),
    "layer_norm.eps": (lambda e: F.layer_norm(X, (3,), eps=e), (0, 0.1, 1)),
    "rms_norm.eps": (lambda e: F.rms_norm(X, (3,), eps=e), (0, 0.1, 1)),
    "group_norm.eps": (lambda e: F.group_norm(X, 1, eps=e), (0, 0.1, 1)),
    "local_response_norm.beta": (lambda b: F.local_response_norm(B1, 2, beta=b), (0, 1)),
    "triplet_margin_loss.margin": (lambda m: F.triplet_margin_loss(X, Y, X + 1, margin=m), (1, 2)),
    "triplet_margin_loss.p": (lambda p: F.triplet_margin_loss(X, Y, X + 1, p=p), (1, 2)),
    "margin_ranking_loss.margin": (lambda m: F.margin_ranking_loss(V, W, SIGNS, margin=m), (0, 1)),
    "hinge_embedding_loss.margin": (lambda m: F.hinge_embedding_loss(V, SIGNS, margin=m), (1, 2)),
    "cosine_embedding_loss.margin": (lambda m: F.cosine_embedding_loss(X, Y, SIGNS, margin=m), (0, 0.1)),
    "multi_margin_loss.margin": (lambda m: F.multi_margin_loss(X, TARGET, margin=m), (1, 2)),
    "huber_loss.delta": (lambda d: F.huber_loss(X, Y, delta=d), (0.5, 1, 2)),
    "smooth_l1_loss.beta": (lambda b: F.smooth_l1_loss(X, Y, beta=b), (0.5, 1, 2)),
    "poisson_nll_loss.eps": (lambda e: F.poisson_nll_loss(X.abs(), Y.abs(), log_input=False, eps=e), (0.1, 1)),
    "softshrink.lambd": (lambda a: F.softshrink(X, a), (0.1, 0.5)),
    "clamp.min": (lambda a: torch.clamp(X, min=a), (-1, 0, 1)),
    "clamp.max": (lambda a: torch.clamp(X, max=a), (-1, 0, 1)),
    "pow.exponent": (lambda p: torch.pow(X.abs(), p), (0, 1, 2, 3)),
    "operator-pow": (lambda p: X.abs() ** p, (0, 1, 2)),
    "masked_fill.value": (lambda v: X.masked_fill(X > 0, v), (0, 1)),
    "index_fill.value": (lambda v: X.index_fill(0, torch.tensor([1]), v), (0, 1)),
    "scatter.value": (lambda v: torch.scatter(X, 0, torch.tensor([[0, 1, 2]]), value=v), (0, 1)),
    "pad.value": (lambda v: F.pad(X, (1, 2), value=v), (0, 1)),
    "constant_pad_nd.value": (lambda v: torch.constant_pad_nd(X, (0, 1, 1, -1), v), (0, 1)),
    "full_like": (lambda v: torch.full_like(X, v), (0, 1)),
    "neo.full_like": (lambda v: neo.full_like(X, v), (0, 1)),
    "full_like-of-a-plain-tensor": (lambda v: torch.full_like(PLAIN, v), (0, 1)),
    "new_full": (lambda v: X.new_full((2, 2), v), (0, 1)),
    "full": (lambda v: torch.full((3,), v, dtype=torch.float64), (0, 1)),
    "neo.full": (lambda v: neo.full((3,), v, dtype=torch.float64), (0, 1)),
    "neo.full-by-name": (lambda v: neo.full((3,), fill_value=v, dtype=torch.float64), (0, 1)),
    "linspace.start": (lambda v: torch.linspace(v, 3, 5, dtype=torch.float64), (0, 3)),
    "linspace.end": (lambda v: neo.linspace(1, v, 5, dtype=torch.float64), (0, 3)),
    "linspace-of-one": (lambda v: neo.linspace(v, v + 1, 1, dtype=torch.float64), (0, 3)),
    "logspace.end": (lambda v: torch.logspace(0, v, 3, dtype=torch.float64), (0, 1)),
    "trapezoid.dx": (lambda h: torch.trapezoid(X, dx=h), (1, 2)),
    "gradient.spacing": (lambda h: torch.gradient(X, spacing=h)[0], (1, 2)),
}  # fmt: skip


def slope(fn: Any, value: float, step: float = 1e-6) -> float:
    ahead, behind = (fn(value + h).data for h in (step, -step))
    return float(((ahead - behind) * weights(ahead)).sum() / (2 * step))


def weights(out: Any) -> torch.Tensor:
    return torch.arange(1.0, out.numel() + 1, dtype=torch.float64).reshape(tuple(out.shape))


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, values) in DIFFERENTIATED.items() for value in values]
)
def test_gradient_of_a_number_matches_differences_of_the_plain_number(name: str, value: float):
    fn = DIFFERENTIATED[name][0]

    def weighted(v: Any) -> Any:
        out = fn(v)
        return (out * weights(out)).sum()

    found = session.grad(weighted, argnums=0)(LiteTensor(float(value), dtype=torch.float64))

    def plain(v: float) -> Any:
        try:
            return lite(fn(v))
        except (RuntimeError, ValueError):  # 0 is the end of where it is defined
            return lite(fn(abs(v)))

    torch.testing.assert_close(found.item(), slope(plain, value), rtol=1e-5, atol=1e-6)


def lite(out: Any) -> LiteTensor:
    return out if isinstance(out, LiteTensor) else LiteTensor(out)


# --- numbers without one -------------------------------------------------------------------------------------

REFUSED = {
    "leaky_relu: negative_slope": lambda p: F.leaky_relu(X, p),
    "threshold: value": lambda p: F.threshold(X, 0.1, p),
    "softplus: beta": lambda p: F.softplus(X, p),
    "elu: alpha": lambda p: F.elu(X, alpha=p),
    "celu: alpha": lambda p: F.celu(X, p),
    "hardtanh: max_val": lambda p: F.hardtanh(X, -1.0, p),
    "dropout: p": lambda p: F.dropout(X, p),
    "batch_norm: eps": lambda p: F.batch_norm(X, None, None, training=True, eps=p),
    "batch_norm: momentum": lambda p: F.batch_norm(X, None, None, training=True, momentum=p),
    "nan_to_num: nan": lambda p: torch.nan_to_num(X, p),
    "logit: eps": lambda p: torch.logit(X.sigmoid(), p),
    "sum: dim": lambda p: X.sum(p),
    "reshape: sizes": lambda p: X.reshape(p, 9),
    "interpolate: scale_factor": lambda p: F.interpolate(B1, scale_factor=p),
    "linalg_matrix_norm: ord": lambda p: torch.linalg.matrix_norm(X, p),
    "linalg_norm: ord": lambda p: torch.linalg.norm(X, p),
    "rand: sizes": lambda p: neo.rand(p),
    "arange: bounds": lambda p: torch.arange(p),
    "arange: end": lambda p: torch.arange(end=p),
    "new_tensor: data": lambda p: X.new_tensor([p, 1.0]),
    "softplus: beta, of a plain tensor": lambda p: F.softplus(PLAIN, p),
    "leaky_relu: got a LiteTensor where it takes a number": lambda p: F.leaky_relu(PLAIN, p),
    "triplet_margin_loss: got a LiteTensor": lambda p: F.triplet_margin_loss(
        PLAIN, PLAIN, PLAIN, margin=p + 1
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("value", [0.0, 1.0, 2.0])
def test_tracked_number_without_a_gradient_is_refused_by_op_and_argument(name: str, value: float):
    with pytest.raises(NumberError, match=f"^{name.partition(',')[0]}"):
        session.grad(lambda p: REFUSED[name](p).sum(), argnums=0)(LiteTensor(value, dtype=torch.float64))


@pytest.mark.parametrize("order", [0.0, float("inf"), float("-inf")])
def test_order_of_a_norm_is_refused_where_it_has_no_derivative(order: float):
    with pytest.raises(NumberError, match="ord, p"):
        session.grad(lambda p: torch.norm(X, p), argnums=0)(LiteTensor(order))


def test_number_is_refused_at_an_inner_level_while_an_outer_session_tracks_it():
    def outer(p: LiteTensor) -> LiteTensor:
        return session.grad(lambda x: F.leaky_relu(x, p).sum(), argnums=0)(X).sum()

    with pytest.raises(NumberError, match="leaky_relu: negative_slope"):
        session.grad(outer, argnums=0)(LiteTensor(0.1))


def test_number_is_refused_inside_a_checkpoint():
    def fn(p: LiteTensor) -> LiteTensor:
        return session.checkpoint(lambda x: F.leaky_relu(x, p).sum())(X)

    with pytest.raises(NumberError, match="leaky_relu: negative_slope"):
        session.grad(fn, argnums=0)(LiteTensor(0.1))


def test_refusal_is_a_neo_error_and_a_type_error():
    assert issubclass(NumberError, NeoError)
    assert issubclass(NumberError, TypeError)


# --- tensors that are as good as numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [LiteTensor, torch.tensor, np.float64, np.float32], ids=lambda f: f.__name__)
def test_number_that_nobody_tracks_is_read_from_what_holds_it(wrap: Any):
    expected = F.leaky_relu(X, 0.25)
    given = wrap(0.25)
    found, gradient = session.value_and_grad(lambda x: F.leaky_relu(x, given).sum(), argnums=0)(X)
    assert torch.equal(F.leaky_relu(X, given).data, expected.data)
    assert found.item() == pytest.approx(expected.sum().item())
    assert torch.equal(gradient.data, torch.where(X.data > 0, 1.0, 0.25).double())


@pytest.mark.parametrize("wrap", [LiteTensor, torch.tensor, np.int64, np.int32], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("fn", "number"),
    [
        (lambda n: X.sum(n), 1),
        (lambda n: torch.sum(X, dim=n), 0),
        (lambda n: X.reshape(n, 3), 3),
        (lambda n: X.permute(n, 0), 1),
        (lambda n: torch.softmax(X, n), 1),
        (lambda n: torch.cat([X, Y], n), 1),
        (lambda n: torch.transpose(X, n, 1), 0),
        (lambda n: X.unsqueeze(n), 1),
        (lambda n: torch.topk(X, n).values, 2),
        (lambda n: torch.var(X, correction=n), 0),
        (lambda n: torch.linalg.matrix_power(X, n), 2),
        (lambda n: torch.linalg.vector_norm(X, n), 2),
        (lambda n: X.narrow(0, n, 2), 1),
        (lambda n: X.select(0, n), 1),
        (lambda n: torch.tril(X, n), -1),
        (lambda n: F.pad(X, (n, n)), 1),
        (lambda n: torch.cumsum(X, n), 1),
        (lambda n: neo.full((n, 2), 1.0), 2),
        (lambda n: neo.zeros((n, 2)), 2),
        (lambda n: neo.arange(n), 4),
    ],
)
def test_integer_argument_is_read_from_what_holds_it(fn: Any, number: int, wrap: Any):
    assert torch.equal(fn(wrap(number)).data, fn(number).data)


def test_number_of_several_entries_is_refused():
    for given in (LiteTensor([1.0]), torch.ones(2), LiteTensor([[1.0]])):
        with pytest.raises(TypeError, match=r"alpha.* must be (a number or a 0-dim tensor|Number)"):
            torch.add(X, Y, alpha=given)


def test_implementation_of_the_users_may_differentiate_by_any_of_its_parameters():
    def target(x: Any, slope: float = 0.1) -> Any:
        raise AssertionError("Neo answers")

    @neo.functions.implements(target, name="own_slope", only=True)
    def own(x: Any, slope: float = 0.1) -> Any:
        return x * slope

    handler = neo.functions.own_slope
    assert session.grad(lambda p: handler(X, p).sum(), argnums=0)(LiteTensor(2.0)).item() == pytest.approx(
        X.sum().item()
    )
