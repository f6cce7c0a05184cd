"""Products of matrices. Their gradients are products again, so that a few rules serve every order."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from neo.autograd import _tensor
from neo.autograd._queries import autocast_enabled
from neo.autograd.policy import Policy, function
from neo.functions._tangents import total
from neo.functions.elementwise import is_exactly
from neo.functions.registry import implements, raw
from neo.kernels import dense, direct


class Product(Policy):
    """C = A B for matrices, A = aᵀ if transpose_a else a, B likewise;  Ā = C̄ Bᵀ, B̄ = Aᵀ C̄.

    The flags keep transposes off the tape: every gradient of a product is one product. a may have leading dims, its
    rows then being those of one large matrix, and C has them too; or a and b have the same ones, where a is transposed
    and b is not: a sum over all rows. Each gradient is one of these two again, so that no reshape is recorded.
    """

    verified = True

    def forward(self, a, b, transpose_a=False, transpose_b=False):
        self.ctx.save(a, b, transpose_a, transpose_b)
        return dense.product(a, b, transpose_a, transpose_b)

    def backward(self, c_bar):
        a, b, transpose_a, transpose_b = self.ctx.release
        return _pulled_back(_packed(c_bar), a, b, transpose_a, transpose_b, self.ctx.needs_grad)

    def jvp(self, a_dot, b_dot):
        a, b, *flags = self.ctx.release
        return _tangent(a, b, a_dot, b_dot, None, *flags)


class ProductSum(Policy):
    """E = A B + C D, and a bias in each row where there is one: the tangent of a product, as one op. Ā = Ē Bᵀ,
    B̄ = Aᵀ Ē, C̄ = Ē Dᵀ, D̄ = Cᵀ Ē, the bias's Σ Ē over rows.

    a and b as of Product, c and d of their shapes; the flags are of both products. bias (columns,), or None.
    """

    verified = True

    @staticmethod
    def composition(a, b, c, d, bias, transpose_a=False, transpose_b=False):
        e = product(a, b, transpose_a, transpose_b) + product(c, d, transpose_a, transpose_b)
        return e if bias is None else e + bias

    def forward(self, a, b, c, d, bias, transpose_a=False, transpose_b=False):
        self.ctx.save(a, b, c, d, transpose_a, transpose_b)
        return dense.product_sum(a, b, c, d, bias, transpose_a, transpose_b)

    def backward(self, e_bar):
        a, b, c, d, transpose_a, transpose_b = self.ctx.release
        needs = self.ctx.needs_grad
        e_bar = _packed(e_bar)
        bars = (
            *_pulled_back(e_bar, a, b, transpose_a, transpose_b, needs[:2]),
            *_pulled_back(e_bar, c, d, transpose_a, transpose_b, needs[2:4]),
        )
        if len(needs) == 4:
            return bars
        return *bars, direct.sum_of_rows(e_bar) if needs[4] else None

    def jvp(self, a_dot, b_dot, c_dot, d_dot, bias_dot=None):
        a, b, c, d, *flags = self.ctx.release
        return total(
            _tangent(a, b, a_dot, b_dot, bias_dot, *flags), _tangent(c, d, c_dot, d_dot, None, *flags)
        )


def _packed(cotangent):
    """A cotangent (.., n) for the products that read it: copied once, where it must be, and not by each."""
    return cotangent if cotangent.ndim == 2 else cotangent.contiguous()


def _pulled_back(c_bar, a, b, transpose_a, transpose_b, needs):
    """(Ā, B̄) of C = A B, None where not needed."""
    a_bar = b_bar = None
    if needs[0]:
        a_bar = (
            product(b, c_bar, transpose_b, True) if transpose_a else product(c_bar, b, False, not transpose_b)
        )
    if needs[1]:
        b_bar = (
            product(c_bar, a, True, transpose_a) if transpose_b else product(a, c_bar, not transpose_a, False)
        )
    return a_bar, b_bar


def _tangent(a, b, a_dot, b_dot, bias_dot, transpose_a, transpose_b):
    """Ȧ B + A Ḃ, and the bias's tangent in each row; None stands for zero."""
    if a_dot is None and b_dot is None:
        rows = a.shape[-1:] if transpose_a else a.shape[:-1]
        return None if bias_dot is None else bias_dot.expand((*rows, bias_dot.shape[0]))
    if a_dot is not None and b_dot is not None:
        return product_sum(a_dot, b, a, b_dot, bias_dot, transpose_a, transpose_b)
    c_dot = product(*((a_dot, b) if b_dot is None else (a, b_dot)), transpose_a, transpose_b)
    return c_dot if bias_dot is None else c_dot + bias_dot


