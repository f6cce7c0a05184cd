"""Activations, entry by entry: rectifiers, smooth and hard."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from neo.autograd.policy import Policy, function
from neo.functions._tangents import total
from neo.functions.elementwise import Unary
from neo.functions.registry import implements
from neo.kernels import direct, rows

_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.default

# --- rectifiers ----------------------------------------------------------------------------------------------


@implements(torch.relu)
class Relu(Unary):
    """y = max(x, 0);  x̄ = ȳ where y > 0, else 0."""

    def forward(self, x):
        y = direct.relu(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        return rectified(y_bar, y)


class Rectified(Policy):
    """z = g where y > 0, else 0;  ḡ = z̄ where y > 0, else 0. y is flat here: no gradient."""

    verified = True

    def forward(self, g, y):
        self.ctx.save(y)
        return direct.relu_gradient(g, y)

    def backward(self, z_bar):
        (y,) = self.ctx.release
        return rectified(z_bar, y) if self.ctx.needs_grad[0] else None, None

    def jvp(self, g_dot, y_dot):
        (y,) = self.ctx.release
        return None if g_dot is None else rectified(g_dot, y)


rectified = function(Rectified, "relu_gradient")


@implements(F.relu6)
def relu6(x, inplace=False):
    """x brought into [0, 6]; its gradient at either end is 0."""
    return hardtanh(x, 0.0, 6.0)


class Hardtanh(Unary):
    """y = x brought into [low, high];  x̄ = ȳ where low < x < high, else 0, also at the ends."""

    def forward(self, x, low, high):
        self.ctx.save((x <= low) | (x >= high))  # NaN is neither
        return torch.clamp(x, low, high)

    def backward(self, y_bar):
        (outside,) = self.ctx.release
        return torch.where(outside, 0.0, y_bar)


class Ramp(Hardtanh):
    """The same, with x̄ = 0 where x is NaN, as torch has it for hardsigmoid."""

    def forward(self, x, low, high):
        self.ctx.save(~((x > low) & (x < high)))
        return torch.clamp(x, low, high)


_hardtanh, _ramp = function(Hardtanh, "hardtanh"), function(Ramp, "hardsigmoid")


@implements(F.hardtanh)
def hardtanh(x, min_val=-1.0, max_val=1.0, inplace=False):
    """x brought into [min_val, max_val]."""
    if min_val > max_val:
        raise ValueError("hardtanh: min_val cannot be greater than max_val")
    return _hardtanh(x, min_val, max_val)


@implements(F.leaky_relu)
class LeakyRelu(Unary):
    """y = x where x > 0, else a x;  x̄ = ȳ where x > 0, else a ȳ."""

    def forward(self, x, negative_slope=0.01, inplace=False):
        self.ctx.save(x, negative_slope)
        return F.leaky_relu(x, negative_slope)

    def backward(self, y_bar):
        return leaky_relu_gradient(y_bar, *self.ctx.release)


class LeakyReluGradient(Policy):
    """z = g where x > 0, else a g;  ḡ = the same of z̄. x is flat here: no gradient."""

    verified = True

    def forward(self, g, x, slope):
        self.ctx.save(x, slope)
        return _leaky_relu_backward(g, x, slope, False)

    def backward(self, z_bar):
        return leaky_relu_gradient(z_bar, *self.ctx.release) if self.ctx.needs_grad[0] else None, None

    def jvp(self, g_dot, x_dot):
        return None if g_dot is None else leaky_relu_gradient(g_dot, *self.ctx.release)


leaky_relu_gradient = function(LeakyReluGradient, "leaky_relu_gradient")


def rectified_by(g, y, slope):
    """g where y > 0, else slope g: the cotangent through a rectifier, which leaves the sign of its argument to its
    result y. slope at least 0; 0 is a ReLU's, 1 no rectifier's."""
    if slope == 1:
        return g
    return rectified(g, y) if slope == 0 else leaky_relu_gradient(g, y, slope)


@implements(torch.threshold, F.threshold)
class Threshold(Unary):
    """y = x where x > t, else v;  x̄ = ȳ where x > t, else 0."""

    numbers = ("value",)

    def forward(self, x, threshold, value, inplace=False):
        self.ctx.save(x > threshold)
        return F.threshold(x, threshold, value)

    def backward(self, y_bar):
        (above,) = self.ctx.release
        return torch.where(above, y_bar, 0.0)


@implements(F.prelu, torch.prelu)
def prelu(x, weight):
    """x where x > 0, else a x, with a slope a for all or for each channel (dim 1)."""
    if weight.ndim > 1:
        raise RuntimeError(
            f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.ndim}"
        )
    if weight.numel() > 1 and not x.ndim:
        raise RuntimeError("prelu: Not allow zero-dim input tensor.")
    weight = weight.reshape((-1,) + (1,) * (x.ndim - 2) if weight.numel() > 1 else ())
    return torch.where(x > 0, x, x * weight)


# --- smooth rectifiers ---------------------------------------------------------------------------------------


class ScaledElu(Unary):
    """y = s x where x > 0, else s a (e^(cx) − 1);  x̄ = s ȳ where x > 0, else s a c ȳ e^(cx), as torch flat at 0."""

    def forward(self, x, alpha, scale, input_scale):
        self.ctx.save(x, alpha, scale, input_scale)
        return torch._C._nn.elu(x, alpha, scale, input_scale)

    def backward(self, y_bar):
        x, alpha, scale, input_scale = self.ctx.release
        grown = torch.exp(torch.where(x >= 0, 0.0, x) * input_scale) * (alpha * scale * input_scale)
        return y_bar * torch.where(x > 0, scale, grown)


_elu = function(ScaledElu, "elu")


@implements(F.elu)
def elu(x, alpha=1.0, inplace=False):
    """x where x > 0, else α (eˣ − 1)."""
    return _elu(x, alpha, 1.0, 1.0)


@implements(F.celu)
def celu(x, alpha=1.0, inplace=False):
    """x where x > 0, else α (e^(x/α) − 1)."""
    return _elu(x, alpha, 1.0, 1.0 / alpha)


@implements(F.selu)
def selu(x, inplace=False):
    """λ x where x > 0, else λ α (eˣ − 1), which keep mean 0 and variance 1. Klambauer et al. 2017, arXiv:1706.02515."""
    return _elu(x, 1.6732632423543772, 1.0507009873554805, 1.0)


@implements(F.softplus)
class Softplus(Unary):
    """y = log(1 + e^(βx)) / β, x itself where β x > threshold;  x̄ = ȳ / (1 + e^(−βx)), ȳ itself there."""

    def forward(self, x, beta=1, threshold=20):
        self.ctx.save(x, beta, threshold)
        return F.softplus(x, beta, threshold)

    def backward(self, y_bar):
        x, beta, threshold = self.ctx.release
        scaled = x if beta == 1 else x * beta
        return torch.where(scaled > threshold, y_bar, y_bar * torch.sigmoid(scaled))


@implements(F.logsigmoid)
class LogSigmoid(Unary):
    """y = −log(1 + e⁻ˣ);  x̄ = ȳ / (1 + eˣ)."""

    def forward(self, x):
        self.ctx.save(x)
        return F.logsigmoid(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return y_bar * torch.sigmoid(-x)


@implements(F.silu)
class Silu(Unary):
    """y = x σ(x);  x̄ = ȳ σ(x) (1 + x (1 − σ(x)))."""

    def forward(self, x, inplace=False):
        self.ctx.save(x)
        return F.silu(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        s = torch.sigmoid(x)
        return y_bar * s * (x * (1 - s) + 1)


@implements(F.mish)
class Mish(Unary):
    """y = x t, t = tanh softplus(x);  x̄ = ȳ (t + x σ(x) (1 − t²))."""

    def forward(self, x, inplace=False):
        self.ctx.save(x)
        return F.mish(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        t = torch.tanh(F.softplus(x))
        return y_bar * (t + x * torch.sigmoid(x) * (1 - t * t))


@implements(F.gelu)
class Gelu(Unary):
    """y = x Φ(x);  x̄ = ȳ (Φ(x) + x φ(x)).
    approximate="tanh": y = x (1 + t) / 2, t = tanh u, u = √(2/π) (x + 0.044715 x³);
    x̄ = ȳ (1 + t + x (1 − t²) u′) / 2."""

    def forward(self, x, approximate="none"):
        self.ctx.save(x, approximate)
        return F.gelu(x, approximate=approximate)

    def backward(self, y_bar):
        x, approximate = self.ctx.release
        if approximate == "tanh":
            t = torch.tanh((x + x**3 * 0.044715) * math.sqrt(2 / math.pi))
            slope = (x * x * (3 * 0.044715) + 1) * math.sqrt(2 / math.pi)
            return y_bar * (t + 1 + x * (1 - t * t) * slope) * 0.5
        return gelu_gradient(y_bar, x)


class GeluGradient(Policy):
    """z = g (Φ(x) + x φ(x));  ḡ = z̄ (Φ(x) + x φ(x)), x̄ = z̄ g φ(x) (2 − x²);  ż from ġ and ẋ alike."""

    verified = True

    def forward(self, g, x):
        self.ctx.save(g, x)
        return rows.gelu_gradient(g, x)

    def backward(self, z_bar):
        g, x = self.ctx.release
        need_g, need_x = self.ctx.needs_grad
        return gelu_gradient(z_bar, x) if need_g else None, rows.gelu_bend(z_bar, g, x) if need_x else None

    def jvp(self, g_dot, x_dot):
        g, x = self.ctx.release
        return total(
            None if g_dot is None else gelu_gradient(g_dot, x),
            None if x_dot is None else rows.gelu_bend(x_dot, g, x),
        )


gelu_gradient = function(GeluGradient, "gelu_gradient")


@implements(F.softsign)
def softsign(x):
    """x / (1 + |x|)."""
    return x / (torch.abs(x) + 1)


@implements(F.tanhshrink)
def tanhshrink(x):
    """x − tanh x."""
    return x - torch.tanh(x)


@implements(F.softshrink, scalars=("lambd",))
def softshrink(x, lambd=0.5):
    """x brought λ nearer to 0, 0 within λ of it."""
    if lambd < 0:
        raise RuntimeError(f"softshrink: lambda must not be negative, found to be {lambd}")
    small = (x >= -lambd) & (x <= lambd)  # NaN is not
    return torch.where(small, 0.0, torch.where(x > 0, x - lambd, x + lambd))


@implements(torch.hardshrink, scalars=("lambd",))
def hardshrink(x, lambd=0.5):
    """x, 0 within λ of 0."""
    return torch.where((x >= -lambd) & (x <= lambd), 0.0, x)


@implements(F.hardsigmoid)
def hardsigmoid(x, inplace=False):
    """(x + 3) / 6 brought into [0, 1]."""
    return _ramp(x + 3, 0.0, 6.0) / 6


@implements(F.hardswish)
def hardswish(x, inplace=False):
    """x hardsigmoid(x): 0 up to −3, x from 3 on."""
    bent = (x > -3) & (x < 3)
    inner = torch.where(bent, x, 0.0)  # whose square has no gradient to spread from where it is not taken
    return torch.where(bent, inner * (inner + 3) / 6, torch.where(x <= -3, 0.0, x))


@implements(F.glu)
def glu(x, dim=-1):
    """a σ(b), a and b the halves of x along dim."""
    if x.shape[dim] % 2:
        raise RuntimeError(f"glu: halving dim {dim} needs an even size, got {x.shape[dim]}")
    a, b = torch.chunk(x, 2, dim)
    return a * torch.sigmoid(b)
