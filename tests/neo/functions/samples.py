"""One table of sample inputs: name -> cases, each a function and the float64 tensors it is differentiated by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

__all__ = ["SAMPLES", "Case", "batch_norm_by_hand"]


class Case(NamedTuple):
    id: str
    fn: Callable[..., Any]
    args: tuple[torch.Tensor, ...]
    examiner: Callable[..., Any] | None = (
        None  # what torch differentiates, where torch's own rule stops short
    )
    orders: int = 2


SAMPLES: list[Case] = []


def add(id: str, fn: Callable[..., Any], *args: torch.Tensor, examiner: Any = None, orders: int = 2) -> None:
    SAMPLES.append(Case(id, fn, args, examiner, orders))


_generator = torch.Generator().manual_seed(20250101)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=_generator)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=_generator)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


# --- functions of one number ---------------------------------------------------------------------------------

ANYWHERE = [
    torch.neg, torch.exp, torch.exp2, torch.expm1, torch.sin, torch.cos, torch.tan, torch.atan, torch.sinh, torch.cosh,
    torch.tanh, torch.asinh, torch.erf, torch.erfc, torch.sigmoid, torch.square, torch.abs, torch.sign, torch.sgn,
    torch.floor, torch.ceil, torch.round, torch.trunc, torch.frac, torch.sinc, torch.relu, torch.positive,
    torch.reciprocal,
    torch.nan_to_num, torch.deg2rad, torch.rad2deg, torch.hardshrink,
    F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.softplus, F.mish, F.hardtanh, F.logsigmoid,
    F.hardswish,
    F.softsign, F.tanhshrink, F.softshrink,
]  # fmt: skip
POSITIVE = [
    torch.log,
    torch.log2,
    torch.log10,
    torch.log1p,
    torch.sqrt,
    torch.rsqrt,
    torch.lgamma,
    torch.digamma,
]
WITHIN_ONE = [torch.asin, torch.acos, torch.atanh, torch.erfinv]

for fn in ANYWHERE:
    for shape in ((3, 4), (), (0, 2)):
        add(f"{fn.__name__}{list(shape)}", fn, normal(*shape) * 2, orders=3 if shape else 2)
for fn in POSITIVE:
    add(fn.__name__, fn, uniform(3, 4, low=0.3, high=3.0), orders=3)
for fn in WITHIN_ONE:
    add(fn.__name__, fn, uniform(3, 4, low=-0.9, high=0.9), orders=3)
add("acosh", torch.acosh, uniform(5, low=1.2, high=3.0), orders=3)
add("logit", torch.logit, uniform(5, low=0.1, high=0.9), orders=3)
add("logit-eps", lambda x: torch.logit(x, 0.3), uniform(9))
add("polygamma", lambda x: torch.polygamma(1, x), uniform(5, low=0.5, high=3.0))
add(
    "sinc-at-zero", torch.sinc, torch.tensor([0.0, 1.0, 0.5, -2.0], dtype=torch.float64), orders=1
)  # torch: nan at order 2
add("hardsigmoid", F.hardsigmoid, normal(9) * 3, orders=1)  # torch has no second order
add("gelu-tanh", lambda x: F.gelu(x, approximate="tanh"), normal(4, 3), orders=3)
add("softplus-beta", lambda x: F.softplus(x, 2.0, 3.0), normal(9) * 3)
add("leaky_relu-slope", lambda x: F.leaky_relu(x, 0.3), normal(9))
add("threshold", lambda x: F.threshold(x, 0.2, -1.0), normal(9))
add("prelu", F.prelu, normal(2, 3, 4), uniform(3))
add("glu", F.glu, normal(3, 4))
add("clone", torch.clone, normal(3))
add("contiguous", lambda x: x.t().contiguous(), normal(3, 2))

# --- two tensors that broadcast ------------------------------------------------------------------------------

TWO = [torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.fmax, torch.fmin, torch.atan2,
       torch.hypot, torch.logaddexp, torch.rsub]  # fmt: skip
for fn in TWO:
    for a, b in (((3, 4), (3, 4)), ((3, 1), (4,)), ((), (2, 3)), ((2, 3), ()), ((0, 3), (1, 3))):
        add(f"{fn.__name__}{list(a)}{list(b)}", fn, normal(*a), normal(*b))
for fn in (torch.pow, torch.remainder, torch.fmod, torch.xlogy):
    for a, b in (((3, 4), (3, 4)), ((3, 1), (4,)), ((), (2,))):
        add(
            f"{fn.__name__}{list(a)}{list(b)}",
            fn,
            uniform(*a, low=0.4, high=3.0),
            uniform(*b, low=0.5, high=2.0),
        )
add("pow-third", torch.pow, uniform(3, low=0.4, high=3.0), uniform(3, low=0.5, high=2.0), orders=3)
add("i1-third", torch.special.i1, normal(5) * 3, orders=3)
add("i1e-third", torch.special.i1e, normal(5) * 3, orders=3)
for c in (0, 1, 2, 3, 0.5, -1):
    add(f"pow-number-{c}", lambda x, c=c: x**c, uniform(4, low=0.3, high=2.0), orders=3)
add("number-pow", lambda x: 2.5**x, normal(4), orders=3)
add("number-sub-div", lambda x: (1 - x) / 3 + 2 / x, uniform(4, low=0.5))
add("add-alpha", lambda x, y: torch.add(x, y, alpha=3) + torch.sub(x, y, alpha=2), normal(3), normal(3))
add(
    "div-floor",
    lambda x: torch.div(x, 0.3, rounding_mode="floor") + torch.div(x, 0.3, rounding_mode="trunc"),
    normal(5),
)
add(
    "heaviside",
    torch.heaviside,
    torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64),
    normal(3),
    examiner=lambda x, v: torch.where(x == 0, v, (x > 0).to(x.dtype)),
)
add("floor_divide", torch.floor_divide, normal(3, 4), normal(4), examiner=lambda x, y: torch.floor(x / y))
add("where", lambda x, y: torch.where(x > 0, x, y), normal(3, 4), normal(4))
add("where-numbers", lambda x: torch.where(x > 0, x, 2.0) + torch.where(x > 0, 1.0, x), normal(3, 4))
add("where-method", lambda x, y: x.where(x > 0, y), normal(3, 4), normal(4))
add("masked_fill", lambda x, v: x.masked_fill(x > 0, v), normal(3, 4), normal())
add("lerp", torch.lerp, normal(3, 4), normal(4), uniform(3, 1))
add("addcmul", lambda x, a, b: torch.addcmul(x, a, b, value=0.5), normal(3, 4), normal(4), normal(3, 1))
add(
    "addcdiv",
    lambda x, a, b: torch.addcdiv(x, a, b, value=0.5),
    normal(3, 4),
    normal(4),
    uniform(3, 1, low=1, high=2),
)
add("clamp", lambda x: torch.clamp(x, -0.5, 0.5) + x.clamp(min=0.1) + x.clip(max=0.2), normal(9))
add("clamp-tensors", torch.clamp, normal(3, 4), normal(4) - 1, normal(4) + 1)
add("clamp-min-tensor", lambda x, low: torch.clamp(x, min=low), normal(3, 4), normal(4))
add("clamp-max-tensor", lambda x, high: torch.clamp(x, max=high), normal(3, 4), normal(4))
add("clamp_min", lambda x: torch.clamp_min(x, 0.1) * torch.clamp_max(x, 0.2), normal(9))

# --- reductions ----------------------------------------------------------------------------------------------

REDUCE = [
    torch.sum,
    torch.mean,
    torch.var,
    torch.std,
    torch.amax,
    torch.amin,
    torch.logsumexp,
    torch.nansum,
    torch.nanmean,
]
for fn in REDUCE:
    for dim in ((0,), (-1,), (0, 2), (0, 1, 2)):
        for keepdim in (False, True):
            add(
                f"{fn.__name__}{list(dim)}{keepdim}",
                lambda x, f=fn, d=dim, k=keepdim: f(x, dim=d, keepdim=k),
                normal(2, 3, 4),
            )
for fn in (
    torch.sum,
    torch.mean,
    torch.var,
    torch.std,
    torch.prod,
    torch.max,
    torch.min,
    torch.amax,
    torch.amin,
    torch.median,
    torch.norm,
    torch.linalg.vector_norm,
    torch.linalg.norm,
    torch.nansum,
):
    add(f"{fn.__name__}-all", fn, normal(2, 3))
for fn in (torch.sum, torch.mean, torch.max, torch.prod, torch.norm):
    add(f"{fn.__name__}-0-dim", fn, normal())
add("sum-dtype", lambda x: x.sum(0, dtype=torch.float32).double(), normal(2, 3), orders=1)
add("sum-empty", torch.sum, normal(0, 3))
add("var_mean", lambda x: torch.var_mean(x, 1, correction=0), normal(2, 5))
add("std_mean", lambda x: torch.std_mean(x, dim=(0, 1), keepdim=True), normal(2, 5))
add("var-unbiased", lambda x: torch.var(x, 1, False) + x.var(unbiased=True), normal(2, 5))
for p in (0, 1, 1.5, 2, 3, float("inf"), -float("inf")):
    add(f"vector_norm-{p}", lambda x, p=p: torch.linalg.vector_norm(x, p, 1), normal(3, 4))
add("norm-fro", lambda x: torch.norm(x, dim=(0, 1)) + torch.norm(x, p=1), normal(3, 4))
add("normalize", F.normalize, normal(3, 4))
add("cosine_similarity", F.cosine_similarity, normal(3, 4), normal(4))
add("prod-dim", lambda x: torch.prod(x, 1, keepdim=True), normal(3, 4), orders=3)
add(
    "prod-zeros",
    lambda x: torch.prod(x, 1),
    torch.tensor([[0.0, 2, 3], [0, 0, 3], [1, 2, 3]], dtype=torch.float64),
)
add("cumsum", lambda x: torch.cumsum(x, -1), normal(2, 4))
add("cumprod", lambda x: torch.cumprod(x, 1), normal(2, 4))
add("cumprod-zero", lambda x: torch.cumprod(x, 0), torch.tensor([2.0, 0.0, 3.0, 4.0], dtype=torch.float64))
for fn in (torch.max, torch.min, torch.median):
    add(f"{fn.__name__}-dim", lambda x, f=fn: tuple(f(x, 1, keepdim=True)), normal(3, 4))
add(
    "max-method",
    lambda x, y: x.max(0).values.sum() + x.max(y).sum() + x.min(y).sum(),
    normal(3, 4),
    normal(3, 4),
)
add("aminmax", lambda x: tuple(torch.aminmax(x, dim=1)), normal(3, 4))
add("sort", lambda x: tuple(torch.sort(x, 1, descending=True)), normal(3, 4))
add("msort", torch.msort, normal(3, 4))
add("topk", lambda x: tuple(torch.topk(x, 2, dim=0)), normal(4, 3))
add("kthvalue", lambda x: tuple(torch.kthvalue(x, 2)), normal(4, 3))

# --- shapes --------------------------------------------------------------------------------------------------

for id, fn in {
    "reshape": lambda x: x.reshape(4, -1) + x.reshape((4, 6)),
    "view": lambda x: x.view(6, 4),
    "view_as": lambda x: x.view_as(torch.empty(6, 4)) + x.reshape_as(torch.empty(6, 4)),
    "flatten": lambda x: torch.flatten(x, 1) + x.ravel().reshape(2, 12),
    "unflatten": lambda x: x.unflatten(2, (2, -1)),
    "squeeze": lambda x: (
        x.unsqueeze(1).squeeze(1) + x.unsqueeze(-1).squeeze() + x.unsqueeze(0).squeeze(dim=(0, 1))
    ),
    "unsqueeze": lambda x: torch.unsqueeze(x, -2),
    "permute": lambda x: torch.permute(x, (2, 0, 1)) + x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(0, -1) + x.swapaxes(0, 2) + torch.swapdims(x, 0, 2),
    "movedim": lambda x: torch.movedim(x, (0, 1), (2, 0)) + x.moveaxis(0, 2).transpose(0, 0),
    "mT": lambda x: x.mT,
    "expand": lambda x: x.unsqueeze(1).expand(2, 5, 3, 4) * x.unsqueeze(1).expand(-1, 5, -1, -1),
    "expand_as": lambda x: x[:, :1].expand_as(x) + torch.broadcast_to(x[:1], (2, 3, 4)),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x[0]),
    "sum_to_size": lambda x: x.sum_to_size(1, 4),
    "repeat": lambda x: x.repeat(2, 1, 3) + x.tile(2, 1, 3),
    "repeat-more": lambda x: x.repeat(2, 1, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "repeat_interleave-counts": lambda x: torch.repeat_interleave(x, torch.tensor([1, 0, 2]), dim=1),
    "flip": lambda x: x.flip(0) + torch.flip(x, (0, 2)) + x.flip(dims=(1,)),
    "roll": lambda x: torch.roll(x, (1, 2), (0, 2)) + x.roll(3),
    "atleast": lambda x: (
        torch.atleast_1d(x[0, 0, 0]) + torch.atleast_2d(x[0, 0]) + torch.atleast_3d(x[0])[..., 0]
    ),
    "split": lambda x: torch.split(x, 3, 2)[0],
    "split-sizes": lambda x: x.split([1, 3], -1),
    "split_with_sizes": lambda x: x.split_with_sizes([1, 3], 2)[1],
    "chunk": lambda x: torch.chunk(x, 3, 2)[::2],
    "tensor_split": lambda x: torch.tensor_split(x, 3, 2)[0] * torch.tensor_split(x, (1, 3), 2)[1],
    "unbind": lambda x: torch.unbind(x, 1)[1:],
    "iterate": lambda x: [row * row for row in x[0]],
    "narrow": lambda x: x.narrow(2, 1, 2) + torch.narrow(x, -1, -2, 2),
    "to": lambda x: (
        x.to(torch.float32).to(x) + x.to("cpu", torch.float32).double() + x.float().type_as(x) + x.cpu()
    ),
    "half": lambda x: x.half().double() * 0 + x.bfloat16().double() * 0 + x,
    "pad": lambda x: F.pad(x, (1, 2, -1, 1), value=3.0),
    "pad-reflect": lambda x: F.pad(x, (2, 1), mode="reflect"),
    "pad-replicate": lambda x: F.pad(x, (2, 1), mode="replicate"),
    "pad-circular": lambda x: F.pad(x, (2, 1), mode="circular"),
    "tril": lambda x: torch.tril(x, 1) * 2 + x.triu(-1),
    "diagonal": lambda x: torch.diagonal(x, 1, 1, 2),
    "diag": lambda x: torch.diag(x[0], -1).sum() + torch.diag(x[0, 0], 1) + torch.trace(x[1]),
    "diag_embed": lambda x: torch.diag_embed(x, 1, 0, 2),
    "cat": lambda x: torch.cat([x, x[:1] * 2, x[:0]], 0),
    "cat-dim": lambda x: torch.cat((x, x * 2), dim=-1) + torch.concat((x, x), dim=-1),
    "stack": lambda x: torch.stack([x, x * x], -2),
    "hstack": lambda x: torch.hstack((x, x * x)) + torch.column_stack((x, x)),
    "vstack": lambda x: torch.vstack((x[0], x[1] * 2)) + torch.row_stack((x[0], x[1])),
    "channels_last": lambda x: x.unsqueeze(1).contiguous(memory_format=torch.channels_last) ** 2,
}.items():
    add(id, fn, normal(2, 3, 4))
add("t", lambda x: torch.t(x) * x.T, normal(3, 3))
add("cat-mixed", lambda x, y: torch.cat((x, y.float()), 1), normal(2, 3), normal(2, 1), orders=1)
add("cat-empty-vector", lambda x, e: torch.cat((x, e)), normal(2, 3), normal(0))

# --- places --------------------------------------------------------------------------------------------------

PLACES = torch.tensor([[0, 2, 0], [1, 1, 2]])
for id, index in {
    "int": 1,
    "negative": (0, -1),
    "slice": slice(1, None),
    "step": (slice(None), slice(None, None, 2)),
    "none": (None, 1),
    "ellipsis": (..., 0),
    "mask": torch.tensor([True, False, True]),
    "places": torch.tensor([0, 2, 0, 1]),
    "list": [2, 0, 2],
    "grid": PLACES,
    "pair": (torch.tensor([0, 2, 2]), torch.tensor([1, 1, 1])),
    "mixed": (slice(1, 3), None, torch.tensor([3, 0, 3])),
    "apart": (torch.tensor([1, 1]), slice(None), torch.tensor([0, 0])),
    "mask-2d": torch.tensor([[True, False, True, True]] * 3),
    "array": (slice(None), PLACES.numpy()),
    "mask-and-int": (torch.tensor([True, False, True]), 1),
    "all": (),
    "empty": torch.tensor([], dtype=torch.long),
}.items():
    add(f"getitem-{id}", lambda x, i=index: x[i], normal(3, 4, 2), orders=3)
add("select", lambda x: torch.select(x, 1, -1), normal(3, 4))
add("gather", lambda x: torch.gather(x, 1, PLACES), normal(3, 4), orders=3)
add(
    "scatter", lambda x, s: torch.scatter(x, 0, torch.tensor([[0, 1], [2, 0]]), s), normal(3, 4), normal(2, 2)
)
add("scatter-number", lambda x: x.scatter(1, PLACES[:, :1], 2.0), normal(3, 4))
add("scatter_add", lambda x, s: x.scatter_add(1, PLACES, s), normal(3, 4), normal(2, 3))
add("index_select", lambda x: torch.index_select(x, 1, PLACES[0]), normal(3, 4))
add("index_add", lambda x, s: torch.index_add(x, 1, PLACES[0], s, alpha=2), normal(2, 4), normal(2, 3))
add(
    "index_put",
    lambda x, v: x.index_put((torch.tensor([0, 2]), torch.tensor([1, 1])), v),
    normal(3, 4),
    normal(),
)
add(
    "index_put-accumulate",
    lambda x, v: x.index_put((torch.tensor([0, 0]),), v, accumulate=True),
    normal(3, 4),
    normal(2, 4),
)
add("masked_select", lambda x: torch.masked_select(x, x > 0), normal(3, 4))
add(
    "take_along_dim",
    lambda x: torch.take_along_dim(x, PLACES[:1], 1) + x.take_along_dim(PLACES[0]),
    normal(3, 4),
)
add("take", lambda x: torch.take(x, PLACES), normal(3, 4))
add("embedding", lambda w: F.embedding(PLACES, w, padding_idx=1), normal(3, 4))

# --- products ------------------------------------------------------------------------------------------------

for a, b in (
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 2)),
    ((0, 3), (3, 2)),
):
    add(f"matmul{list(a)}{list(b)}", torch.matmul, normal(*a), normal(*b), orders=3)
add("mm", lambda a, b: torch.mm(a, b) + a @ b, normal(2, 3), normal(3, 4))
add("bmm", torch.bmm, normal(5, 2, 3), normal(5, 3, 4))
add("mv", torch.mv, normal(2, 3), normal(3))
add("dot", torch.dot, normal(3), normal(3))
add("inner", torch.inner, normal(2, 3), normal(4, 3))
add("outer", lambda a, b: torch.outer(a, b) + torch.ger(a, b), normal(2), normal(3))
add("addmm", lambda x, a, b: torch.addmm(x, a, b, beta=0.5, alpha=2), normal(4), normal(2, 3), normal(3, 4))
add("addmv", torch.addmv, normal(2), normal(2, 3), normal(3))
add("baddbmm", torch.baddbmm, normal(5, 2, 4), normal(5, 2, 3), normal(5, 3, 4))
for shape in ((4, 3), (3,), (2, 4, 3), (0, 3)):
    add(f"linear{list(shape)}", F.linear, normal(*shape), normal(5, 3), normal(5), orders=3)
    add(f"linear-no-bias{list(shape)}", F.linear, normal(*shape), normal(5, 3))
add("bilinear", F.bilinear, normal(4, 2), normal(4, 3), normal(5, 2, 3), normal(5))
add("tensordot", lambda a, b: torch.tensordot(a, b, dims=([1, 0], [0, 2])), normal(2, 3, 4), normal(3, 5, 2))
for equation, shapes in {
    "ij,jk->ik": ((2, 3), (3, 4)),
    "bij,bjk,k->bi": ((2, 3, 4), (2, 4, 5), (5,)),
    "ij->j": ((2, 3),),
    "i,j": ((2,), (3,)),
    "ij,kl->": ((2, 3), (4, 2)),
}.items():
    add(
        f"einsum-{equation}",
        lambda *xs, e=equation: torch.einsum(e, *xs),
        *(normal(*shape) for shape in shapes),
    )
add("inv", torch.linalg.inv, normal(2, 3, 3) + 3 * torch.eye(3, dtype=torch.float64))
add("inverse", torch.inverse, normal(3, 3) + 3 * torch.eye(3, dtype=torch.float64))
add("solve", torch.linalg.solve, normal(3, 3) + 3 * torch.eye(3, dtype=torch.float64), normal(3, 2))
add("solve-vector", torch.linalg.solve, normal(3, 3) + 3 * torch.eye(3, dtype=torch.float64), normal(3))

# --- convolutions and pooling --------------------------------------------------------------------------------

for id, options in {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": (2, 1)},
    "same": {"padding": "same"},
    "valid": {"padding": "valid"},
}.items():
    add(
        f"conv2d-{id}",
        lambda x, w, b, o=options: F.conv2d(x, w, b, **o),
        normal(2, 2, 6, 5),
        normal(3, 2, 3, 3),
        normal(3),
        orders=3,
    )
add(
    "conv2d-same-even",
    lambda x, w: F.conv2d(x, w, padding="same"),
    normal(2, 2, 5, 5),
    normal(3, 2, 2, 4),
    examiner=lambda x, w: F.conv2d(F.pad(x, (1, 2, 0, 1)), w),
)  # torch warns of the copy it makes
add("conv2d-groups", lambda x, w: F.conv2d(x, w, groups=2), normal(2, 4, 4, 4), normal(6, 2, 3, 3))
add("conv2d-unbatched", F.conv2d, normal(2, 4, 4), normal(3, 2, 3, 3), normal(3))
add(
    "conv2d-last",
    lambda x, w: F.conv2d(x, w, padding=1),
    channels_last(normal(2, 3, 4, 4)),
    channels_last(normal(2, 3, 3, 3)),
)
add(
    "conv1d",
    lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1),
    normal(2, 2, 7),
    normal(3, 2, 3),
    normal(3),
    orders=3,
)
add(
    "conv3d",
    lambda x, w, b: F.conv3d(x, w, b, padding=1),
    normal(1, 2, 3, 4, 3),
    normal(2, 2, 3, 3, 3),
    normal(2),
)
add(
    "conv_transpose1d",
    lambda x, w, b: F.conv_transpose1d(x, w, b, stride=2),
    normal(2, 2, 4),
    normal(2, 3, 3),
    normal(3),
)
add(
    "conv_transpose2d",
    lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
    normal(2, 2, 3, 3),
    normal(2, 3, 3, 3),
    normal(3),
)
add("conv_transpose3d", F.conv_transpose3d, normal(1, 2, 2, 2, 2), normal(2, 1, 2, 2, 2), normal(1))
for id, options in {
    "plain": {},
    "overlap": {"stride": 1, "padding": 1},
    "ceil": {"ceil_mode": True, "stride": 2},
    "dilation": {"dilation": 2, "stride": 1},
}.items():
    for x in (normal(2, 3, 5, 6), channels_last(normal(2, 3, 5, 6))):
        add(f"max_pool2d-{id}", lambda x, o=options: F.max_pool2d(x, 2, **o), x, orders=3)
add("max_pool2d-indices", lambda x: F.max_pool2d(x, 2, return_indices=True), normal(3, 4, 4))
add("max_pool1d", lambda x: F.max_pool1d(x, 3, 2, 1), normal(2, 3, 7))
add("max_pool1d-indices", lambda x: F.max_pool1d(x, 2, return_indices=True), normal(2, 3, 6))
add("avg_pool2d", lambda x: F.avg_pool2d(x, (2, 3), 1, (1, 1), count_include_pad=False), normal(2, 3, 5, 5))
add("avg_pool1d", lambda x: F.avg_pool1d(x, 2), normal(2, 3, 6))
add("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (2, None)), normal(2, 3, 5, 3))
add("adaptive_avg_pool2d-1", lambda x: F.adaptive_avg_pool2d(x, 1), channels_last(normal(2, 3, 5, 3)))
add("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x, 2), normal(2, 3, 5))

# --- normalisation -------------------------------------------------------------------------------------------


def batch_norm_by_hand(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Batch norm in plain arithmetic: torch's own rule is wrong at third order, and fails without weight at second."""
    dims = (0, *range(2, x.ndim))
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    away = x - x.mean(dims, keepdim=True)
    y = away / torch.sqrt((away * away).mean(dims, keepdim=True) + eps)
    y = y if weight is None else y * weight.reshape(per_channel)
    return y if bias is None else y + bias.reshape(per_channel)


