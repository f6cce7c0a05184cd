"""Rule 6, first half: a gradient that no open tape needs is not computed."""

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import session
from neo.functions import function


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def watched():
    seen = []

    class Product(autograd.Policy):
        def forward(self, x, y, z):
            self.ctx.save(x, y, z)
            seen.append(("forward", self.ctx.needs_grad))
            return x * y * z

        def backward(self, grad):
            x, y, z = self.ctx.release
            seen.append(("backward", self.ctx.needs_grad))
            return grad * y * z, grad * x * z, grad * x * y

    return function(Product), seen


@pytest.mark.parametrize("argnums", [0, 1, 2, (0, 2), None])
def test_needs_grad_names_the_inputs_that_matter(argnums):
    product, seen = watched()
    asked = range(3) if argnums is None else (argnums,) if isinstance(argnums, int) else argnums
    session.grad(product, argnums=argnums)(number(2.0), number(3.0), number(5.0))
    expected = tuple(i in asked for i in range(3))
    assert seen == [("forward", expected), ("backward", expected)]


def test_needs_grad_in_backward_is_that_of_the_tape_that_is_walked():
    product, seen = watched()
    y, z = number(3.0), number(5.0)
    session.grad(lambda x: session.grad(lambda y: product(x, y, z), argnums=0)(y), argnums=0)(number(2.0))
    assert seen[0] == ("forward", (True, True, False))
    assert seen[1] == ("backward", (False, True, False))


def test_backward_is_not_called_for_what_the_output_does_not_depend_on():
    product, seen = watched()

    def fn(x, y):
        product(x, y, y)
        return x * y

    session.grad(fn)(number(2.0), number(3.0))
    assert [when for when, _ in seen] == ["forward"]


def test_layers_of_constants_get_no_gradient_computed():
    counts = []

    class Counting(autograd.Policy):
        def forward(self, image, weight):
            self.ctx.save(image, weight)
            return image @ weight

        def backward(self, grad):
            image, weight = self.ctx.release
            need_image, need_weight = self.ctx.needs_grad
            counts.append((need_image, need_weight))
            return grad @ weight.T if need_image else None, image.T @ grad if need_weight else None

    linear = function(Counting)
    images, w1, w2 = torch.ones(4, 3), neo.LiteTensor(torch.ones(3, 3)), neo.LiteTensor(torch.ones(3, 2))
    session.grad(lambda w1, w2: linear(linear(images, w1), w2))(w1, w2)
    assert counts == [(True, True), (False, True)]