class BatchProduct(Policy):
    """C = A B over broadcast leading dims;  Ā = C̄ Bᵀ, B̄ = Aᵀ C̄, summed over the dims that were broadcast."""

    broadcasts = True
    verified = True

    def forward(self, a, b):
        self.ctx.save(a, b)
        return dense.matmul(a, b)

    def backward(self, c_bar):
        a, b = self.ctx.release
        need_a, need_b = self.ctx.needs_grad
        a_bar = batch_product(c_bar, b.transpose(-1, -2)) if need_a else None
        return a_bar, batch_product(a.transpose(-1, -2), c_bar) if need_b else None

    def jvp(self, a_dot, b_dot):
        a, b = self.ctx.release
        return _batch_tangent(a, b, a_dot, b_dot)


class BatchProductSum(Policy):
    """E = A B + C D over stacks whose leading dims are the same: the tangent of BatchProduct, as one op. Ā = Ē Bᵀ,
    B̄ = Aᵀ Ē, and so of C and D."""

    verified = True

    @staticmethod
    def composition(a, b, c, d):
        return batch_product(a, b) + batch_product(c, d)

    def forward(self, a, b, c, d):
        self.ctx.save(a, b, c, d)
        return dense.matmul_sum(a, b, c, d)

    def backward(self, e_bar):
        a, b, c, d = self.ctx.release
        need_a, need_b, need_c, need_d = self.ctx.needs_grad
        return (
            batch_product(e_bar, b.transpose(-1, -2)) if need_a else None,
            batch_product(a.transpose(-1, -2), e_bar) if need_b else None,
            batch_product(e_bar, d.transpose(-1, -2)) if need_c else None,
            batch_product(c.transpose(-1, -2), e_bar) if need_d else None,
        )

    def jvp(self, a_dot, b_dot, c_dot, d_dot):
        a, b, c, d = self.ctx.release
        return total(_batch_tangent(a, b, a_dot, b_dot), _batch_tangent(c, d, c_dot, d_dot))


def _batch_tangent(a, b, a_dot, b_dot):
    """Ȧ B + A Ḃ; None stands for zero."""
    if a_dot is not None and b_dot is not None and a.shape[:-2] == b.shape[:-2]:
        return batch_product_sum(a_dot, b, a, b_dot)
    return total(
        None if a_dot is None else batch_product(a_dot, b),
        None if b_dot is None else batch_product(a, b_dot),
    )


product, batch_product = function(Product, "matmul"), function(BatchProduct, "matmul")
product_sum = function(ProductSum, "matmul_tangent")
batch_product_sum = function(BatchProductSum, "matmul_tangent")


@implements(torch.matmul)
def matmul(x, other):
    """A B: vectors, matrices and stacks of matrices, leading dims broadcast."""
    m, n = x.ndim, other.ndim
    if m == 2 and n == 2:
        return product(x, other)
    if m == 0 or n == 0:
        raise RuntimeError(f"matmul: both arguments need to be at least 1D, but they are {m}D and {n}D")
    if m == 1 and n == 1:
        return dot(x, other)
    if m == 1:
        return matmul(x.unsqueeze(0), other).squeeze(-2)
    if n == 1:
        return matmul(x, other.unsqueeze(-1)).squeeze(-1)
    if n == 2:  # one matrix for the whole stack: one large product
        if raw(x).is_contiguous():
            return product(x, other)
        # Copied once here, and not by every product that reads it.
        return product(x.flatten(0, -2), other).reshape((*x.shape[:-1], other.shape[-1]))
    return batch_product(x, other)


