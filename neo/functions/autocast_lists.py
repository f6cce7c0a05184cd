"""Which ops torch.autocast knows, by kind of device: the lists of torch 2.13 (ATen/autocast_mode.h and .cpp).

By the names that torch gives its functions. What torch composes of listed ops is here too, where Neo has it as one op:
under the kind that the composition comes to, or as WITHIN. Tests compare both with torch, op by op.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["FLOAT32", "FLOAT32_SUM", "LISTS", "LOWER", "LOWER_RESULT", "REFUSED", "WIDEST", "WITHIN"]

LOWER = "computed in the lower precision"
FLOAT32 = "computed in float32"
FLOAT32_SUM = "computed in float32, where the call names no dtype"
WIDEST = "computed in the widest dtype among its arguments"
WITHIN = "a composition of ops that autocast knows one by one"
LOWER_RESULT = "the same, with a result in the lower precision"
REFUSED = (
    "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast: use "
    "binary_cross_entropy_with_logits, or compute this loss in float32 inside torch.autocast(..., enabled=False)"
)

Kind = str | Callable[..., str | None]
"""One of the above, or a function that gives it from the arguments of a call; None: nothing is cast."""


def _pad(x: Any, pad: Any, mode: str = "constant", value: Any = None) -> str | None:
    widths = len(pad) // 2
    return FLOAT32 if mode == "replicate" or (mode == "reflect" and widths < 3) else None


def _max_pool3d(x: Any, *args: Any, **kwargs: Any) -> str | None:
    indices = kwargs.get("return_indices", args[5] if len(args) > 5 else False)
    return None if indices else FLOAT32


def _interpolate_on_cpu(x: Any, *args: Any, **kwargs: Any) -> str | None:
    return FLOAT32 if x.ndim == 5 and _mode(*args, **kwargs) == "area" else None


def _interpolate_on_cuda(x: Any, *args: Any, **kwargs: Any) -> str | None:
    return None if _mode(*args, **kwargs) == "area" else FLOAT32


def _mode(size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any) -> str:
    return mode


def _local_response_norm(x: Any, *_: Any, **__: Any) -> str | None:
    """By avg_pool2d for x (n, c, l), by avg_pool3d for more dims."""
    return FLOAT32 if x.ndim > 3 else None


def _lstm(*args: Any) -> str:
    """oneDNN's layers give the lower precision; it has none for packed sequences nor with projections."""
    if isinstance(args[3], list | tuple):
        return WITHIN
    weights, layers, bidirectional = args[2], args[4], args[7]
    projected = len(weights) // (layers * (2 if bidirectional else 1)) % 2 == 1
    return WITHIN if projected else LOWER_RESULT


def _sum_to_size(x: Any, *size: Any) -> str | None:
    sizes = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
    return None if sizes and tuple(sizes) == tuple(x.shape) else FLOAT32


def _tensordot(x: Any, other: Any, dims: Any = 2, **_: Any) -> str:
    """A matrix product, and of what is contracted whole a sum of products of entries."""
    if isinstance(dims, int):
        both: list[Any] = [range(x.ndim - dims, x.ndim), range(dims)]
    else:
        both = [d if isinstance(d, list | tuple) else [d] for d in dims]
    free = [
        math.prod(n for d, n in enumerate(t.shape) if d not in {k % t.ndim for k in contracted})
        for t, contracted in zip((x, other), both, strict=True)
    ]
    return WIDEST if free == [1, 1] else LOWER


