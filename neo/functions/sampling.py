"""Draws whose gradient by their parameters is known (implicit reparameterisation), and functions without a derivative.

Figurnov et al. 2018, arXiv:1805.08498. What is drawn is drawn as neo.draws says.
"""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.draws import noise_generator
from neo.functions.elementwise import Binary
from neo.functions.registry import constant, implements

constant(torch.poisson, torch.binomial)  # torch's gradient of counts is zero too


class Underivable(Policy):
    """y = f(x, ...), of whose derivative torch has no rule: refused where somebody asks for it, by its name."""

    verified = True

    def forward(self, name, call, *args):
        self.ctx.save(name)
        return call(*args)

    def backward(self, *y_bars):
        (name,) = self.ctx.release
        raise NotImplementedError(
            f"{name}: the derivative is not implemented, in torch neither. Take x.detach() or neo.stop_gradient(x) for "
            f"a constant, or give it a rule with @neo.functions.implements."
        )

    def jvp(self, *dots):
        return self.backward()


underivable = function(Underivable, "underivable")


class StandardGamma(Policy):
    """y ~ Gamma(α, 1);  ᾱ = ȳ ∂y/∂α, at a fixed place of the distribution. Once: see StandardGammaSlope."""

    verified = True

    def forward(self, alpha, generator):
        y = torch._standard_gamma(alpha, generator=generator)
        self.ctx.save(alpha, y)
        return y

    def backward(self, y_bar):
        alpha, y = self.ctx.release
        return y_bar * torch._standard_gamma_grad(alpha, y)

    def jvp(self, alpha_dot):
        return self.backward(alpha_dot)


_standard_gamma = function(StandardGamma, "_standard_gamma")


@implements(torch._standard_gamma)
def standard_gamma(input, generator=None):
    """A draw of Gamma(α, 1) for each entry α of a tensor; differentiable once."""
    return _standard_gamma(input, generator or noise_generator(input.device))


@implements(torch._standard_gamma_grad)
def standard_gamma_grad(input, output):
    """∂y/∂α of a draw y of Gamma(α, 1)."""
    return underivable("_standard_gamma_grad", torch._standard_gamma_grad, input, output)


class SampleDirichlet(Policy):
    """y ~ Dirichlet(α), along the last dim;  ᾱ = D (ȳ − Σ y ȳ), D = ∂y/∂α of the draw, see torch._dirichlet_grad."""

    verified = True

    def forward(self, alpha, generator):
        y = torch._sample_dirichlet(alpha, generator=generator)
        self.ctx.save(alpha, y)
        return y

    def backward(self, y_bar):
        _, y = self.ctx.release
        return self.slope() * (y_bar - (y * y_bar).sum(-1, True))

    def jvp(self, alpha_dot):
        _, y = self.ctx.release
        moved = self.slope() * alpha_dot
        return moved - y * moved.sum(-1, True)

    def slope(self):
        alpha, y = self.ctx.release
        return torch._dirichlet_grad(y, alpha, alpha.sum(-1, True).expand_as(alpha))


_sample_dirichlet = function(SampleDirichlet, "_sample_dirichlet")


@implements(torch._sample_dirichlet)
def sample_dirichlet(input, generator=None):
    """A draw of Dirichlet(α) for each row α of a tensor; differentiable once."""
    return _sample_dirichlet(input, generator or noise_generator(input.device))


@implements(torch._dirichlet_grad)
def dirichlet_grad(x, alpha, total):
    """∂y/∂α of a draw of Dirichlet(α), up to the projection on Σ y = 1."""
    return underivable("_dirichlet_grad", torch._dirichlet_grad, x, alpha, total)


# --- incomplete gamma functions ---------------------------------------------------------------------------------


class IncompleteGamma(Binary):
    """y = P(a, x), Q(a, x) = 1 − P(a, x);  x̄ = ± ȳ x^(a−1) e^(−x) / Γ(a). Of ∂/∂a there is no rule."""

    value: Any
    sign: float

    def forward(self, input, other):
        self.ctx.save(input, other)
        return self.value(input, other)

    def partials(self, of_a, of_x):
        a, x = self.ctx.release
        if of_a is not None:
            raise NotImplementedError(
                f"{self.value.__name__}: the derivative by its first argument, the shape, is not implemented, in torch "
                f"neither. Take a.detach() or neo.stop_gradient(a) for a constant."
            )
        density = torch.exp((a - 1) * torch.log(x) - x - torch.lgamma(a))
        return None, of_x * density * self.sign


@implements(torch.special.gammainc, torch.igamma)
class LowerGamma(IncompleteGamma):
    """y = P(a, x) = ∫₀ˣ t^(a−1) e^(−t) dt / Γ(a);  x̄ = ȳ x^(a−1) e^(−x) / Γ(a)."""

    value = staticmethod(torch.special.gammainc)
    sign = 1.0


@implements(torch.special.gammaincc, torch.igammac)
class UpperGamma(IncompleteGamma):
    """y = Q(a, x) = 1 − P(a, x);  x̄ = −ȳ x^(a−1) e^(−x) / Γ(a)."""

    value = staticmethod(torch.special.gammaincc)
    sign = -1.0


# --- what has no derivative -------------------------------------------------------------------------------------


@implements(torch.unique)
def unique(x, sorted=True, return_inverse=False, return_counts=False, dim=None):
    """The different entries of x, or rows along dim, and where they are; sizes depend on numbers, so not under vmap."""
    return underivable("unique", _unique, x, sorted, return_inverse, return_counts, dim)


@implements(torch.unique_consecutive)
def unique_consecutive(x, return_inverse=False, return_counts=False, dim=None):
    """x without entries, or rows along dim, that are equal to the one before."""
    return underivable("unique_consecutive", _unique_consecutive, x, return_inverse, return_counts, dim)


def _unique(x, sorted, return_inverse, return_counts, dim):
    return torch.unique(x, sorted=sorted, return_inverse=return_inverse, return_counts=return_counts, dim=dim)


def _unique_consecutive(x, return_inverse, return_counts, dim):
    return torch.unique_consecutive(x, return_inverse=return_inverse, return_counts=return_counts, dim=dim)


@implements(torch.histc)
def histc(input, bins=100, min=0, max=0):
    """How many entries of x fall into each of `bins` equal intervals from min to max."""
    return underivable("histc", torch.histc, input, bins, min, max)


@implements(torch.nextafter)
def nextafter(input, other):
    """The next number after x towards another."""
    return underivable("nextafter", torch.nextafter, input, other)