for x in (
    normal(4, 3, 2, 2),
    channels_last(normal(4, 3, 2, 2)),
    normal(5, 3),
    normal(2, 3, 4),
    normal(2, 3, 2, 2, 2),
):
    add(
        f"batch_norm{list(x.shape)}",
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        x,
        normal(3),
        normal(3),
        examiner=batch_norm_by_hand,
        orders=3,
    )
add(
    "batch_norm-bare",
    lambda x: F.batch_norm(x, None, None, training=True),
    normal(4, 3, 2, 2),
    examiner=batch_norm_by_hand,
    orders=3,
)
add(
    "batch_norm-shift",
    lambda x, b: F.batch_norm(x, None, None, None, b, training=True),
    normal(4, 3, 2, 2),
    normal(3),
    examiner=lambda x, b: batch_norm_by_hand(x, None, b),
    orders=3,
)
add(
    "batch_norm-scale",
    lambda x, w: F.batch_norm(x, None, None, w, training=True, eps=0.1),
    normal(4, 3, 2, 2),
    normal(3),
    examiner=lambda x, w: batch_norm_by_hand(x, w, None, 0.1),
    orders=3,
)
add(
    "batch_norm-eval",
    lambda x, w, b: F.batch_norm(x, torch.arange(3.0).double(), torch.ones(3).double() * 2, w, b),
    normal(4, 3, 2),
    normal(3),
    normal(3),
)
add("layer_norm", lambda x, w, b: F.layer_norm(x, (3, 4), w, b), normal(2, 3, 4), normal(3, 4), normal(3, 4))
add("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), normal(2, 4, 3), normal(4), normal(4))
add(
    "instance_norm",
    lambda x, w, b: F.instance_norm(x, None, None, w, b),
    normal(2, 3, 5),
    normal(3),
    normal(3),
    examiner=lambda x, w, b: F.group_norm(x, 3, w, b),
)

# --- recurrent networks --------------------------------------------------------------------------------------


def split_up(flat: Any, shapes: list[tuple[int, ...]]) -> list[Any]:
    """Weights of these shapes out of one vector, so that a case has few inputs."""
    sizes = [math.prod(shape) for shape in shapes]
    return [part.reshape(shape) for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)]