def _einsum(equation: Any, *operands: Any) -> str | None:
    """Products of matrices, pair by pair; a pair without a common letter to sum over is multiplied entry by entry."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if len(operands) != 2:
        return WITHIN if len(operands) > 2 else None
    left, arrow, output = equation.replace(" ", "").partition("->")
    sizes: list[dict[str, int]] = []
    for letters, x in zip(left.split(","), operands, strict=False):
        before, _, after = letters.partition("...")
        shape = tuple(x.shape)
        sizes.append(
            {**dict(zip(before, shape, strict=False)), **dict(zip(after[::-1], shape[::-1], strict=False))}
        )
    summed = {
        c
        for c in sizes[0].keys() & sizes[1].keys()
        if (c not in output if arrow else True) and sizes[0][c] != 1 and sizes[1][c] != 1
    }
    return LOWER if summed else WIDEST


_COMMON_LOWER = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d prelu addmm addbmm baddbmm bmm
    linalg_vecdot linear matmul mm scaled_dot_product_attention chain_matmul linalg_multi_dot
"""
_COMMON_FLOAT32 = """
    binary_cross_entropy_with_logits cdist cosine_embedding_loss cross_entropy hinge_embedding_loss huber_loss kl_div
    l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss poisson_nll_loss
    smooth_l1_loss soft_margin_loss triplet_margin_loss
"""

_CPU = {
    LOWER: _COMMON_LOWER,
    FLOAT32: _COMMON_FLOAT32
    + """
    adaptive_avg_pool3d adaptive_max_pool3d adaptive_max_pool3d_with_indices avg_pool3d binary_cross_entropy cholesky
    cholesky_inverse cholesky_solve ctc_loss fractional_max_pool2d fractional_max_pool2d_with_indices
    fractional_max_pool3d fractional_max_pool3d_with_indices grid_sample grid_sampler grid_sampler_2d grid_sampler_3d
    inverse linalg_cholesky linalg_cholesky_ex linalg_cond linalg_eigh linalg_eigvalsh linalg_householder_product
    linalg_inv linalg_inv_ex linalg_lstsq linalg_qr linalg_solve linalg_svd linalg_svdvals linalg_tensorinv
    linalg_tensorsolve lu lu_solve max_unpool1d max_unpool2d max_unpool3d nanquantile
    orgqr ormqr pinverse prod qr quantile svd trace triangular_solve
    """,
    WIDEST: "cat concat concatenate stack index_copy",
    WITHIN: """
    corrcoef cov gru gru_cell linalg_matrix_power linear_cross_entropy lstm_cell matrix_power
    multi_head_attention_forward rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell triplet_margin_with_distance_loss
    """,
    LOWER_RESULT: "linalg_pinv",
}
_CUDA = {
    LOWER: _COMMON_LOWER + "addmv addr mv einsum gru_cell lstm_cell rnn_relu_cell rnn_tanh_cell",
    FLOAT32: _COMMON_FLOAT32
    + """
    acos arccos asin arcsin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus layer_norm
    rms_norm group_norm cosine_similarity dist pdist renorm logsumexp
    local_response_norm multilabel_soft_margin_loss normalize pairwise_distance square _upsample_bilinear2d_aa
    """,
    FLOAT32_SUM: """
    prod softmax softmin log_softmax cumprod cumsum linalg_norm linalg_vector_norm linalg_matrix_norm norm sum
    """,
    WIDEST: """
    addcdiv addcmul atan2 arctan2 bilinear cross dot vdot grid_sample grid_sampler grid_sampler_2d grid_sampler_3d
    index_put tensordot scatter_add
    """,
    WITHIN: """
    corrcoef cov linalg_matrix_power linear_cross_entropy matrix_power multi_head_attention_forward
    triplet_margin_with_distance_loss
    """,
    LOWER_RESULT: "linalg_pinv lstm gru rnn_tanh rnn_relu",
    REFUSED: "binary_cross_entropy",
}

LISTS: dict[str, dict[str, Kind]] = {
    device: {name: kind for kind, names in listed.items() for name in names.split()}
    for device, listed in (("cpu", _CPU), ("cuda", _CUDA))
}
LISTS["cpu"] |= {
    "einsum": _einsum,
    "interpolate": _interpolate_on_cpu,
    "local_response_norm": _local_response_norm,
    "lstm": _lstm,
    "max_pool3d": _max_pool3d,
    "pad": _pad,
    "tensordot": _tensordot,
}
LISTS["cuda"] |= {
    "interpolate": _interpolate_on_cuda,
    "sum_to_size": _sum_to_size,
}
