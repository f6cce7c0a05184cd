"""Rule 16: at kinks, poles, ties and edges, derivatives of every order are torch's or the closed form, or NaN where
none exists; never a number that neither has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from neo.autograd import session
from neo.functions import registry

inf, nan = math.inf, math.nan
L = torch.linalg


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def weighted(out: Any) -> Any:
    """The sum of the entries, of several results each with a weight of its own."""
    if isinstance(out, tuple | list):
        return sum(weighted(part) * weight for part, weight in zip(out, (1.0, 0.7, 0.4), strict=False))
    return out.sum()


def by_neo(fn: Callable[..., Any], args: Sequence[torch.Tensor], order: int) -> list[torch.Tensor]:
    """Gradient of the sum of the gradients of ... of fn."""

    def level(inner: Callable[..., Any]) -> Callable[..., Any]:
        return session.grad(lambda *xs: weighted(inner(*xs)), argnums=tuple(range(len(args))))

    for _ in range(order):
        fn = level(fn)
    return [found.data for found in fn(*map(LiteTensor, args))]


def by_torch(fn: Callable[..., Any], args: Sequence[torch.Tensor], order: int) -> list[torch.Tensor]:
    leaves = [x.clone().requires_grad_() for x in args]
    out = fn(*leaves)
    for _ in range(order):
        total = weighted(out)
        if not total.requires_grad:
            return [torch.zeros_like(x) for x in leaves]
        out = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    return [found.detach() + 0 for found in out]


def equal(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9, equal_nan=True)


def hessian(fn: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    return session.hessian(fn)(LiteTensor(x)).data


# --- every function of single entries, at the points where such functions turn --------------------------------

POINTS = tensor([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 6.0, 1e-4, 0.1, 1e-2, -20.0, 30.0])
# Closed forms, checked below: torch gives NaN or a wrong number at some of the points.
EXACT = {"sinc", "special_sinc", "special_i0", "special_i1", "special_i1e", "i0"}
NO_SECOND_ORDER = {"hardsigmoid"}  # in torch
SUBJECTS = {"activations", "arithmetic", "elementwise", "piecewise", "special", "transcendental"}


def unary_functions() -> list[Any]:
    """A torch function of each implementation of these subjects that takes one tensor to one of its shape."""
    found: dict[int, Any] = {}
    for target, handler in registry._handlers.items():
        rule = getattr(handler, "policy", None) or getattr(handler, "__wrapped__", None)
        subject = rule.__module__.rpartition(".")[2] if rule is not None else None
        if (
            id(handler) in found
            or subject not in SUBJECTS
            or getattr(target, "__objclass__", None) is not None
        ):
            continue  # of methods: their functions are there too
        try:
            out = target(POINTS)
        except (TypeError, RuntimeError, ValueError, IndexError):
            continue
        if isinstance(out, torch.Tensor) and out.shape == POINTS.shape and out.is_floating_point():
            found[id(handler)] = target
    return list(found.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fn", unary_functions(), ids=lambda fn: fn.__name__)
def test_function_of_entries_has_torchs_derivatives_at_special_points(fn: Any):
    if fn.__name__ in EXACT:
        pytest.skip("closed forms below")
    for order in (1, 2, 3) if fn.__name__ not in NO_SECOND_ORDER else (1,):
        equal(by_neo(fn, [POINTS], order)[0], by_torch(fn, [POINTS], order)[0])


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (F.hardtanh, 1.0),
        (F.relu6, 1.0),
        (F.softshrink, 1.0),
        (F.hardswish, 1.0),
        (F.hardsigmoid, 0.0),
        (torch.abs, 0.0),
        (torch.relu, 1.0),
    ],
)
def test_gradient_at_nan_is_torchs(fn: Any, expected: float):
    x = tensor([nan])
    equal(by_neo(fn, [x], 1)[0], by_torch(fn, [x], 1)[0])
    equal(by_neo(fn, [x], 1)[0], tensor([expected]))


EXACT_FUNCTIONS: dict[str, tuple[Any, Callable[[Any, Any], Any], list[float]]] = {
    "sinc": (torch.sinc, lambda mp, x: mp.sinc(mp.pi * x), [0.0]),
    "i0": (torch.special.i0, lambda mp, x: mp.besseli(0, x), [0.0]),
    "i1": (torch.special.i1, lambda mp, x: mp.besseli(1, x), [0.0]),
    "i0e": (torch.special.i0e, lambda mp, x: mp.exp(-abs(x)) * mp.besseli(0, x), []),  # |x|: a kink at 0
    "i1e": (torch.special.i1e, lambda mp, x: mp.exp(-abs(x)) * mp.besseli(1, x), []),
}
NEAR = [
    1e-12,
    1e-9,
    -1e-9,
    1e-6,
    1e-4,
    -1e-4,
    1e-3,
    0.01,
    0.3,
    -0.3,
    0.7,
    1.0,
    1.3,
    -2.0,
    2.5,
    7.9,
    8.1,
    30.0,
]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", EXACT_FUNCTIONS)
def test_derivative_is_exact_near_zero_at_every_order(name: str, order: int):
    mp = pytest.importorskip("mpmath")
    fn, exact, more = EXACT_FUNCTIONS[name]
    points = [*more, *NEAR]
    with mp.workdps(50):
        true = [
            mp.taylor(lambda x: exact(mp, x), mp.mpf(x), order)[order] * mp.factorial(order) for x in points
        ]
    equal(by_neo(fn, [tensor(points)], order)[0], tensor([float(mp.re(value)) for value in true]))


def test_sinc_and_bessel_functions_have_their_series_at_zero():
    zero = [tensor([0.0])]
    assert by_neo(torch.sinc, zero, 2)[0].item() == pytest.approx(-(math.pi**2) / 3)
    assert by_neo(torch.sinc, zero, 4)[0].item() == pytest.approx(math.pi**4 / 5)
    assert by_neo(torch.special.i0, zero, 4)[0].item() == pytest.approx(3 / 8)
    assert by_neo(torch.special.i1, zero, 3)[0].item() == pytest.approx(3 / 8)


# --- norms at zero -------------------------------------------------------------------------------------------

ZERO, PAIR = tensor([0.0, 0.0, 0.0]), tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 3.0]])
ORDERS = (0.5, 1.5, 2, 2.5, 3, 4, -1)

NORMS_AT_ZERO = {
    "norm": (torch.norm, ZERO),
    "norm-over-dim": (lambda x: x.norm(dim=-1), ZERO),
    "linalg.norm": (L.norm, ZERO),
    "matrix_norm": (L.matrix_norm, ZERO.reshape(1, 3)),
    "dist": (lambda x: torch.dist(x, LiteTensor(tensor([1.0, 2.0]))), tensor([1.0, 2.0])),
    "dist-other": (lambda x: torch.dist(LiteTensor(tensor([1.0, 2.0])), x), tensor([1.0, 2.0])),
    "cdist": (lambda x: torch.cdist(x, LiteTensor(PAIR[:1])).sum(), PAIR[:1]),
    "pairwise_distance": (lambda x: F.pairwise_distance(x, LiteTensor(PAIR), eps=0.0).sum(), PAIR),
    "triplet": (lambda x: F.triplet_margin_loss(x, LiteTensor(PAIR), LiteTensor(PAIR + 1), eps=0.0), PAIR),
    "std": (torch.std, tensor([2.0, 2.0, 2.0])),
    "std-biased": (lambda x: torch.std(x, correction=0), tensor([2.0, 2.0])),
    "std_mean": (lambda x: torch.std_mean(x)[0], tensor([2.0, 2.0])),
    "global_norm": (lambda x: neo.optim.global_norm({"a": x}), ZERO),
    **{f"vector_norm-{p}": (lambda x, p=p: L.vector_norm(x, p), ZERO) for p in ORDERS},
}


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("name", NORMS_AT_ZERO)
def test_norm_at_zero_has_gradient_zero_and_no_second_derivative(name: str, squared: bool):
    norm, x = NORMS_AT_ZERO[name]
    fn = (lambda y: norm(y) ** 2) if squared else norm
    equal(by_neo(fn, [x], 1)[0], torch.zeros_like(x))
    curvature = hessian(fn, x).reshape(x.numel(), x.numel())
    assert torch.isnan(torch.diagonal(curvature)).all()
    assert torch.isnan(by_neo(fn, [x], 3)[0]).all()


@pytest.mark.parametrize("name", ["norm", "std", "global_norm"])
def test_forward_over_reverse_finds_no_second_derivative_of_a_norm_at_zero_either(name: str):
    norm, x = NORMS_AT_ZERO[name]
    slope, curvature = session.jvp(
        session.grad(norm, argnums=0), (LiteTensor(x),), (LiteTensor(torch.ones_like(x)),)
    )
    equal(slope.data, torch.zeros_like(x))
    assert torch.isnan(curvature.data).all()


def test_pdist_of_equal_rows_has_no_second_derivative_and_others_keep_theirs():
    found = by_neo(F.pdist, [torch.cat([PAIR, tensor([[5.0, 5.0]])])], 2)[0]
    assert torch.isnan(found[:2]).all()
    assert not torch.isnan(found[2:]).any()


def test_rows_beside_a_zero_row_keep_their_second_derivative():
    x = tensor([[0.0, 0.0], [3.0, 4.0]])
    found = by_neo(lambda x: L.vector_norm(x, 2, 1), [x], 2)[0]
    equal(found, by_torch(lambda x: L.vector_norm(x, 2, 1), [x], 2)[0])
    assert torch.isnan(found[0]).all()
    assert not torch.isnan(found[1]).any()


def test_meta_gradient_through_the_norm_of_a_fresh_bias_is_nan_and_through_its_square_sum_right():
    def adapted(penalty: Any) -> torch.Tensor:
        def loss(b: LiteTensor) -> Any:
            inner = session.grad(penalty, argnums=0)(b)
            return ((b - inner * 0.1 - 1.0) ** 2).sum()

        return session.grad(loss, argnums=0)(LiteTensor(ZERO)).data

    assert torch.isnan(adapted(lambda b: b.norm() ** 2)).all()
    equal(adapted(lambda b: (b * b).sum()), torch.full_like(ZERO, -2.0 * 0.8))


# Flat about zero, for the norm there is below a bound: all derivatives exist, and torch has NaN.
EPS = 1e-3


@pytest.mark.parametrize("p", [1, 2, 3])
def test_normalize_is_linear_about_zero(p: float):
    x = tensor([[0.0, 0.0], [3.0, 4.0]])
    fn = lambda x: F.normalize(x, p, eps=EPS)  # noqa: E731
    equal(by_neo(fn, [x], 1)[0][0], tensor([1 / EPS, 1 / EPS]))
    equal(by_neo(fn, [x], 2)[0][0], tensor([0.0, 0.0]))
    equal(by_neo(fn, [x], 2)[0][1], by_torch(fn, [x], 2)[0][1])
    squared = hessian(lambda x: (fn(x) ** 2).sum(), x)
    equal(squared[0, :, 0], torch.eye(2, dtype=torch.float64) * 2 / EPS**2)


def test_cosine_similarity_is_bilinear_about_zero():
    x, y = tensor([0.0, 0.0]), tensor([3.0, 4.0])
    fn = lambda x, y: F.cosine_similarity(x, y, 0, EPS)  # noqa: E731
    equal(by_neo(fn, [x, y], 1)[0], y / 5 / EPS)
    both = hessian(lambda z: fn(z[:2], z[2:]), torch.cat([x, y]))
    equal(both[:2, :2], torch.zeros(2, 2, dtype=torch.float64))
    equal(both[:2, 2:], (torch.eye(2, dtype=torch.float64) - torch.outer(y, y) / 25) / 5 / EPS)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_renorm_of_a_zero_row_is_the_identity_about_it(p: float):
    x = tensor([[0.0, 0.0], [3.0, 4.0]])
    fn = lambda x: torch.renorm(x, p, 0, 1.0)  # noqa: E731
    equal(by_neo(fn, [x], 1)[0], by_torch(fn, [x], 1)[0])
    equal(by_neo(fn, [x], 2)[0][0], tensor([0.0, 0.0]))


def test_clipping_a_zero_gradient_is_the_identity_at_every_order():
    fn = lambda g: neo.optim.clip_by_global_norm({"a": g}, 1.0)["a"]  # noqa: E731
    equal(by_neo(fn, [ZERO], 1)[0], torch.ones_like(ZERO))
    equal(by_neo(fn, [ZERO], 2)[0], torch.zeros_like(ZERO))


def test_clipping_a_zero_gradient_to_nothing_has_no_second_derivative():
    fn = lambda g: neo.optim.clip_by_global_norm({"a": g}, 1e-7)["a"]  # noqa: E731
    equal(by_neo(fn, [ZERO], 1)[0], torch.full_like(ZERO, 0.1))
    assert torch.isnan(by_neo(fn, [ZERO], 2)[0]).all()


# --- several arguments, ties, edges: torch's derivatives -----------------------------------------------------

V = tensor([0.0, 1.0, -1.0, 0.5, -0.5, 2.0])
O = torch.zeros_like(V)
ROWS = tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])

AS_TORCH: dict[str, tuple[Any, ...]] = {
    "atan2": (torch.atan2, tensor([0.0, 1.0, 0.0, -0.0]), tensor([0.0, 0.0, 2.0, 0.0])),
    "hypot": (torch.hypot, tensor([0.0, 1.0, 0.0]), tensor([0.0, 0.0, 2.0])),
    "copysign": (torch.copysign, tensor([0.0, 1.0, -0.0]), tensor([1.0, 0.0, -1.0])),
    "maximum": (lambda x, y: torch.maximum(x * x, y), tensor([1.0, nan, 1.0]), tensor([1.0, 1.0, nan])),
    "minimum": (lambda x, y: torch.minimum(x * x, y), tensor([1.0, nan, 1.0]), tensor([1.0, 1.0, nan])),
    "fmax": (lambda x, y: torch.fmax(x * x, y), tensor([1.0, nan, 1.0]), tensor([1.0, 1.0, nan])),
    "amax": (lambda x: torch.amax(x * x, 0), tensor([1.0, 1.0, -1.0])),
    "max": (lambda x: torch.max(x**3), tensor([1.0, 1.0, 1.0])),
    "median": (lambda x: torch.median(x**3), tensor([1.0, 1.0, 1.0])),
    "nanmedian": (lambda x: torch.nanmedian(x**3), tensor([1.0, 1.0, 1.0])),
    "clamp": (lambda x: torch.clamp(x**3, -1, 1), V),
    "clamp-crossed": (lambda x, a, b: torch.clamp(x**2, a, b), V, torch.ones_like(V), torch.ones_like(V) * 0.5),
    "huber": (lambda x, y: F.huber_loss(x, y, delta=1.0), V, O),
    "huber-half": (lambda x, y: F.huber_loss(x, y, delta=0.5), V, O),
    "smooth_l1": (lambda x, y: F.smooth_l1_loss(x, y, beta=1.0), V, O),
    "smooth_l1-zero": (lambda x, y: F.smooth_l1_loss(x, y, beta=0.0), V, O),
    "l1": (F.l1_loss, V, O),
    "elu": (lambda x: F.elu(x, 2.0), V),
    "celu": (lambda x: F.celu(x, 2.0), V),
    "logsumexp-of-nothing": (lambda x: torch.logsumexp(x, 0), tensor([-inf, -inf])),
    "logsumexp-infinite": (lambda x: torch.logsumexp(x, 0), tensor([inf, 1.0])),
    "logsumexp-half": (lambda x: torch.logsumexp(x, 0), tensor([-inf, 1.0])),
    "logaddexp": (torch.logaddexp, tensor([-inf, 0.0, inf]), tensor([-inf, 0.0, 1.0])),
    "log_softmax": (lambda x: torch.log_softmax(x, 0), tensor([-inf, -inf, 1.0])),
    "xlogy": (torch.xlogy, tensor([0.0, 0.0, 1.0]), tensor([0.0, 1.0, 1.0])),
    "xlog1py": (torch.special.xlog1py, tensor([0.0, 0.0, 1.0]), tensor([-1.0, 0.0, 0.0])),
    "prod-one-zero": (torch.prod, tensor([0.0, 2.0, 3.0])),
    "prod-two-zeros": (torch.prod, tensor([0.0, 0.0, 3.0])),
    "cumprod": (lambda x: torch.cumprod(x, 0), tensor([0.0, 0.0, 3.0])),
    "erfinv": (torch.erfinv, tensor([-1.0, 0.0, 1.0])),
    "lgamma": (torch.lgamma, tensor([0.0, -1.0, 1.0, 0.5])),
    "digamma": (torch.digamma, tensor([0.0, -1.0, 1.0, 0.5])),
    "logit": (torch.logit, tensor([0.0, 0.5, 1.0])),
    "sqrt": (torch.sqrt, tensor([0.0, -0.0, 1.0])),
    "var-equal": (torch.var, tensor([2.0, 2.0, 2.0])),
    "std-one": (torch.std, tensor([2.0])),
    "layer_norm-equal": (lambda x: F.layer_norm(x, (3,)), tensor([[1.0, 1.0, 1.0]])),
    "corrcoef-flat": (torch.corrcoef, tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])),
    "nuclear-at-zero": (lambda x: L.matrix_norm(x, "nuc"), torch.zeros(2, 2, dtype=torch.float64)),
    "spectral-tie": (lambda x: L.matrix_norm(x, 2), torch.eye(2, dtype=torch.float64)),
    "pairwise-p1": (lambda x, y: F.pairwise_distance(x, y, 1.0, 0.0), ROWS, ROWS),
    "pow-0": (lambda x: x**0, tensor([0.0, 1.0])),
    "pow-1": (lambda x: x**1, tensor([0.0, 1.0])),
    "pow-2": (lambda x: x**2, tensor([0.0, 1.0])),
    "pow-half": (lambda x: x**0.5, tensor([0.0, 1.0])),
    "pow-1.5": (lambda x: x**1.5, tensor([0.0, 1.0])),
    "pow-minus-1": (lambda x: x**-1, tensor([0.0, 1.0])),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", AS_TORCH)
def test_derivatives_are_torchs_at_special_points(name: str, order: int):
    fn, *args = AS_TORCH[name]
    for got, expected in zip(by_neo(fn, args, order), by_torch(fn, args, order), strict=True):
        equal(got, expected)


# --- closed forms, where torch has NaN or another number ------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [  # ∂²/∂x² = y(y−1) x^(y−2), ∂²/∂x∂y = x^(y−1) (1 + y log x), ∂²/∂y² = x^y log² x; NaN where reverse mode has 0 ∞
        (0.0, 3.0, [[0.0, 0.0], [0.0, 0.0]]),
        (0.0, 2.0, [[2.0, 0.0], [0.0, 0.0]]),
        (0.0, 1.0, [[nan, -inf], [-inf, nan]]),
        (0.0, 1.5, [[inf, 0.0], [nan, 0.0]]),
        (2.0, 0.0, [[0.0, 0.5], [0.5, math.log(2) ** 2]]),
        (2.0, 1.0, [[0.0, 1 + math.log(2)], [1 + math.log(2), 2 * math.log(2) ** 2]]),
        (1.0, 0.0, [[0.0, 1.0], [1.0, 0.0]]),
    ],
)
def test_power_has_the_curvature_of_its_formula(x: float, y: float, expected: list[list[float]]):
    found = hessian(lambda z: torch.pow(z[0], z[1]), tensor([x, y]))
    finite = torch.isfinite(tensor(expected))
    equal(found[finite], tensor(expected)[finite])
    assert not torch.isfinite(found[~finite]).any()


def adjugate_curvature(A: torch.Tensor) -> torch.Tensor:
    """∂² det / ∂aᵢⱼ ∂aₖₗ of a 3 × 3 matrix: ± the entry left over, 0 within one row or column."""
    n = A.shape[0]
    out = torch.zeros(n, n, n, n, dtype=A.dtype)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                for m in range(n):
                    if i != k and j != m:
                        p, q = 3 - i - k, 3 - j - m
                        turned = (i < k) ^ (j < m)
                        out[i, j, k, m] = (-1) ** (p + q + turned) * A[p, q]
    return out


SINGULAR = {
    "zero": torch.zeros(3, 3, dtype=torch.float64),
    "rank-1": torch.outer(tensor([1.0, 2.0, 3.0]), tensor([1.0, 0.0, 1.0])),
    "rank-2": tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [5.0, 7.0, 9.0]]),
    "nearly": tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [5.0, 7.0, 9.0 + 1e-12]]),
    "regular": tensor([[2.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.2, 0.0, 1.5]]),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_det_has_its_cofactors_and_their_derivatives_at_singular_matrices(name: str):
    A = SINGULAR[name]
    minors = [
        [
            (-1) ** (i + j) * L.det(torch.cat([A[:i], A[i + 1 :]])[:, [c for c in range(3) if c != j]])
            for j in range(3)
        ]
        for i in range(3)
    ]
    equal(by_neo(L.det, [A], 1)[0], tensor([[float(m) for m in row] for row in minors]))
    equal(hessian(L.det, A), adjugate_curvature(A))
    stack = torch.stack([A, SINGULAR["regular"]])
    equal(by_neo(L.det, [stack], 2)[0][0], adjugate_curvature(A).sum((0, 1)))


def test_second_derivative_of_det_at_a_large_singular_matrix_is_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"det: .* sizes above 8, got 9"):
        by_neo(L.det, [torch.zeros(9, 9, dtype=torch.float64)], 2)