def weight_shapes(
    gates: int, inputs: int, size: int, biases: bool = True, out: int | None = None
) -> list[tuple[int, ...]]:
    """w_ih, w_hh, then biases, then the projection to `out`, as torch orders them."""
    shapes: list[tuple[int, ...]] = [(gates * size, inputs), (gates * size, out or size)]
    shapes += [(gates * size,)] * 2 if biases else []
    return [*shapes, (out, size)] if out else shapes


def add_recurrent(
    id: str, fn: Any, x: torch.Tensor, states: list[torch.Tensor], shapes: Any, *options: Any
) -> None:
    def call(x: Any, flat: Any, *hx: Any) -> Any:
        return fn(x, hx if len(hx) == 2 else hx[0], split_up(flat, shapes), *options)

    add(id, call, x, normal(sum(math.prod(shape) for shape in shapes)) * 0.5, *states)


def add_cell(fn: Any, gates: int, states: int) -> None:
    def call(x: Any, flat: Any, *hx: Any) -> Any:
        return fn(x, hx if states == 2 else hx[0], *split_up(flat, weight_shapes(gates, 3, 2)))

    add(fn.__name__, call, normal(2, 3), normal(gates * 14), *[normal(2, 2) for _ in range(states)])


for fn, gates, states in (
    (torch.lstm, 4, 2),
    (torch.gru, 3, 1),
    (torch.rnn_tanh, 1, 1),
    (torch.rnn_relu, 1, 1),
):
    add_recurrent(
        f"{fn.__name__}-two_layers_both_ways",
        fn,
        normal(3, 2, 2),
        [normal(4, 2, 2) for _ in range(states)],
        [*weight_shapes(gates, 2, 2) * 2, *weight_shapes(gates, 4, 2) * 2],
        *(True, 2, 0.0, True, True, False),
    )
    add_recurrent(
        f"{fn.__name__}-batch_first",
        fn,
        normal(2, 3, 2),
        [normal(1, 2, 3) for _ in range(states)],
        weight_shapes(gates, 2, 3, biases=False),
        *(False, 1, 0.0, False, False, True),
    )
    add_recurrent(
        f"{fn.__name__}-packed",
        lambda x, hx, weights, *options, f=fn: f(
            *torch._pack_padded_sequence(x, torch.tensor([3, 2, 2]), False), hx, weights, *options
        ),
        normal(3, 3, 2),
        [normal(2, 3, 2) for _ in range(states)],
        weight_shapes(gates, 2, 2) * 2,
        *(True, 1, 0.0, True, True),
    )
