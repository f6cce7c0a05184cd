"""Triangular systems and the Cholesky factor. Matrices, or stacks of them in leading dims that broadcast."""

from __future__ import annotations

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._arguments import named
from neo.functions._tangents import total
from neo.functions.registry import implements, lite, raw


class SolveTriangular(Policy):
    """A X = B, A triangular;  B̄ = A⁻ᵀ X̄, Ā = −B̄ Xᵀ where A has entries (its diagonal is no entry if unitriangular);
    A Ẋ = Ḃ − Ȧ X, Ȧ likewise."""

    broadcasts = True
    verified = True

    def forward(self, A, B, upper, unitriangular):
        X = torch.linalg.solve_triangular(A, B, upper=upper, unitriangular=unitriangular)
        self.ctx.save(A, X, upper, unitriangular)
        return X

    def backward(self, X_bar):
        A, X, upper, unitriangular = self.ctx.release
        need_A, need_B = self.ctx.needs_grad
        B_bar = _solve_triangular(
            A.transpose(-1, -2), X_bar, not upper, unitriangular
        )  # which Ā is made of too
        A_bar = None
        if need_A:
            A_bar = -(B_bar @ X.transpose(-1, -2))
            A_bar = _entries(A_bar, upper, unitriangular)
        return A_bar, B_bar if need_B else None

    def jvp(self, A_dot, B_dot):
        A, X, upper, unitriangular = self.ctx.release
        of_A = None if A_dot is None else -(_entries(A_dot, upper, unitriangular) @ X)
        return _solve_triangular(A, total(B_dot, of_A), upper, unitriangular)


def _entries(A, upper, unitriangular):
    """A with 0 where a triangular matrix has no entries."""
    return A.triu(int(unitriangular)) if upper else A.tril(-int(unitriangular))


_solve_triangular = function(SolveTriangular, "solve_triangular")


@implements(torch.linalg.solve_triangular)
def solve_triangular(A, B, *, upper, left=True, unitriangular=False):
    """X with A X = B, or X A = B with left=False; A upper or lower triangular, what lies beyond is not read."""
    if left:
        return _solve_triangular(A, B, upper, unitriangular)
    X = _solve_triangular(A.transpose(-1, -2), B.transpose(-1, -2), not upper, unitriangular)
    return X.transpose(-1, -2)


@implements(torch.triangular_solve)
def triangular_solve(x, A, upper=True, transpose=False, unitriangular=False):
    """(X with A X = B, A): torch's older name, right-hand side first."""
    matrix, up = (A.transpose(-1, -2), not upper) if transpose else (A, upper)
    X = _solve_triangular(matrix, x, up, unitriangular)
    return named.triangular_solve((X, torch.broadcast_to(A, (*X.shape[:-2], *A.shape[-2:]))))


# --- Cholesky ------------------------------------------------------------------------------------------------


class Cholesky(Policy):
    """A = L Lᵀ;  Ā = L⁻ᵀ S L⁻¹, S = (P + Pᵀ) / 2 of P = the lower half of Lᵀ L̄, its diagonal halved;
    L̇ = L P, P = the lower half of the symmetric part of L⁻¹ Ȧ L⁻ᵀ, its diagonal halved.

    Ā is symmetric, as the perturbations of a symmetric A are. Murray 2016, arXiv:1602.07527, equation 10.
    """

    verified = True

    def forward(self, A):
        L = torch.linalg.cholesky(A)
        self.ctx.save(L)
        return L

    def backward(self, L_bar):
        (L,) = self.ctx.release
        P = torch.matmul(L.transpose(-1, -2), L_bar)
        S = (P.tril() + P.tril(-1).transpose(-1, -2)) * 0.5
        half = _solve_triangular(L.transpose(-1, -2), S, True, False)
        return _solve_triangular(L.transpose(-1, -2), half.transpose(-1, -2), True, False).transpose(-1, -2)

    def jvp(self, A_dot):
        (L,) = self.ctx.release
        half = _solve_triangular(L, A_dot, False, False)
        M = _solve_triangular(L, half.transpose(-1, -2), False, False)
        M = (M + M.transpose(-1, -2)) * 0.5
        return torch.matmul(L, (M.tril() + M.tril(-1)) * 0.5)


class CholeskyUnchecked(Cholesky):
    """Cholesky of what need not be positive definite: the factor is then undefined, and nothing raises."""

    def forward(self, A):
        L = torch.linalg.cholesky_ex(A)[0]
        self.ctx.save(L)
        return L


_cholesky, _cholesky_unchecked = function(Cholesky, "cholesky"), function(CholeskyUnchecked, "cholesky_ex")


@implements(torch.cholesky, torch.linalg.cholesky)
def cholesky(A, upper=False):
    """L with A = L Lᵀ, lower triangular; upper: R = Lᵀ. A symmetric, positive definite; only one triangle is read."""
    if upper:
        return _cholesky(A.transpose(-1, -2)).transpose(-1, -2)
    return _cholesky(A)


@implements(torch.linalg.cholesky_ex)
def cholesky_ex(A, *, upper=False, check_errors=False):
    """(L, info): info 0, or the order of the leading minor that is not positive definite."""
    info = torch.linalg.cholesky_ex(raw(A), upper=upper, check_errors=check_errors).info
    L = _cholesky_unchecked(A.transpose(-1, -2) if upper else A)
    L = L.transpose(-1, -2) if upper else L
    return named.linalg_cholesky_ex((L, lite(info) if isinstance(A, LiteTensor) else info))


@implements(torch.cholesky_solve)
def cholesky_solve(x, L, upper=False):
    """X with (L Lᵀ) X = B, or (Lᵀ L) X = B for an upper triangular L."""
    first, last = (L.transpose(-1, -2), L) if upper else (L, L.transpose(-1, -2))
    return _solve_triangular(last, _solve_triangular(first, x, False, False), True, False)


@implements(torch.cholesky_inverse)
def cholesky_inverse(x, upper=False):
    """(L Lᵀ)⁻¹, or (Lᵀ L)⁻¹ for an upper triangular L."""
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(tuple(x.shape))
    return cholesky_solve(eye, x, upper)