def matmul_operator(x, other):
    """x @ other, where a numpy array may stand on either side."""
    operands = (torch.from_numpy(t.copy()) if isinstance(t, np.ndarray) else t for t in (x, other))
    return torch.matmul(*operands) if autocast_enabled() else matmul(*operands)


_tensor.register_operator("matmul", matmul_operator)


@implements(torch.mm)
def mm(x, mat2):
    """A B for two matrices."""
    return product(x, mat2)


@implements(torch.bmm)
def bmm(x, mat2):
    """A B for two stacks of matrices of one length."""
    if x.ndim != 3 or mat2.ndim != 3 or x.shape[0] != mat2.shape[0]:
        raise RuntimeError(
            f"bmm: expected two stacks of equally many matrices, got {tuple(x.shape)} and "
            f"{tuple(mat2.shape)}; matmul broadcasts"
        )
    return batch_product(x, mat2)


@implements(torch.mv)
def mv(x, vec):
    """A v for a matrix and a vector."""
    return product(x, vec.unsqueeze(-1)).squeeze(-1)


class Dot(Policy):
    """c = Σ aᵢ bᵢ;  ā = c̄ b, b̄ = c̄ a."""

    verified = True

    def forward(self, a, tensor):
        self.ctx.save(a, tensor)
        return torch.dot(a, tensor)

    def backward(self, c_bar):
        a, b = self.ctx.release
        need_a, need_b = self.ctx.needs_grad
        return c_bar * b if need_a else None, c_bar * a if need_b else None

    def jvp(self, a_dot, b_dot):
        a, b = self.ctx.release
        return total(None if a_dot is None else dot(a_dot, b), None if b_dot is None else dot(a, b_dot))


dot = function(Dot, "dot")
implements(torch.dot)(Dot)


@implements(torch.inner)
def inner(x, other):
    """Σ over the last dims of both."""
    if x.ndim == 0 or other.ndim == 0:
        return x * other
    return torch.tensordot(x, other, dims=([-1], [-1]))


@implements(torch.outer, torch.ger)
def outer(x, vec2):
    """aᵢ bⱼ."""
    return x.unsqueeze(-1) * vec2.unsqueeze(0)


@implements(torch.addmm, scalars=("alpha", "beta"))
def addmm(x, mat1, mat2, *, beta=1, alpha=1):
    """β x + α A B."""
    return blended(x, beta, product(mat1, mat2), alpha)


@implements(torch.addmv, scalars=("alpha", "beta"))
def addmv(x, mat, vec, *, beta=1, alpha=1):
    """β x + α A v."""
    return blended(x, beta, mv(mat, vec), alpha)


@implements(torch.baddbmm, scalars=("alpha", "beta"))
def baddbmm(x, batch1, batch2, *, beta=1, alpha=1):
    """β x + α A B for stacks of matrices."""
    return blended(x, beta, bmm(batch1, batch2), alpha)


def blended(x, beta, y, alpha):
    """β x + α y; for β = 0 x is not read at all, as in torch: a nan in it does not spread."""
    y = y if is_exactly(alpha, 1) else y * alpha
    if is_exactly(beta, 0):
        return torch.where(torch.zeros((), dtype=torch.bool, device=x.device), x, y)
    return (x if is_exactly(beta, 1) else x * beta) + y


# --- the affine layer ----------------------------------------------------------------------------------------


