"""Matrices as products: LU, QR, eigenvectors, singular vectors. Stacks of matrices in leading dims.

Where singular or eigenvalues coincide, or a triangular factor is singular, the vectors have no derivative, and the
gradients are infinite or nan, as torch's are. Gradients of vectors whose sign or basis is free mean something only
where the loss does not depend on that choice; nothing checks it.
"""

from __future__ import annotations

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.draws import noise_generator
from neo.functions._arguments import named
from neo.functions.registry import implements, lite, raw
from neo.functions.triangular import solve_triangular


def _like(x, value):
    """A constant beside x: as a LiteTensor where x is one."""
    return lite(value) if isinstance(x, LiteTensor) else value


# --- LU ------------------------------------------------------------------------------------------------------


class Factors(Policy):
    """A = L U for a square A without pivoting, L and U known;  Ā = L⁻ᵀ [tril(Lᵀ L̄, −1) + triu(Ū Uᵀ)] U⁻ᵀ;
    L̇ = L tril(M, −1), U̇ = triu(M) U with M = L⁻¹ Ȧ U⁻¹."""

    verified = True

    def forward(self, A, L, U):
        L, U = L.clone(), U.clone()
        self.ctx.save(L, U)
        return L, U

    def backward(self, L_bar, U_bar):
        L, U = self.ctx.release
        inner = (L.transpose(-1, -2) @ L_bar).tril(-1) + (U_bar @ U.transpose(-1, -2)).triu()
        left = solve_triangular(L.transpose(-1, -2), inner, upper=True, unitriangular=True)
        return solve_triangular(U.transpose(-1, -2), left, upper=False, left=False), None, None

    def jvp(self, A_dot, *_):
        L, U = self.ctx.release
        M = solve_triangular(L, A_dot, upper=False, unitriangular=True)
        M = solve_triangular(U, M, upper=True, left=False)
        return L @ M.tril(-1), M.triu() @ U


_factors = function(Factors, "lu")


@implements(torch.linalg.lu)
def lu(A, *, pivot=True):
    """(P, L, U) with A = P L U for A (.., m, n): L unit lower (.., m, k), U upper (.., k, n), k = min(m, n).

    The square block is factored by one rule, the rest follows: L₂ = A₂ U⁻¹ below it, U₂ = L⁻¹ A₂ beside it.
    """
    P, L, U = torch.linalg.lu(raw(A), pivot=pivot)
    m, n = A.shape[-2:]
    k = min(m, n)
    rows = A if P.numel() == 0 else P.transpose(-1, -2) @ A
    first_L, first_U = _factors(rows[..., :k, :k], L[..., :k, :], U[..., :, :k])
    if m > k:
        rest = solve_triangular(first_U, rows[..., k:, :], upper=True, left=False)
        first_L = torch.cat([first_L, rest], -2)
    if n > k:
        rest = solve_triangular(first_L, rows[..., :, k:], upper=False, unitriangular=True)
        first_U = torch.cat([first_U, rest], -1)
    return named.linalg_lu((_like(A, P), first_L, first_U))


def _packed(L, U):
    """L below the diagonal and U from it on, in one matrix (.., m, n)."""
    m, n, k = L.shape[-2], U.shape[-1], L.shape[-1]
    below, above = L.tril(-1), U
    if n > k:
        below = torch.nn.functional.pad(below, (0, n - k))
    if m > k:
        above = torch.nn.functional.pad(above, (0, 0, 0, m - k))
    return below + above


@implements(torch.linalg.lu_factor)
def lu_factor(A, *, pivot=True):
    """(LU, pivots): L and U in one matrix, and the row exchanges."""
    pivots = torch.linalg.lu_factor(raw(A), pivot=pivot).pivots
    _, L, U = lu(A, pivot=pivot)
    return named.linalg_lu_factor((_packed(L, U), _like(A, pivots)))


@implements(torch.linalg.lu_factor_ex)
def lu_factor_ex(A, *, pivot=True, check_errors=False):
    """(LU, pivots, info): info 0, or the first diagonal entry of U that is zero."""
    _, pivots, info = torch.linalg.lu_factor_ex(raw(A), pivot=pivot, check_errors=check_errors)
    _, L, U = lu(A, pivot=pivot)
    return named.linalg_lu_factor_ex((_packed(L, U), _like(A, pivots), _like(A, info)))