add_recurrent(
    "lstm-projection",
    torch.lstm,
    normal(3, 2, 2),
    [normal(1, 2, 2), normal(1, 2, 3)],
    weight_shapes(4, 2, 3, out=2),
    *(True, 1, 0.0, True, False, False),
)
add_cell(torch.lstm_cell, 4, 2)
for fn, gates in ((torch.gru_cell, 3), (torch.rnn_tanh_cell, 1), (torch.rnn_relu_cell, 1)):
    add_cell(fn, gates, 1)
for first in (False, True):
    add(
        f"pack_and_pad-batch_first={first}",
        lambda x, b=first: torch._pad_packed_sequence(
            *torch._pack_padded_sequence(x, torch.tensor([3, 2, 1]), b), b, -1.5, 4
        )[0],
        normal(3, 3, 2),
    )


# --- softmaxes and losses ------------------------------------------------------------------------------------

for fn in (torch.softmax, torch.log_softmax, F.softmax, F.log_softmax, F.softmin):
    for dim in (0, -1):
        add(f"{fn.__name__}-{dim}", lambda x, f=fn, d=dim: f(x, dim=d), normal(3, 4), orders=3)
add(
    "softmax-dtype",
    lambda x: torch.softmax(x, 0, torch.float32) + F.softmax(x, dim=0, dtype=torch.float32),
    normal(4),
    orders=1,
)
LABELS = torch.tensor([1, 0, 2, 1])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
for reduction in ("none", "mean", "sum"):
    for id, options in {
        "plain": {},
        "ignore": {"ignore_index": 1},
        "smooth": {"label_smoothing": 0.1},
        "weight": {"weight": WEIGHTS},
        "all": {"weight": WEIGHTS, "label_smoothing": 0.2, "ignore_index": 0},
    }.items():
        add(
            f"cross_entropy-{id}-{reduction}",
            lambda x, r=reduction, o=options: F.cross_entropy(x, LABELS, reduction=r, **o),
            normal(4, 3),
            orders=3,
        )
    add(
        f"cross_entropy-space-{reduction}",
        lambda x, r=reduction: F.cross_entropy(x, LABELS.reshape(2, 2), reduction=r),
        normal(2, 3, 2),
    )
    add(
        f"cross_entropy-vector-{reduction}",
        lambda x, r=reduction: F.cross_entropy(x, LABELS[0], reduction=r),
        normal(3),
    )
    add(
        f"cross_entropy-soft-{reduction}",
        lambda x, t, r=reduction: F.cross_entropy(x, t, WEIGHTS, reduction=r, label_smoothing=0.1),
        normal(4, 3),
        uniform(4, 3),
    )
    add(
        f"nll_loss-{reduction}",
        lambda x, r=reduction: F.nll_loss(x, LABELS, WEIGHTS, ignore_index=2, reduction=r),
        normal(4, 3),
    )
    for fn in (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits):
        add(
            f"{fn.__name__}-{reduction}",
            lambda x, t, f=fn, r=reduction: f(x, t, reduction=r),
            normal(3, 4),
            normal(3, 4),
        )
    add(
        f"binary_cross_entropy-{reduction}",
        lambda x, t, r=reduction: F.binary_cross_entropy(x, t, reduction=r),
        uniform(3, 4, low=0.1, high=0.9),
        uniform(3, 4, low=0.1, high=0.9),
    )
    if reduction != "mean":  # torch warns of what it means by it
        add(
            f"kl_div-{reduction}",
            lambda x, t, r=reduction: F.kl_div(x, t, reduction=r),
            normal(3, 4),
            uniform(3, 4, low=0.1),
        )
