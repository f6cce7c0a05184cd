"""Determinants, and their logarithms. Stacks of matrices in leading dims."""

from __future__ import annotations

import math
from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._arguments import named
from neo.functions.linalg import Inverse, matmul
from neo.functions.registry import implements, raw
from neo.guards import known, require

inverse = function(Inverse, "inv")


class Det(Policy):
    """d = det A;  Ā = d̄ d A⁻ᵀ, the cofactors of A; those of an A that is nearly singular are computed without A⁻¹."""

    verified = True

    def forward(self, A):
        d = torch.linalg.det(A)
        self.ctx.save(A, d)
        return d

    def backward(self, d_bar):
        A, d = self.ctx.release
        nearly = _nearly_singular(raw(A), raw(d))
        near, lifted, small = known(nearly.any()), isinstance(A, LiteTensor), A.shape[-1] <= LARGEST_ADJUGATE
        if near or (near is None and lifted and small):
            return d_bar[..., None, None] * _cofactors(A)
        if near is None and lifted:
            require(~nearly.any(), lambda: _too_large(A.shape[-1]))
        elif near is None:
            found = torch.where(nearly[..., None, None], _cofactors_nearby(A), _regular_cofactors(A, d))
            return d_bar[..., None, None] * found
        return (d_bar * d)[..., None, None] * inverse(A).transpose(-1, -2)

    def jvp(self, A_dot):
        _, d = self.ctx.release
        return (A_dot * self.backward(torch.ones_like(d))).sum((-2, -1))


def _nearly_singular(A: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Of each matrix of a stack: would d A⁻¹ have less than half of the dtype's digits?"""
    size = torch.linalg.matrix_norm(A) * torch.linalg.matrix_norm(torch.linalg.inv_ex(A).inverse)
    return (d == 0) | ~(size <= torch.finfo(A.dtype).eps ** -0.5)


LARGEST_ADJUGATE = 8


def _cofactors(A: Any) -> Any:
    """The transposed adjugate of A: by Faddeev and LeVerrier's recursion, M ← A M + c I with c = −tr(A M) / k, where an
    outer session differentiates it, for it is a polynomial in A; else by singular vectors, which is safe for any size.
    """
    if not isinstance(A, LiteTensor):
        return _cofactors_by_singular_vectors(A)
    n = A.shape[-1]
    if n > LARGEST_ADJUGATE:
        raise _too_large(n)
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    M: Any = eye.expand(tuple(A.shape))
    for k in range(1, n):
        M = matmul(A, M)
        M = M - torch.diagonal(M, 0, -2, -1).sum(-1)[..., None, None] * eye / k
    return M.transpose(-1, -2) * (-1) ** (n - 1)


def _too_large(n: int) -> Exception:
    return NotImplementedError(
        f"det: the second derivative at a nearly singular matrix has no Policy for sizes above {LARGEST_ADJUGATE}, got "
        f"{n}; move the matrix off it"
    )


def _cofactors_by_singular_vectors(A: torch.Tensor) -> torch.Tensor:
    """det(U) det(V) U diag(Π sⱼ over j ≠ i) Vᵀ."""
    U, s, Vh = torch.linalg.svd(A)
    n = s.shape[-1]
    others = torch.stack([torch.cat([s[..., :i], s[..., i + 1 :]], -1).prod(-1) for i in range(n)], -1)
    sign = torch.linalg.det(U) * torch.linalg.det(Vh)
    return sign[..., None, None] * (U * others.unsqueeze(-2) @ Vh)


def _regular_cofactors(A: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return d[..., None, None] * torch.linalg.inv_ex(A).inverse.transpose(-1, -2)


def _cofactors_nearby(A: torch.Tensor) -> torch.Tensor:
    """Cofactors of a singular A as the mean of those of A + t 1 and A − t 1, with an error of the order t².

    For where A's numbers are not to be looked at: singular vectors cost more, and a device waits for them.
    """
    n = A.shape[-1]
    largest = A.abs().amax((-2, -1), keepdim=True)
    t = torch.where(largest > 0, largest, 1.0) * torch.finfo(A.dtype).eps ** (1 / 3)
    shift = t * torch.eye(n, dtype=A.dtype, device=A.device)
    both = [_regular_cofactors(near, torch.linalg.det(near)) for near in (A + shift, A - shift)]
    return (both[0] + both[1]) / 2


class Slogdet(Policy):
    """(sign, log |det A|);  Ā = ℓ̄ A⁻ᵀ for the cotangent ℓ̄ of the logarithm; the sign is flat."""

    verified = True

    def forward(self, A):
        self.ctx.save(A)
        return tuple(torch.linalg.slogdet(A))

    def backward(self, sign_bar, log_bar):
        (A,) = self.ctx.release
        return log_bar[..., None, None] * inverse(A).transpose(-1, -2)

    def jvp(self, A_dot):
        (A,) = self.ctx.release
        return None, (A_dot * inverse(A).transpose(-1, -2)).sum((-2, -1))


_slogdet = function(Slogdet, "slogdet")
implements(torch.det, torch.linalg.det)(Det)


@implements(torch.linalg.slogdet)
def slogdet(A):
    """(sign, log |det A|)."""
    return named.linalg_slogdet(_slogdet(A))


@implements(torch.slogdet)
def torch_slogdet(x):
    """(sign, log |det A|)."""
    return named.slogdet(_slogdet(x))


@implements(torch.logdet)
def logdet(x):
    """log det A: nan where the determinant is negative, −∞ where it is 0."""
    sign, size = _slogdet(x)
    return torch.where(raw(sign) < 0, math.nan, size)