@implements(torch.lu, torch.Tensor.lu, only=True, name="lu")
def packed_lu(A, pivot=True, get_infos=False):
    """(LU, pivots), with get_infos also info: torch's older name of lu_factor_ex."""
    found = lu_factor_ex(A, pivot=pivot)
    return tuple(found) if get_infos else (found[0], found[1])


@implements(torch.lu_unpack)
def lu_unpack(x, LU_pivots, unpack_data=True, unpack_pivots=True):
    """(P, L, U) of what lu_factor gives; parts not asked for are empty."""
    P, L, U = torch.lu_unpack(raw(x), raw(LU_pivots), unpack_data, unpack_pivots)
    if not unpack_data:
        return named.lu_unpack((_like(x, P), _like(x, L), _like(x, U)))
    k = min(x.shape[-2:])
    eye = torch.eye(x.shape[-2], k, dtype=x.dtype, device=x.device)
    return named.lu_unpack((_like(x, P), x[..., :, :k].tril(-1) + eye, x[..., :k, :].triu()))


@implements(torch.linalg.lu_solve)
def lu_solve(LU, pivots, B, *, left=True, adjoint=False):
    """X with A X = B (or X A = B), A given as lu_factor gives it; adjoint: Aᵀ in the place of A."""
    if not left:
        X = lu_solve(LU, pivots, B.transpose(-1, -2), adjoint=not adjoint)
        return X.transpose(-1, -2)
    P, L, U = lu_unpack(LU, pivots)
    P = raw(P)
    if adjoint:
        Y = solve_triangular(U.transpose(-1, -2), B, upper=False)
        return P @ solve_triangular(L.transpose(-1, -2), Y, upper=True, unitriangular=True)
    Y = solve_triangular(L, P.transpose(-1, -2) @ B, upper=False, unitriangular=True)
    return solve_triangular(U, Y, upper=True)


@implements(torch.lu_solve)
def packed_lu_solve(x, LU_data, LU_pivots):
    """X with A X = B: torch's older name, right-hand side first."""
    return lu_solve(LU_data, LU_pivots, x)


# --- QR ------------------------------------------------------------------------------------------------------


class TallQR(Policy):
    """A = Q R for at least as many rows as columns;  Ā = (Q̄ + Q S) R⁻ᵀ, S symmetric with the lower triangle of
    R R̄ᵀ − Q̄ᵀ Q;  Ṙ = X R, Q̇ = Ȧ R⁻¹ − Q X, X the upper triangle of M + the lower one of Mᵀ off the diagonal,
    M = Qᵀ Ȧ R⁻¹. Walter and Lehmann 2018, arXiv:1009.6112, section 3.3."""

    verified = True

    def forward(self, A):
        Q, R = torch.linalg.qr(A)
        self.ctx.save(Q, R)
        return Q, R

    def backward(self, Q_bar, R_bar):
        Q, R = self.ctx.release
        M = R @ R_bar.transpose(-1, -2) - Q_bar.transpose(-1, -2) @ Q
        S = M.tril() + M.tril(-1).transpose(-1, -2)
        return solve_triangular(R.transpose(-1, -2), Q_bar + Q @ S, upper=False, left=False)

    def jvp(self, A_dot):
        Q, R = self.ctx.release
        moved = solve_triangular(R, A_dot, upper=True, left=False)
        M = Q.transpose(-1, -2) @ moved
        X = M.triu() + M.tril(-1).transpose(-1, -2)
        return moved - Q @ X, X @ R


_tall_qr = function(TallQR, "qr")