class Affine(Policy):
    """y = x Wᵀ + b, x (.., in), W (out, in), b (out,);  x̄ = ȳ W, W̄ = ȳᵀ x, b̄ = Σ ȳ, over all rows."""

    verified = True

    def forward(self, x, weight, bias):
        self.ctx.save(x, weight)
        return direct.affine(x, weight, bias)

    def backward(self, y_bar):
        x, weight = self.ctx.release
        need_x, need_weight, need_bias = self.ctx.needs_grad
        if y_bar.ndim > 2:
            y_bar = y_bar.contiguous()
        return (
            product(y_bar, weight) if need_x else None,
            product(y_bar, x, True) if need_weight else None,
            direct.sum_of_rows(y_bar) if need_bias else None,
        )

    def jvp(self, x_dot, weight_dot, bias_dot):
        x, weight = self.ctx.release
        if x_dot is None and weight_dot is not None and bias_dot is not None:
            return affine(x, weight_dot, bias_dot)
        return _tangent(x, weight, x_dot, weight_dot, bias_dot, False, True)


affine = function(Affine, "linear")


@implements(F.linear)
def linear(x, weight, bias=None):
    """x Wᵀ + b over the last dim of x; weight (out, in), bias (out,)."""
    if x.ndim > 1 and weight.ndim == 2 and (bias is None or bias.ndim == 1):
        if x.ndim > 2 and not raw(x).is_contiguous():
            # Copied once here, and not by every product that reads it.
            return linear(x.flatten(0, -2), weight, bias).reshape((*x.shape[:-1], weight.shape[0]))
        if bias is None:
            return product(x, weight, False, True)
        if x.dtype is weight.dtype is bias.dtype:
            return affine(x, weight, bias)
    y = matmul(x, weight.t())
    return y if bias is None else y + bias


@implements(F.bilinear)
def bilinear(input1, input2, weight, bias=None):
    """yₖ = x₁ᵀ Wₖ x₂ + bₖ over the last dims; weight (out, in1, in2)."""
    first = matmul(input1, weight.permute(1, 0, 2).flatten(1)).unflatten(
        -1, (weight.shape[0], weight.shape[2])
    )
    y = matmul(first, input2.unsqueeze(-1)).squeeze(-1)
    return y if bias is None else y + bias


# --- inverses ------------------------------------------------------------------------------------------------


@implements(torch.linalg.inv, torch.inverse)
class Inverse(Policy):
    """Y = A⁻¹;  Ā = −Yᵀ Ȳ Yᵀ;  Ẏ = −Y Ȧ Y."""

    verified = True

    def forward(self, A):
        Y = torch.linalg.inv(A)
        self.ctx.save(Y)
        return Y

    def backward(self, Y_bar):
        (Y,) = self.ctx.release
        Yt = Y.transpose(-1, -2)
        return -(Yt @ Y_bar @ Yt)

    def jvp(self, A_dot):
        (Y,) = self.ctx.release
        return -(Y @ A_dot @ Y)


class Solve(Policy):
    """A X = B for matrices or stacks of them;  B̄ = A⁻ᵀ X̄, Ā = −B̄ Xᵀ;  A Ẋ = Ḃ − Ȧ X."""

    broadcasts = True
    verified = True

    def forward(self, A, B):
        X = torch.linalg.solve(A, B)
        self.ctx.save(A, X)
        return X

    def backward(self, X_bar):
        A, X = self.ctx.release
        need_A, need_B = self.ctx.needs_grad
        B_bar = _solve(A.transpose(-1, -2), X_bar)  # which Ā is made of too
        return -(B_bar @ X.transpose(-1, -2)) if need_A else None, B_bar if need_B else None

    def jvp(self, A_dot, B_dot):
        A, X = self.ctx.release
        return _solve(A, total(B_dot, None if A_dot is None else -(A_dot @ X)))


_solve = function(Solve, "solve")


@implements(torch.linalg.solve)
def solve(A, B, *, left=True):
    """X with A X = B, or X A = B with left=False. B is a vector where torch takes it for one."""
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and tuple(B.shape) == tuple(A.shape[:-1]))
    if vector:
        B = B.unsqueeze(-1)
    X = _solve(A, B) if left else _solve(A.transpose(-1, -2), B.transpose(-1, -2)).transpose(-1, -2)
    return X.squeeze(-1) if vector else X