add(
    "bce-weights",
    lambda x, t: F.binary_cross_entropy_with_logits(x, t, WEIGHTS, pos_weight=WEIGHTS * 2),
    normal(2, 3),
    uniform(2, 3),
)
add(
    "kl_div-log",
    lambda x, t: F.kl_div(x, t, reduction="batchmean", log_target=True),
    normal(3, 4),
    normal(3, 4),
)
add(
    "smooth_l1-beta",
    lambda x, t: F.smooth_l1_loss(x, t, beta=0.3) + F.huber_loss(x, t, delta=0.3),
    normal(9),
    normal(9),
)

# --- what torch's database leaves out (the rest is examined there) ---------------------------------------------

add("fold", lambda x: F.fold(x, (4, 5), (2, 3), padding=(0, 1), stride=(2, 1)), normal(2, 12, 10))
add("affine_grid", lambda t: F.affine_grid(t, (2, 1, 3, 4), align_corners=False), normal(2, 2, 3))
add("affine_grid-corners", lambda t: F.affine_grid(t, (1, 1, 2, 3, 4), align_corners=True), normal(1, 3, 4))
add(
    "spatial-transformer",
    lambda x, t: F.grid_sample(x, F.affine_grid(t, (2, 3, 5, 5), align_corners=False), align_corners=False),
    normal(2, 3, 6, 5),
    normal(2, 2, 3) * 0.3,
)
add("lp_pool1d", lambda x: F.lp_pool1d(x, 3, 2), uniform(2, 3, 6, low=0.1))
add("lp_pool2d", lambda x: F.lp_pool2d(x, 2, (2, 3), stride=1), normal(2, 3, 4, 6))
add("lp_pool3d", lambda x: F.lp_pool3d(x, 2, 2, ceil_mode=True), normal(1, 2, 3, 4, 5))
add("lp_pool2d-largest", lambda x: F.lp_pool2d(x, float("inf"), 2), normal(1, 2, 4, 4))
for size, fn in (
    (3, F.adaptive_max_pool1d),
    ((2, 3), F.adaptive_max_pool2d),
    ((2, None, 3), F.adaptive_max_pool3d),
):
    space = (7,) if isinstance(size, int) else (5, 7) if len(size) == 2 else (4, 3, 5)
    add(
        f"{fn.__name__}-indices",
        lambda x, f=fn, s=size: f(x, s, return_indices=True),
        normal(2, 3, *space),
    )