@implements(torch.linalg.qr)
def qr(A, mode="reduced"):
    """(Q, R) with A = Q R for A (.., m, n): Q (.., m, k) with orthonormal columns, R (.., k, n) upper, k = min(m, n).

    mode "complete" is differentiable for m ≤ n alone, where it is the same; "r" gives an empty Q.
    """
    m, n = A.shape[-2:]
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"qr: expected mode to be 'reduced', 'complete' or 'r', got {mode!r}")
    if mode == "complete" and m > n:
        raise NotImplementedError(
            "qr: mode='complete' has no derivative for more rows than columns, as the added columns of Q are free"
        )
    Q, R = _tall_qr(A[..., :, :m]) if m < n else _tall_qr(A)
    if m < n:  # the leading square decides Q
        R = torch.cat([R, Q.transpose(-1, -2) @ A[..., :, m:]], -1)
    if mode == "r":
        Q = _like(A, torch.empty(0, dtype=A.dtype, device=A.device))
    return named.linalg_qr((Q, R))


@implements(torch.qr)
def torch_qr(x, some=True):
    """linalg.qr by its older name: some=False is mode="complete"."""
    return named.qr(tuple(qr(x, "reduced" if some else "complete")))


# --- eigenvectors of symmetric matrices ----------------------------------------------------------------------


class Eigh(Policy):
    """A = V diag(w) Vᵀ;  Ā = V (diag(w̄) + F ∘ Vᵀ V̄) Vᵀ, Fᵢⱼ = 1 / (wⱼ − wᵢ) off the diagonal, 0 on it;
    V̇ = V (F ∘ M), ẇ = the diagonal of M = Vᵀ Ȧ V."""

    verified = True

    def forward(self, A, uplo):
        w, V = torch.linalg.eigh(A, uplo)
        self.ctx.save(w, V)
        return w, V

    def backward(self, w_bar, V_bar):
        w, V = self.ctx.release
        Vt = V.transpose(-1, -2)
        inner = (Vt @ V_bar) * _inverse_gaps(w) + torch.diag_embed(w_bar)
        return V @ inner @ Vt

    def jvp(self, A_dot):
        w, V = self.ctx.release
        M = V.transpose(-1, -2) @ A_dot @ V
        return torch.diagonal(M, 0, -2, -1), V @ (M * _inverse_gaps(w))


def _inverse_gaps(values):
    """1 / (vⱼ − vᵢ) off the diagonal, 0 on it."""
    gaps = values.unsqueeze(-2) - values.unsqueeze(-1)
    diagonal = torch.eye(gaps.shape[-1], dtype=torch.bool, device=gaps.device)
    return torch.where(diagonal, 0.0, 1 / torch.where(diagonal, 1.0, gaps))


class Eigvalsh(Policy):
    """w of A = V diag(w) Vᵀ;  Ā = V diag(w̄) Vᵀ;  ẇ = the diagonal of Vᵀ Ȧ V."""

    verified = True

    def forward(self, A, uplo):
        self.ctx.save(A, uplo)
        return torch.linalg.eigvalsh(A, uplo)

    def backward(self, w_bar):
        A, uplo = self.ctx.release
        V = _eigh(A, uplo)[1]
        return (V * w_bar.unsqueeze(-2)) @ V.transpose(-1, -2)

    def jvp(self, A_dot):
        A, uplo = self.ctx.release
        V = _eigh(A, uplo)[1]
        return (V * (A_dot @ V)).sum(-2)


_eigh, _eigvalsh = function(Eigh, "eigh"), function(Eigvalsh, "eigvalsh")


@implements(torch.linalg.eigh)
def eigh(A, UPLO="L"):
    """(w, V): ascending eigenvalues (.., n) and orthonormal eigenvectors, the columns of V (.., n, n), of symmetric A.

    Only the triangle that UPLO names is read; the gradient is that by a symmetric A.
    """
    return named.linalg_eigh(_eigh(A, UPLO))


@implements(torch.linalg.eigvalsh)
def eigvalsh(A, UPLO="L"):
    """Ascending eigenvalues of symmetric A; differentiable once also where they coincide."""
    return _eigvalsh(A, UPLO)


# --- singular vectors ----------------------------------------------------------------------------------------


