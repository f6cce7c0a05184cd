"""An op's numbers do not depend on how its tensors lie in memory: arguments, cotangents, and those of the second order.

torch's kernels are not all written for every layout (its channels-last batch-norm gradient reads a strided scale as if
it were dense), and Neo's rules call them where torch's autograd does not. Each sample is taken with every tensor, and
every cotangent on its way back, laid out otherwise, against the same numbers laid out densely.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import optree
import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from neo.autograd import Policy
from neo.functions import function, fused, norm_relu_pool
from tests.neo.functions import certificate
from tests.neo.functions.orders import close, tensors

# --- layouts --------------------------------------------------------------------------------------------------------


def last(x: torch.Tensor) -> torch.Tensor:
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return x if layout is None else x.contiguous(memory_format=layout)


def sliced(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, dim=0)[::2] if x.ndim else x


def columns_sliced(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, dim=-1)[..., ::2] if x.ndim else x


def transposed(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.ndim > 1 else x


def offset(x: torch.Tensor) -> torch.Tensor:
    return x.new_zeros(x.numel() + 3)[3:].view(x.shape).copy_(x)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "images channels-last, the rest sliced": lambda x: last(x) if x.ndim > 3 else sliced(x),
    "sliced": sliced,
    "columns sliced": columns_sliced,
    "transposed": transposed,
    "channels-last and sliced": lambda x: last(x.repeat_interleave(2, dim=0))[::2] if x.ndim else x,
    "images dense, the rest sliced": lambda x: x if x.ndim > 2 else sliced(x),
    "offset": offset,
}


class Relaid(Policy):
    """y = x;  x̄ = ȳ. The same numbers in another layout, on the way there and on each way back."""

    def forward(self, x: torch.Tensor, layout: str) -> torch.Tensor:
        self.ctx.save(layout)
        return LAYOUTS[layout](x)

    def backward(self, y_bar: Any) -> Any:
        (layout,) = self.ctx.release
        return relaid(y_bar, layout)


relaid = function(Relaid)


def everything_relaid(call: Callable[..., Any], layout: str) -> Callable[..., Any]:
    def lay_out(value: Any) -> Any:
        floating = isinstance(value, LiteTensor) and value.is_floating_point()
        return relaid(value, layout) if floating else value

    return lambda *xs: optree.tree_map(lay_out, call(*(lay_out(x) for x in xs)))


# --- comparison -----------------------------------------------------------------------------------------------------


def assert_same(got: Any, right: Any) -> None:
    """(value, gradients, gradients of gradients) of two ways."""
    for what, ours, theirs in zip(("value", "gradient", "gradient of gradient"), got, right, strict=True):
        for a, b in zip(optree.tree_leaves(ours), optree.tree_leaves(theirs), strict=True):
            if isinstance(b, LiteTensor) and b.is_floating_point():
                bound = 1e-7 if b.dtype is torch.float64 else 3e-3
                close(a, b.data, what, bound, bound * max(1.0, certificate._largest(b.data)))


def assert_layouts_do_not_matter(
    call: Callable[..., Any], args: list[torch.Tensor], layouts: Any = LAYOUTS
) -> None:
    right = certificate._by_neo(call, args, again=True)
    for layout in layouts:
        assert_same(certificate._by_neo(everything_relaid(call, layout), args, again=True), right)


def assert_expanded_is_as_dense(call: Callable[..., Any], args: list[torch.Tensor]) -> None:
    for chosen in itertools.chain([range(len(args))], ([i] for i in range(len(args)) if len(args) > 1)):
        expanded = [
            x[:1].expand(x.shape) if i in chosen and x.ndim and x.shape[0] > 1 else x
            for i, x in enumerate(args)
        ]
        dense = [x.contiguous().clone() for x in expanded]
        if any(x.stride() != y.stride() for x, y in zip(expanded, dense, strict=True)):
            try:
                right = certificate._by_neo(call, dense, again=True)
            except RuntimeError:  # of equal rows: a singular matrix
                continue
            assert_same(certificate._by_neo(call, expanded, again=True), right)


# --- torch's database of ops ----------------------------------------------------------------------------------------

# Among equal entries a median is any, as are the small singular vectors of equal rows.
NOT_OF_EQUAL_ROWS = {"median", "nanmedian", "masked.median", "svd_lowrank", "pca_lowrank"}
BY_STRIDES = {
    "as_strided",
    "as_strided_copy",
    "as_strided_scatter",
    "view",
    "view_as",
}  # whose meaning they are
OFTEN_FUSED = {  # ops whose kernels know of layouts
    "nn.functional.batch_norm", "nn.functional.layer_norm", "nn.functional.group_norm", "nn.functional.instance_norm",
    "nn.functional.conv2d", "nn.functional.conv_transpose2d", "nn.functional.max_pool2d", "nn.functional.avg_pool2d",
    "nn.functional.adaptive_avg_pool2d", "nn.functional.linear", "nn.functional.bilinear", "nn.functional.prelu",
    "nn.functional.cross_entropy", "nn.functional.embedding", "nn.functional.grid_sample", "nn.functional.glu",
    "nn.functional.unfold", "nn.functional.pixel_shuffle", "log_softmax", "softmax", "cumsum", "addmm", "bmm", "mv",
    "linalg.solve", "linalg.cholesky", "std", "index_select", "gather", "masked_select", "sort", "cdist",
}  # fmt: skip
OPS = [op for op in certificate.WITH_DERIVATIVES if op.name not in BY_STRIDES]


def samples_of(op: Any, dtype: torch.dtype, count: int, largest: int) -> Any:
    """Samples that Neo answers, each with its function of its floating-point tensors, and those."""
    torch.manual_seed(0)
    found = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        call, args = certificate._as_function(op, sample)
        if not 4 <= sum(x.numel() for x in args) <= largest:
            continue
        try:
            if not tensors(call(*[LiteTensor(x) for x in args])):
                continue
            certificate._by_neo(call, args, again=True)
        except Exception:  # refused, or no derivative: the certificate looks after those
            continue
        yield sample, call, args
        found += 1
        if found == count:
            return


def assert_layouts_of_indices_do_not_matter(
    op: Any, sample: Any, call: Callable[..., Any], args: Any
) -> None:
    """The same for tensors of whole numbers and masks, which are constants."""
    given = (sample.input, tuple(sample.args), sample.kwargs)
    right = None
    for layout in (sliced, columns_sliced, transposed):

        def lay_out(value: Any, layout: Callable[..., Any] = layout) -> Any:
            whole = isinstance(value, torch.Tensor) and not value.is_floating_point() and value.numel() > 1
            return layout(value) if whole and value.layout is torch.strided else value

        first, rest, named = optree.tree_map(lay_out, given, none_is_leaf=True)
        if all(
            a is b
            for a, b in zip(*(optree.tree_leaves(t) for t in ((first, rest, named), given)), strict=True)
        ):
            return
        relaid_sample = type(sample)(
            first, args=rest, kwargs=named, output_process_fn_grad=sample.output_process_fn_grad
        )
        right = certificate._by_neo(call, args, again=True) if right is None else right
        assert_same(
            certificate._by_neo(certificate._as_function(op, relaid_sample)[0], args, again=True), right
        )


@pytest.mark.parametrize("name", sorted(OFTEN_FUSED))
def test_layouts_do_not_matter_to_ops_whose_kernels_know_of_them(name: str) -> None:
    (op,) = (
        op
        for op in OPS
        if certificate.full_name(op) == name or (op.name == name and not op.variant_test_name)
    )
    for sample, call, args in samples_of(op, torch.float64, 1, 2000):
        assert_layouts_do_not_matter(call, args, list(LAYOUTS)[:4])
        assert_expanded_is_as_dense(call, args)
        assert_layouts_of_indices_do_not_matter(op, sample, call, args)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")  # some samples are made by functions that torch gives up
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("op", OPS, ids=certificate.full_name)
def test_layouts_do_not_matter_to_any_op(op: Any, dtype: torch.dtype) -> None:
    if dtype not in op.dtypes:
        pytest.skip(f"torch has no {dtype} of it")
    for sample, call, args in samples_of(op, dtype, 2 if dtype is torch.float64 else 1, 2000):
        assert_layouts_do_not_matter(call, args)
        if op.name not in NOT_OF_EQUAL_ROWS:
            assert_expanded_is_as_dense(call, args)
        assert_layouts_of_indices_do_not_matter(op, sample, call, args)


# --- normalisation and blocks, on images of few and of many pixels --------------------------------------------------

NORMS: dict[str, Callable[..., Any]] = {
    "batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    "batch_norm, no shift": lambda x, w, b: F.batch_norm(x, None, None, w, None, training=True) + b.sum(),
    "batch_norm by running statistics": lambda x, w, b: F.batch_norm(x, w.data**2, b.data**2 + 1, w, b),
    "batch_norm_relu": norm_relu_pool.batch_norm_relu,
    "batch_norm_relu_max_pool": lambda x, w, b: norm_relu_pool.batch_norm_relu_max_pool(x, w, b, 2),
    "group_norm": lambda x, w, b: F.group_norm(x, 1, w, b),
    "instance_norm": lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(("n", "channels", "size"), [(2, 16, 6), (3, 5, 4), (8, 16, 7)])
@pytest.mark.parametrize("kernels", ["Neo's kernels", "torch's"])
def test_strided_and_expanded_parameters_of_a_norm_are_read_where_they_are(
    name, n, channels, size, kernels
) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(n, channels, size, size, generator=generator, dtype=torch.float64)
    w, b = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    on = neo.kernels.switched_off if kernels == "torch's" else contextlib.nullcontext
    with on():
        for image in (x, last(x), last(sliced(x)), transposed(x)):
            for relay in (sliced, lambda p: p[:1].expand(p.shape), offset):
                weight, bias = relay(w), relay(b)
                right = certificate._by_neo(NORMS[name], [x, weight.clone(), bias.clone()], again=True)
                assert_same(certificate._by_neo(NORMS[name], [image, weight, bias], again=True), right)


@pytest.mark.parametrize("planes", [2, 16])
def test_strided_and_expanded_parameters_of_a_block_are_read_where_they_are(planes: int) -> None:
    generator = torch.Generator().manual_seed(planes)
    x = last(torch.randn(3, planes, 6, 7, generator=generator, dtype=torch.float64))
    weight = torch.randn(16, planes, 3, 3, generator=generator, dtype=torch.float64)
    rows = torch.randn(3, 16, generator=generator, dtype=torch.float64)

    def block(*params: Any) -> Any:
        out = fused.conv_block(x, *params, 1, 2)
        assert out is not None
        return out

    right = certificate._by_neo(block, [weight, *rows], again=True)
    for relay in (sliced, columns_sliced, transposed, offset):
        given = [relay(weight), *(relay(row) for row in rows)]
        assert_same(certificate._by_neo(block, given, again=True), right)
    assert_expanded_is_as_dense(block, [weight, *rows])
    for layout in LAYOUTS:
        assert_same(certificate._by_neo(everything_relaid(block, layout), [weight, *rows], again=True), right)