add("max_pool3d-indices", lambda x: F.max_pool3d(x, 2, return_indices=True), normal(2, 2, 4, 4, 5))
for count, fn in ((2, F.fractional_max_pool2d), (3, F.fractional_max_pool3d)):
    draws = uniform(2, 3, count)
    add(
        f"{fn.__name__}-indices",
        lambda x, f=fn, u=draws: f(x, 2, output_size=3, return_indices=True, _random_samples=u.to(x.dtype)),
        normal(2, 3, *[6] * count),
    )
add("interpolate-area", lambda x: F.interpolate(x, scale_factor=0.5, mode="area"), normal(2, 3, 4, 6))
add(
    "interpolate-recomputed",
    lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
    normal(2, 3, 4, 6),
)
add(
    "interpolate-smooth",
    lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
    normal(2, 3, 7, 9),
)
for equation, shapes in {
    "...ij,...jk->...ik": ((2, 1, 3, 4), (5, 4, 2)),
    "...i,...i": ((3, 4), (4,)),
    "ii->i": ((3, 3),),
    "iij,jk->k": ((2, 2, 3), (3, 4)),
    "b...,b->...": ((2, 3, 1), (2,)),
}.items():
    add(
        f"einsum-{equation}",
        lambda *xs, e=equation: torch.einsum(e, *xs),
        *[normal(*shape) for shape in shapes],
    )