class Svd(Policy):
    """A = U diag(s) Vᵀ, the k = min(m, n) leading columns of U and V;  with G(X) = (X − Xᵀ) ∘ F, Fᵢⱼ = 1 / (sⱼ² − sᵢ²):
    Ā = U [G(Uᵀ Ū) diag(s) + diag(s) G(Vᵀ V̄) + diag(s̄)] Vᵀ + (I − U Uᵀ) Ū diag(1/s) Vᵀ + U diag(1/s) V̄ᵀ (I − V Vᵀ);
    with M = Uᵀ Ȧ V: ṡ = its diagonal, U̇ = U [F ∘ (M diag(s) + diag(s) Mᵀ)] + (I − U Uᵀ) Ȧ V diag(1/s),
    V̇ = V [F ∘ (diag(s) M + Mᵀ diag(s))] + (I − V Vᵀ) Ȧᵀ U diag(1/s).
    """

    verified = True

    def forward(self, A, full_matrices):
        U, s, Vh = torch.linalg.svd(A, full_matrices=full_matrices)
        self.ctx.save(U, s, Vh)
        return U, s, Vh

    def backward(self, U_bar, s_bar, Vh_bar):
        U, s, Vh = self.ctx.release
        m, n, k = U.shape[-2], Vh.shape[-1], s.shape[-1]
        U, U_bar = (t[..., :, :k] if t.shape[-1] > k else t for t in (U, U_bar))
        Vh, Vh_bar = (t[..., :k, :] if t.shape[-2] > k else t for t in (Vh, Vh_bar))
        Ut, V_bar = U.transpose(-1, -2), Vh_bar.transpose(-1, -2)
        row, column = s.unsqueeze(-2), s.unsqueeze(-1)
        inverse_gaps = _inverse_gaps(s * s)
        left, right = Ut @ U_bar, Vh @ V_bar
        inner = (left - left.transpose(-1, -2)) * inverse_gaps * row
        inner = inner + (right - right.transpose(-1, -2)) * inverse_gaps * column + torch.diag_embed(s_bar)
        A_bar = U @ inner @ Vh
        if m > k:
            A_bar = A_bar + (U_bar - U @ left) / row @ Vh
        if n > k:
            A_bar = A_bar + U @ ((Vh_bar - right.transpose(-1, -2) @ Vh) / column)
        return A_bar

    def jvp(self, A_dot):
        U_full, s, Vh_full = self.ctx.release
        k = s.shape[-1]
        U, V = U_full[..., :, :k], Vh_full[..., :k, :].transpose(-1, -2)
        row, column = s.unsqueeze(-2), s.unsqueeze(-1)
        inverse_gaps = _inverse_gaps(s * s)
        along, across = A_dot @ V, A_dot.transpose(-1, -2) @ U
        M = U.transpose(-1, -2) @ along
        Mt = M.transpose(-1, -2)
        U_dot = U @ ((M * row + Mt * column) * inverse_gaps)
        V_dot = V @ ((M * column + Mt * row) * inverse_gaps)
        if U.shape[-2] > k:
            U_dot = U_dot + (along - U @ M) / row
        if V.shape[-2] > k:
            V_dot = V_dot + (across - V @ Mt) / row
        more_U, more_V = U_full.shape[-1] - k, Vh_full.shape[-2] - k  # columns without a derivative
        if more_U:
            U_dot = torch.nn.functional.pad(U_dot, (0, more_U))
        if more_V:
            V_dot = torch.nn.functional.pad(V_dot, (0, more_V))
        return U_dot, torch.diagonal(M, 0, -2, -1), V_dot.transpose(-1, -2)


class Svdvals(Policy):
    """s of A = U diag(s) Vᵀ;  Ā = U diag(s̄) Vᵀ;  ṡ = the diagonal of Uᵀ Ȧ V."""

    verified = True

    def forward(self, A):
        self.ctx.save(A)
        return torch.linalg.svdvals(A)

    def backward(self, s_bar):
        (A,) = self.ctx.release
        U, _, Vh = _svd(A, False)
        return U * s_bar.unsqueeze(-2) @ Vh

    def jvp(self, A_dot):
        (A,) = self.ctx.release
        U, _, Vh = _svd(A, False)
        return (U * (A_dot @ Vh.transpose(-1, -2))).sum(-2)


_svd, _svdvals = function(Svd, "svd"), function(Svdvals, "svdvals")


