"""Policies written as a user would, shared by the engine's tests."""

import torch

from neo import autograd
from neo.functions import function


class Affine(autograd.Policy):
    """z = X Y + b."""

    def forward(self, X, Y, b):
        self.ctx.save(X, Y, b)
        return (X @ Y) + b

    def backward(self, grad):
        X, Y, _ = self.ctx.release
        return grad @ Y.T, X.T @ grad, grad.sum(axis=0)


class Square(autograd.Policy):
    """y = x²;  x̄ = 2 ȳ x."""

    def forward(self, x):
        self.ctx.save(x)
        return x * x

    def backward(self, grad):
        (x,) = self.ctx.release
        return grad * x * 2


class Cube(autograd.Policy):
    """y = x³, saving the intermediate x²;  x̄ = 3 ȳ x²."""

    def forward(self, x):
        squared = x * x
        self.ctx.save(squared)
        return squared * x

    def backward(self, grad):
        (squared,) = self.ctx.release
        return grad * squared * 3


class SinCos(autograd.Policy):
    """(s, c) = (sin x, cos x);  x̄ = s̄ c − c̄ s."""

    def forward(self, x):
        s, c = torch.sin(x), torch.cos(x)
        self.ctx.save(s, c)
        return s, c

    def backward(self, s_bar, c_bar):
        s, c = self.ctx.release
        return s_bar * c - c_bar * s


affine, square, cube, sincos = function(Affine), function(Square), function(Cube), function(SinCos)
