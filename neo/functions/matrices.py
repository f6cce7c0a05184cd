"""Functions of matrices: powers, exponentials, norms, pseudo-inverses, least squares.

Stacks of matrices in leading dims.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.errors import NumberError
from neo.functions._arguments import named
from neo.functions.decompositions import svdvals
from neo.functions.extremes import amax, amin, vector_norm
from neo.functions.linalg import Inverse, blended, matmul, solve
from neo.functions.registry import implements, lite, raw
from neo.functions.shaping import _VF, to_order

inverse = function(Inverse, "inv")

# --- inverses that say how it went ---------------------------------------------------------------------------


@implements(torch.linalg.inv_ex)
def inv_ex(A, *, check_errors=False):
    """(A⁻¹, info): info 0, or the first pivot that is zero."""
    info = torch.linalg.inv_ex(raw(A), check_errors=check_errors).info
    return named.linalg_inv_ex((inverse(A), lite(info) if isinstance(A, LiteTensor) else info))


@implements(torch.linalg.solve_ex)
def solve_ex(A, B, *, left=True, check_errors=False):
    """(X with A X = B, info)."""
    info = torch.linalg.solve_ex(raw(A), raw(B), left=left, check_errors=check_errors).info
    seen = isinstance(A, LiteTensor) or isinstance(B, LiteTensor)
    return named.linalg_solve_ex((solve(A, B, left=left), lite(info) if seen else info))


class Pinv(Policy):
    """Y = A⁺;  Ā = −Yᵀ Ȳ Yᵀ + (I − A Y) Ȳᵀ Y Yᵀ + Yᵀ Y Ȳᵀ (I − Y A), where the rank does not change;
    Ẏ = −Y Ȧ Y + Y Yᵀ Ȧᵀ (I − A Y) + (I − Y A) Ȧᵀ Yᵀ Y.

    Golub and Pereyra 1973, equation 4.12. options: rcond, or atol and rtol, and hermitian, as torch takes them.
    """

    verified = True

    def forward(self, A, options):
        Y = torch.linalg.pinv(A, **options)
        self.ctx.save(A, Y)
        return Y

    def backward(self, Y_bar):
        A, Y = self.ctx.release
        Yt, Yt_bar = Y.transpose(-1, -2), Y_bar.transpose(-1, -2)
        across = Yt_bar @ Y @ Yt
        along = Yt @ Y @ Yt_bar
        return across - A @ (Y @ across) + along - (along @ Y) @ A - Yt @ Y_bar @ Yt

    def jvp(self, A_dot):
        A, Y = self.ctx.release
        Yt, At_dot = Y.transpose(-1, -2), A_dot.transpose(-1, -2)
        across = At_dot @ Yt @ Y
        along = Y @ Yt @ At_dot
        return along - (along @ A) @ Y + across - Y @ (A @ across) - Y @ A_dot @ Y


_pinv = function(Pinv, "pinv")


@implements(torch.linalg.pinv)
def pinv(A, rcond=None, *, atol=None, rtol=None, hermitian=False):
    """The pseudo-inverse; singular values up to max(atol, rtol · the largest) count as zero."""
    given = {"rcond": rcond, "atol": atol, "rtol": rtol}
    options = {key: raw(value) for key, value in given.items() if value is not None}  # constants
    return _pinv(A, {**options, "hermitian": hermitian})


@implements(torch.pinverse)
def pinverse(x, rcond=1e-15):
    return pinv(x, rcond)


@implements(torch.linalg.lstsq)
def lstsq(A, B, rcond=None, *, driver=None):
    """(X, residuals, rank, singular values): the X of least ‖A X − B‖, X = A⁺ B; the last two are constants."""
    found = torch.linalg.lstsq(raw(A), raw(B), rcond, driver=driver)
    residuals, rank, s = found.residuals, found.rank, found.singular_values
    vector = B.ndim == A.ndim - 1 and B.ndim > 0
    right = B.unsqueeze(-1) if vector else B
    X = matmul(pinv(A), right)
    if isinstance(X, LiteTensor):
        residuals, rank, s = lite(residuals), lite(rank), lite(s)
    if residuals.numel():
        away = matmul(A, X) - right
        residuals = (away * away).sum(-2).reshape(tuple(residuals.shape))
    return named.linalg_lstsq((X.squeeze(-1) if vector else X, residuals, rank, s))


# --- powers and exponentials ---------------------------------------------------------------------------------


@implements(torch.matrix_exp, torch.linalg.matrix_exp)
class MatrixExp(Policy):
    """Y = e^A;  Ā = the upper right block of exp of [[Aᵀ, Ȳ], [0, Aᵀ]], Ẏ that of [[A, Ȧ], [0, A]].

    Mathias 1996, theorem 2.1.
    """

    verified = True

    def forward(self, x):
        self.ctx.save(x)
        return torch.matrix_exp(x)

    def backward(self, Y_bar):
        (A,) = self.ctx.release
        return _exp_along(A.transpose(-1, -2), Y_bar)

    def jvp(self, A_dot):
        (A,) = self.ctx.release
        return _exp_along(A, A_dot)


def _exp_along(A: Any, E: Any) -> Any:
    """The derivative of e^A along E."""
    n = A.shape[-1]
    above = torch.cat([A, E], -1)
    below = torch.cat([torch.zeros_like(A), A], -1)
    return torch.matrix_exp(torch.cat([above, below], -2))[..., :n, n:]


@implements(torch.linalg.matrix_power, numbers=("n",))
def matrix_power(A, n):
    """Aⁿ by squaring, for any whole n; negative powers are those of A⁻¹."""
    if n < 0:
        return torch.linalg.matrix_power(torch.linalg.inv(A), -n)
    if n == 0:
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(tuple(A.shape))
        return lite(eye) if isinstance(A, LiteTensor) else eye
    power = None
    while n:
        if n & 1:
            power = A if power is None else torch.matmul(power, A)
        A, n = (torch.matmul(A, A), n >> 1) if n > 1 else (A, 0)
    return power


implements(torch.matrix_power, numbers=("n",))(matrix_power)


@implements(torch.linalg.multi_dot)
def multi_dot(tensors):
    """A B C ..., multiplied in the order of least work; the first and the last may be vectors.

    Cormen et al., Introduction to Algorithms, section 15.2.
    """
    tensors = list(tensors)
    if len(tensors) < 2:
        raise RuntimeError(f"multi_dot: expected at least 2 tensors but got {len(tensors)}")
    first, last = tensors[0].ndim == 1, tensors[-1].ndim == 1
    if first:
        tensors[0] = tensors[0].unsqueeze(0)
    if last:
        tensors[-1] = tensors[-1].unsqueeze(-1)
    sizes = [t.shape[0] for t in tensors] + [tensors[-1].shape[1]]
    n = len(tensors)
    cost = [[0] * n for _ in range(n)]
    cut = [[0] * n for _ in range(n)]
    for span in range(1, n):
        for i in range(n - span):
            j = i + span
            options = [
                (cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j)
            ]
            cost[i][j], cut[i][j] = min(options)

    def product(i: int, j: int) -> Any:
        return tensors[i] if i == j else matmul(product(i, cut[i][j]), product(cut[i][j] + 1, j))

    y = product(0, n - 1)
    y = y.squeeze(0) if first else y
    return y.squeeze(-1) if last else y


@implements(torch.chain_matmul, _VF.chain_matmul)
def chain_matmul(*tensors):
    """multi_dot by its older name."""
    return multi_dot(tensors)


# --- norms ---------------------------------------------------------------------------------------------------


@implements(torch.linalg.matrix_norm)
def matrix_norm(A, ord="fro", dim=(-2, -1), keepdim=False, *, dtype=None):
    """Norms of the matrices that two dims span, s their singular values.

    "fro": √Σ a²; "nuc": Σ s; ±2: the largest, smallest s; ±1, ±inf: the largest, smallest Σ |a| of a column, of a row.
    """
    A = A if dtype is None else A.to(dtype)
    row, column = (d % A.ndim for d in dim)
    if row == column:
        raise RuntimeError(f"matrix_norm: dims must be different. Got {tuple(dim)}")
    empty = not A.shape[row] * A.shape[column] and (isinstance(ord, str) or ord > 0)  # whose norm is 0
    if ord == "fro" or empty:
        return vector_norm(A, 2, (row, column), keepdim)
    if ord in ("nuc", 2, -2):
        rest = [d for d in range(A.ndim) if d not in (row, column)]
        s = svdvals(to_order(A, (*rest, row, column)))
        y = s.sum(-1) if ord == "nuc" else amax(s, -1) if ord == 2 else amin(s, -1)
        return y.reshape([1 if d in (row, column) else n for d, n in enumerate(A.shape)]) if keepdim else y
    if ord not in (1, -1, math.inf, -math.inf):
        raise RuntimeError(f"matrix_norm: Order {ord} not supported.")
    over, along = (row, column) if abs(ord) == 1 else (column, row)
    sums = vector_norm(A, 1, over, True)
    y = amax(sums, along, True) if ord > 0 else amin(sums, along, True)
    return y if keepdim else y.squeeze((row, column))


@implements(torch.linalg.cond)
def cond(A, p=None):
    """‖A‖ₚ ‖A⁻¹‖ₚ; p = 2 by default, the ratio of the extreme singular values."""
    if p is None or p in (2, -2):
        s = svdvals(A)
        return s[..., 0] / s[..., -1] if p != -2 else s[..., -1] / s[..., 0]
    return matrix_norm(A, p) * matrix_norm(inverse(A), p)


@implements(torch.linalg.norm, only=True, name="linalg_norm", scalars=("ord",))
def linalg_norm(x, ord=None, dim=None, keepdim=False, *, dtype=None):
    """The 2-norm of all entries without ord; else vector_norm over one dim, matrix_norm over two."""
    if ord is not None and (isinstance(ord, str) or (x.ndim == 2 and dim is None) or _count(dim) == 2):
        if isinstance(ord, LiteTensor):
            raise NumberError(
                "linalg_norm: ord must be a number for the norm of a matrix, which has no gradient for ord, got a "
                "LiteTensor. Pass ord.item(); or dim=, for norms of vectors."
            )
        return matrix_norm(x, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    if ord is not None and dim is None and x.ndim > 1:
        raise RuntimeError(
            f"linalg_norm: If dim is not specified but ord is, the input must be 1D or 2D. Got {x.ndim}D."
        )
    return vector_norm(x, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


def _count(dim: Any) -> int:
    return 1 if dim is None or isinstance(dim, int) else len(dim)


@implements(torch.norm, scalars=("p",))
def norm(x, p="fro", dim=None, keepdim=False, out=None, dtype=None):
    """The p-norm of the entries over dims; "fro" is p = 2, "nuc" the sum of the singular values of matrices."""
    if isinstance(p, str) and p == "nuc":
        return matrix_norm(x, "nuc", (0, 1) if dim is None else dim, keepdim, dtype=dtype)
    if isinstance(p, str) and p != "fro":
        raise RuntimeError(f"norm: only valid p's are 'fro', 'nuc' and numbers, got {p!r}")
    return vector_norm(x, 2 if p is None or isinstance(p, str) else p, dim, keepdim, dtype=dtype)


# --- tensors as matrices -------------------------------------------------------------------------------------


@implements(torch.linalg.tensorinv)
def tensorinv(A, ind=2):
    """The inverse of A as a map from its last dims to its first `ind`."""
    shape = tuple(A.shape)
    n = math.prod(shape[ind:])
    if math.prod(shape[:ind]) != n:
        raise RuntimeError(
            f"tensorinv: Expected self to satisfy the requirement prod(self.shape[ind:]) == prod(self.shape[:ind]), "
            f"but got {n} != {math.prod(shape[:ind])}"
        )
    return inverse(A.reshape((n, n))).reshape((*shape[ind:], *shape[:ind]))


@implements(torch.linalg.tensorsolve)
def tensorsolve(A, B, dims=None):
    """X with tensordot(A, X, X.ndim) = B; dims of A are moved to its end first."""
    if dims is not None:
        dims = [d % A.ndim for d in dims]
        A = to_order(A, (*[d for d in range(A.ndim) if d not in dims], *dims))
    shape = tuple(A.shape)[B.ndim :]
    n = math.prod(shape)
    return solve(A.reshape((-1, n)), B.reshape((-1,))).reshape(shape)


@implements(torch.linalg.vander, torch.vander, only=True, name="vander")
def vander(x, N=None, *, increasing=True):
    """Columns 1, x, x², ..., N of them, n by default, for x (.., n)."""
    x = torch.atleast_1d(x)
    N = x.shape[-1] if N is None else N
    columns = [torch.ones_like(x)] if N else []
    for _ in range(1, N):
        columns.append(columns[-1] * x)
    return torch.stack(columns if increasing else columns[::-1], -1)


@implements(torch.linalg.vecdot)
def vecdot(x, y, *, dim=-1):
    """Σ x y along a dim, broadcast."""
    return (x * y).sum(dim)


@implements(torch.linalg.cross)
def cross(x, other, *, dim=-1):
    """The vector product along a dim of size 3, broadcast."""
    if x.ndim != other.ndim:
        raise RuntimeError(
            f"linalg_cross: inputs must have the same number of dimensions, got {x.ndim}, {other.ndim}"
        )
    if not x.shape[dim] == other.shape[dim] == 3:
        raise RuntimeError(
            f"linalg_cross: inputs dimension {dim} must have length 3. Got {x.shape[dim]} and {other.shape[dim]}"
        )
    x, other = torch.broadcast_tensors(x, other)
    a, b = torch.unbind(x, dim), torch.unbind(other, dim)
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]], dim)


@implements(torch.cross)
def torch_cross(x, other, dim=None):
    """The vector product along a dim, by default the first of size 3."""
    if dim is None:
        shape = torch.broadcast_shapes(tuple(x.shape), tuple(other.shape))
        dim = next((d for d, n in enumerate(shape) if n == 3), -1)
    return cross(x, other, dim=dim)


@implements(torch.linalg.diagonal)
def linalg_diagonal(A, *, offset=0, dim1=-2, dim2=-1):
    """A diagonal of the matrices that the last two dims span, as the last dim."""
    return torch.diagonal(A, offset, dim1, dim2)


@implements(torch.vdot)
def vdot(x, other):
    """Σ xᵢ yᵢ."""
    return torch.dot(x, other)


@implements(torch.addbmm, scalars=("alpha", "beta"))
def addbmm(x, batch1, batch2, *, beta=1, alpha=1):
    """β x + α Σ Aᵢ Bᵢ over the stack."""
    return blended(x, beta, torch.bmm(batch1, batch2).sum(0), alpha)


@implements(torch.addr, scalars=("alpha", "beta"))
def addr(x, vec1, vec2, *, beta=1, alpha=1):
    """β x + α a bᵀ."""
    return blended(x, beta, torch.outer(vec1, vec2), alpha)


@implements(torch.kron)
def kron(x, other):
    """The Kronecker product: every entry of x times all of y."""
    dims = max(x.ndim, other.ndim)
    x, other = (t.reshape((1,) * (dims - t.ndim) + tuple(t.shape)) for t in (x, other))
    wide = x.reshape(tuple(n for size in x.shape for n in (size, 1)))
    high = other.reshape(tuple(n for size in other.shape for n in (1, size)))
    return (wide * high).reshape(tuple(m * n for m, n in zip(x.shape, other.shape, strict=True)))