add(
    "attention-of-nothing",  # a row of the mask that leaves everything out
    lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, torch.tensor([[True, False, True], [False, False, False]])
    ),
    normal(2, 2, 4),
    normal(2, 3, 4),
    normal(2, 3, 5),
    examiner=lambda q, k, v: torch.cat(
        [(torch.softmax(q[:, :1] @ k[:, ::2].mT / 2, -1) @ v[:, ::2]), v[:, :1] * 0 + q[:, 1:, :1] * 0], 1
    ),
)
add(
    "attention-bias",
    lambda q, k, v, b: F.scaled_dot_product_attention(q, k, v, b, scale=0.3),
    normal(2, 3, 4),
    normal(2, 5, 4),
    normal(2, 5, 2),
    normal(3, 5),
)
add("addmm-no-beta", lambda x, a, b: torch.addmm(x, a, b, beta=0), normal(3), normal(2, 4), normal(4, 3))
add("multi_dot", lambda *xs: torch.linalg.multi_dot(xs), normal(3), normal(3, 5), normal(5, 2), normal(2, 4))
add(
    "matrix_power", lambda a: torch.linalg.matrix_power(a, 5) + torch.linalg.matrix_power(a, -2), normal(3, 3)
)
add("torch.slogdet", torch.slogdet, normal(2, 3, 3))
add("solve_triangular", lambda a, b, B: (
    torch.linalg.solve_triangular(a, B, upper=True) + torch.linalg.solve_triangular(b, B, upper=False)),
    normal(3, 3) + 3 * torch.eye(3), normal(3, 3) + 3 * torch.eye(3), normal(3, 2))  # fmt: skip