@implements(torch.linalg.svd)
def svd(A, full_matrices=True, *, driver=None):
    """(U, s, Vᵀ) of A (.., m, n), s descending. The columns that full_matrices adds to U and V have no gradient."""
    return named.linalg_svd(_svd(A, full_matrices))


@implements(torch.linalg.svdvals)
def svdvals(A, *, driver=None):
    """Descending singular values; differentiable once also where they coincide."""
    return _svdvals(A)


@implements(torch.svd)
def torch_svd(x, some=True, compute_uv=True):
    """(U, s, V), V not transposed: linalg.svd by its older name. Without compute_uv, zeros for U and V."""
    if not compute_uv:
        m, n = x.shape[-2:]
        U, V = (torch.zeros((*x.shape[:-2], d, d), dtype=x.dtype, device=x.device) for d in (m, n))
        return named.svd((_like(x, U), _svdvals(x), _like(x, V)))
    U, s, Vh = _svd(x, not some)
    return named.svd((U, s, Vh.transpose(-1, -2)))


def _range_of(A, q, niter):
    """Orthonormal columns that span most of the range of A: a random projection, sharpened `niter` times.

    Halko et al. 2009, arXiv:0909.4061, algorithm 4.4; what is drawn is what torch draws.
    """
    noise = torch.randn(A.shape[-1], q, dtype=A.dtype, device=A.device, generator=noise_generator(A.device))
    Q = qr(A @ noise)[0]
    for _ in range(2 if niter is None else niter):
        Q = qr(A.transpose(-1, -2) @ Q)[0]
        Q = qr(A @ Q)[0]
    return Q


@implements(torch.svd_lowrank)
def svd_lowrank(x, q=6, niter=2, M=None):
    """(U, s, V), the q leading singular vectors of A − M, approximately."""
    A = x if M is None else x - torch.broadcast_to(M, tuple(x.shape))
    if A.shape[-2] < A.shape[-1]:
        V, s, U = svd_lowrank(A.transpose(-1, -2), q, niter)
        return U, s, V
    Q = _range_of(A, 6 if q is None else q, niter)
    U, s, Vh = _svd(Q.transpose(-1, -2) @ A, False)
    return Q @ U, s, Vh.transpose(-1, -2)


@implements(torch.pca_lowrank)
def pca_lowrank(x, q=None, center=True, niter=2):
    """svd_lowrank of x, its columns brought to mean 0: principal directions are the columns of V."""
    q = min(6, *x.shape[-2:]) if q is None else q
    return svd_lowrank(x - x.mean(-2, True) if center else x, q, niter)


# --- reflections ---------------------------------------------------------------------------------------------


def _reflected(A, tau, C, order):
    """C with the reflections I − τᵢ vᵢ vᵢᵀ applied in an order; vᵢ is column i of A, 1 at i and 0 above."""
    vectors = A.tril(-1) + torch.eye(A.shape[-2], A.shape[-1], dtype=A.dtype, device=A.device)
    for i in order:
        v = vectors[..., :, i : i + 1]
        C = C - v @ ((v.transpose(-1, -2) @ C) * tau[..., i : i + 1].unsqueeze(-1))
    return C


@implements(torch.linalg.householder_product)
def householder_product(A, tau):
    """The first n columns of Π (I − τᵢ vᵢ vᵢᵀ), A (.., m, n) with the vᵢ below its diagonal, tau (.., k)."""
    eye = torch.eye(A.shape[-2], A.shape[-1], dtype=A.dtype, device=A.device)
    return _reflected(A, tau, _like(A, eye.expand(tuple(A.shape))), reversed(range(tau.shape[-1])))


implements(torch.orgqr)(householder_product)


@implements(torch.ormqr)
def ormqr(x, tau, other, left=True, transpose=False):
    """Q C, Qᵀ C with transpose, C Q with left=False; Q (m, m) the product of the reflections in x (.., m, k), tau."""
    count = range(tau.shape[-1])
    if left:
        return _reflected(x, tau, other, count if transpose else reversed(count))
    turned = _reflected(x, tau, other.transpose(-1, -2), reversed(count) if transpose else count)
    return turned.transpose(-1, -2)