add(
    "nonsingular-det",
    lambda a: torch.linalg.det(a) + torch.linalg.slogdet(a).logabsdet,
    normal(2, 3, 3),
    orders=3,
)
add("svdvals-third", torch.linalg.svdvals, normal(3, 4), orders=3)
add("eigvalsh-third", lambda a: torch.linalg.eigvalsh(a + a.mT), normal(4, 4), orders=3)
add("qr-third", lambda a: torch.linalg.qr(a), normal(4, 3), orders=3)
add("lu-tall-third", lambda a: torch.linalg.lu(a), normal(4, 3), orders=3)
add("cholesky-third", lambda a: torch.linalg.cholesky(a @ a.mT + torch.eye(3)), normal(3, 3), orders=3)
add("matrix_exp-third", torch.linalg.matrix_exp, normal(3, 3), orders=3)
add(
    "logcumsumexp-third",  # torch's own third order is nan
    lambda x: torch.logcumsumexp(x, 1),
    normal(2, 5),
    examiner=lambda x: torch.log(torch.cumsum(torch.exp(x), 1)),
    orders=3,
)
add("cdist-third", torch.cdist, normal(3, 2), normal(4, 2), examiner=lambda x, y: (
    (x[:, None] - y[None]).square().sum(-1).sqrt()), orders=3)  # fmt: skip
add(
    "ctc_loss",
    lambda x: F.ctc_loss(torch.log_softmax(x, 2), torch.tensor([[1, 2, 2], [3, 1, 0]]), (6, 5), (3, 2)),
    normal(6, 2, 4),
    orders=1,  # torch has no second
)


# --- weight norm -----------------------------------------------------------------------------------------------


def _weight_norm_by_formula(dim: int) -> Callable[..., torch.Tensor]:
    """torch's own is right at first order only: torch.autograd.gradgradcheck refuses it."""

    def weight_norm(v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        dims = [d for d in range(v.ndim) if d != dim]
        return v * (g / torch.linalg.vector_norm(v, 2, dims, keepdim=dim != -1))

    return weight_norm


for _dim, _size in ((0, (3, 1, 1)), (2, (1, 1, 4)), (-1, ())):
    add(
        f"weight_norm-{_dim}",
        lambda v, g, dim=_dim: torch._weight_norm(v, g, dim),
        normal(3, 2, 4),
        uniform(*_size, low=0.5, high=2.0),
        examiner=_weight_norm_by_formula(_dim),
    )
    add(f"norm_except_dim-{_dim}", lambda v, dim=_dim: torch.norm_except_dim(v, 2, dim), normal(3, 2, 4))
add("norm_except_dim-1-norm", lambda v: torch.norm_except_dim(v, 1, 1), normal(3, 2, 4))
add(
    "pad_sequence",
    lambda a, b: torch.nn.utils.rnn.pad_sequence([a, b], padding_value=2.0, padding_side="left"),
    normal(3, 2),
    normal(1, 2),
)
