"""torch.autograd.Function on LiteTensors is a Policy of its own forward and backward (rule 11); torch is the oracle."""

import functools
import types

import numpy as np
import pytest
import torch
from torch.autograd.function import once_differentiable

import neo
from neo.autograd.torch_code import torch_code
from neo.errors import GradientError, InPlaceError, SavedTensorError, SessionError
from tests.helpers.torch_pairs import assert_same_as_torch, by_neo, by_torch

X = torch.tensor([0.4, -1.3, 2.2, 0.9], dtype=torch.float64)


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, g):
        return g


round_by_name = Round.apply


class Exp(torch.autograd.Function):
    """Saves an output."""

    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Cube(torch.autograd.Function):
    """The newer style."""

    @staticmethod
    def forward(x, scale=1.0):
        return scale * x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.scale = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * ctx.scale * g * x**2, None


class Attribute(torch.autograd.Function):
    """Keeps tensors as attributes, and in containers there."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.x, ctx.rest = x, {"y": [y]}
        return x * y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.rest["y"][0], g * ctx.x


class Clipped(torch.autograd.Function):
    """The tutorial's ReLU: in-place work in backward, on a clone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        out = g.clone()
        out[x < 0] = 0
        out *= 2
        return out


class TwoOutputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, n):
        ctx.save_for_backward(x, y)
        ctx.n = n
        return x**n, None, y.sin()

    @staticmethod
    def backward(ctx, gx, nothing, gy):
        x, y = ctx.saved_tensors
        assert nothing is None
        return gx * ctx.n * x ** (ctx.n - 1), gy * y.cos(), None


class Sorted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y, places = x.sort()
        ctx.mark_non_differentiable(places, y[:1])
        ctx.save_for_backward(places)
        return y, places

    @staticmethod
    def backward(ctx, g, _):
        (places,) = ctx.saved_tensors
        return torch.zeros_like(g).index_add(0, places, g)


class Selected(torch.autograd.Function):
    """A floating-point output that is marked as a constant."""

    @staticmethod
    def forward(ctx, x):
        y, norm = x * 2, x.norm()
        ctx.mark_non_differentiable(norm)
        return y, norm

    @staticmethod
    def backward(ctx, g, g_norm):
        assert not g_norm.any()
        return 2 * g


class Needs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, scale):
        ctx.seen = ctx.needs_input_grad
        ctx.save_for_backward(x, y)
        return x * y * scale

    @staticmethod
    def backward(ctx, g):
        _, y = ctx.saved_tensors
        assert ctx.seen == ctx.needs_input_grad == (True, False, False)
        return g * y, None, None


class NoZeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx, g, h):
        assert h is None
        return 2 * g


class Broadcast(torch.autograd.Function):
    """torch sums a gradient to the shape of its input."""

    @staticmethod
    def forward(ctx, x, shift):
        return x + shift

    @staticmethod
    def backward(ctx, g):
        return g, g


class ByNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.numpy()))

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos()


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -ctx.weight * g, None


CASES = {
    "straight-through": lambda x: (Round.apply(x * 2) * x).sum(),
    "name taken before": lambda x: (round_by_name(x * 2) ** 2).sum(),
    "saved output": lambda x: Exp.apply(x).sum(),
    "setup_context": lambda x: Cube.apply(x).sum(),
    "setup_context, another argument": lambda x: Cube.apply(x.sin(), 0.5).sum(),
    "attributes": lambda x: Attribute.apply(x, x.exp()).sum(),
    "in-place backward": lambda x: (Clipped.apply(x) * x.sin()).sum(),
    "several outputs": lambda x: sum(out.sum() for out in TwoOutputs.apply(x, x * 2, 3) if out is not None),
    "non-differentiable integers": lambda x: (
        Sorted.apply(x * x)[0] * torch.arange(4.0, dtype=x.dtype)
    ).sum(),
    "non-differentiable floats": lambda x: (lambda y, n: (y * n).sum())(*Selected.apply(x)),
    "needs_input_grad": lambda x: Needs.apply(x, torch.full_like(X, 2.0), 3.0).sum(),
    "no zeros": lambda x: (NoZeros.apply(x)[0] ** 2).sum(),
    "broadcast": lambda x: (Broadcast.apply(x, x[0]) ** 2).sum(),
    "numpy": lambda x: ByNumpy.apply(x).sum() if isinstance(x, neo.LiteTensor) else x.sin().sum(),
    "identity": lambda x: (Reversed.apply(x, 0.7) * x).sum(),
    "nested": lambda x: Exp.apply(Cube.apply(Round.apply(x) * 0.1 + x)).sum(),
    "the same twice": lambda x: Attribute.apply(x, x).sum(),
}


@pytest.mark.parametrize("fn", CASES.values(), ids=CASES.keys())
def test_function_has_torchs_value_and_derivatives(fn):
    assert_same_as_torch(by_neo(fn, X), by_torch(fn, X))


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"no zeros", "non-differentiable floats"}))
def test_function_under_checkpoint_and_jvp(name):
    """The tangent comes of backward, called with ones for every output: the two left out assert that it is not."""
    fn = CASES[name]
    lite, along = neo.LiteTensor(X), torch.ones_like(X)
    gradient = by_torch(fn, X)[1]
    torch.testing.assert_close(neo.grad(neo.checkpoint(fn), argnums=0)(lite).data, gradient)
    torch.testing.assert_close(neo.jvp(fn, (lite,), (along,))[1].data, (gradient * along).sum())


@pytest.mark.parametrize(
    "name", ["straight-through", "saved output", "setup_context", "attributes", "broadcast"]
)
def test_function_inside_vmap(name):
    fn, rows = CASES[name], torch.stack([X, X * 0.3, -X])
    expected = torch.stack([by_torch(fn, row)[1] for row in rows])
    found = neo.vmap(neo.grad(fn, argnums=0))(neo.LiteTensor(rows))
    torch.testing.assert_close(found.data, expected)
    total = neo.grad(lambda rows: neo.vmap(fn)(rows).sum(), argnums=0)(neo.LiteTensor(rows))
    torch.testing.assert_close(total.data, expected)


def test_saved_intermediate_is_differentiated_through():
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            s = x.sin()
            ctx.save_for_backward(x, s)
            return s * x

        @staticmethod
        def backward(ctx, g):
            x, s = ctx.saved_tensors
            return g * (s + x * x.cos())

    assert neo.gradcheck(Scaled.apply, (neo.LiteTensor(X),), order=2)


def test_intermediate_that_cannot_be_computed_again_is_refused():
    class Lost(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            s = torch.from_numpy(np.sin(x.numpy()))
            ctx.save_for_backward(s)
            return s * 2

        @staticmethod
        def backward(ctx, g):
            (s,) = ctx.saved_tensors
            return 2 * g * (1 - s * s).sqrt()

    x = neo.LiteTensor(X[:1])
    assert neo.grad(lambda x: Lost.apply(x).sum(), argnums=0)(x).item() == pytest.approx(
        2 * X[0].cos().item()
    )
    with pytest.raises(SavedTensorError, match="saved intermediate"):
        neo.grad(lambda x: neo.grad(lambda x: Lost.apply(x).sum(), argnums=0)(x).sum(), argnums=0)(x)


def test_once_differentiable_is_refused_at_second_order_alone():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @once_differentiable
        def backward(ctx, g):
            return 2 * g * ctx.saved_tensors[0]

    first = lambda x: neo.grad(lambda x: Once.apply(x).sum(), argnums=0)(x)  # noqa: E731
    torch.testing.assert_close(first(neo.LiteTensor(X)).data, 2 * X)
    with pytest.raises(GradientError, match=r"Once\.backward is marked @once_differentiable"):
        neo.grad(lambda x: first(x).sum(), argnums=0)(neo.LiteTensor(X))


def test_argument_marked_dirty_is_changed_in_torch_code_and_refused_elsewhere():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    def fn(x):
        h = x * x
        k = Doubled.apply(h)
        return (h * k).sum()

    def in_torch_code(x):
        with torch_code():
            return fn(x)

    assert_same_as_torch(by_neo(in_torch_code, X), by_torch(fn, X))
    lite = neo.LiteTensor(X.clone())
    with pytest.raises(InPlaceError, match="mark_dirty"):
        neo.grad(lambda x: Doubled.apply(x).sum(), argnums=0)(lite)
    assert torch.equal(lite.data, X)


def test_wrong_number_of_gradients_is_named():
    class Short(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * y

        @staticmethod
        def backward(ctx, g):
            return g

    with pytest.raises(GradientError, match=r"Short\.backward: expected 2 gradients"):
        neo.grad(lambda x: Short.apply(x, x).sum(), argnums=0)(neo.LiteTensor(X))


def test_tensors_in_containers_get_what_torch_gives_them():
    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, others):
            ctx.others = others
            return x * sum(others)

        @staticmethod
        def backward(ctx, g):
            return g * sum(ctx.others), None

    fn = lambda x: Summed.apply(x, [x * 2, x * 3]).sum()  # noqa: E731
    assert_same_as_torch(by_neo(fn, X), by_torch(fn, X))


def test_torch_tensors_alone_are_torchs_business():
    x = X.clone().requires_grad_()
    Round.apply(x).sum().backward()
    assert x.grad.tolist() == [1.0] * 4
    assert torch.func.grad(lambda x: Cube.apply(x).sum())(X).tolist() == (3 * X**2).tolist()


def first_and_second(fn):
    x = neo.LiteTensor(X)
    return neo.grad(lambda x: neo.grad(fn, argnums=0)(x).sum(), argnums=0)(x)


def test_backward_that_fills_a_tensor_of_its_own_is_differentiated():
    class Sliced(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.n = x.shape
            return x[:2] * 2

        @staticmethod
        def backward(ctx, g):
            out = torch.zeros(ctx.n, dtype=g.dtype)
            out[:2] = g * 2
            return out

    fn = lambda x: (Sliced.apply(x) ** 3).sum()  # noqa: E731
    assert_same_as_torch(by_neo(fn, X), by_torch(fn, X))


KEPT = {
    "object": lambda ctx, x: setattr(ctx, "kept", types.SimpleNamespace(f=lambda g: g * 3 * x**2)),
    "closure": lambda ctx, x: setattr(ctx, "f", lambda g: g * 3 * x**2),
    "partial": lambda ctx, x: setattr(ctx, "f", functools.partial(lambda x, g: g * 3 * x**2, x)),
}


@pytest.mark.parametrize("keep", KEPT.values(), ids=KEPT.keys())
@pytest.mark.parametrize("constant_cotangent", [True, False])
def test_tensor_in_an_object_or_closure_on_ctx_is_refused_at_second_order(keep, constant_cotangent):
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            keep(ctx, x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            return (ctx.kept if hasattr(ctx, "kept") else ctx).f(g)

    fn = lambda x: (Cube.apply(x) if constant_cotangent else Cube.apply(x) ** 2).sum()  # noqa: E731
    gradient = neo.grad(fn, argnums=0)(neo.LiteTensor(X)).data
    torch.testing.assert_close(gradient, 3 * X**2 if constant_cotangent else 6 * X**5)
    with pytest.raises(SavedTensorError, match="forward keeps the tensor"):
        first_and_second(fn)


def test_numpy_in_backward_is_refused_at_second_order():
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return torch.from_numpy(g.numpy() * np.cos(x.numpy()))

    fn = lambda x: Sine.apply(x).sum()  # noqa: E731
    torch.testing.assert_close(neo.grad(fn, argnums=0)(neo.LiteTensor(X)).data, X.cos())
    with pytest.raises((SessionError, GradientError)):
        first_and_second(fn)


def test_gradient_of_another_shape_is_named():
    class Wide(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return torch.ones(3, 5)

    with pytest.raises(GradientError, match=r"Wide\.backward: the gradient of tensor 0 has shape \(3, 5\)"):
        neo.grad(lambda x: Wide.apply(x).sum(), argnums=0)(neo.LiteTensor(X))


def test_reentrant_checkpoint_is_refused_with_what_to_do():
    from torch.utils.checkpoint import checkpoint

    with pytest.raises(NotImplementedError, match="use_reentrant=False"):
        neo.grad(lambda x: checkpoint(torch.sin, x, use_reentrant=True).sum(), argnums=0)(neo.LiteTensor(X))
    found = neo.grad(lambda x: checkpoint(torch.sin, x, use_reentrant=False).sum(), argnums=0)(
        neo.LiteTensor(X)
    )
    torch.testing.assert_close(found.data, X.cos())


def test_vmap_rule_of_a_function_is_what_computes_its_values_inside_vmap():
    class Sine(torch.autograd.Function):
        """By numpy, which takes no slice of a batch."""

        @staticmethod
        def forward(x, scale):
            return torch.from_numpy(np.sin(x.numpy())) * scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, ctx.scale = inputs
            ctx.save_for_backward(x)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * x.cos() * ctx.scale, None

        @staticmethod
        def vmap(info, in_dims, x, scale):
            assert info.batch_size == x.shape[in_dims[0]]
            return Sine.apply(x.movedim(in_dims[0], 0), scale), 0

    rows = torch.stack([X, X * 0.5, -X])
    fn = lambda x: (Sine.apply(x, 2.0) ** 2).sum()  # noqa: E731
    expected = torch.stack([8 * row.sin() * row.cos() for row in rows])
    found = neo.vmap(neo.grad(fn, argnums=0))(neo.LiteTensor(rows)).data
    torch.testing.assert_close(found, expected)
    total = neo.grad(lambda rows: neo.vmap(fn)(rows).sum(), argnums=0)(neo.LiteTensor(rows)).data
    torch.testing.assert_close(total, expected)
    sideways = neo.vmap(lambda x: Sine.apply(x, 2.0), in_dims=1, out_dims=1)(neo.LiteTensor(rows))
    torch.testing.assert_close(sideways.data, 2 * rows.sin())


# --- Function.jvp -----------------------------------------------------------------------------------------------------


class Cubed(torch.autograd.Function):
    """y = x³ z, with a rule for tangents that counts its calls."""

    calls = 0

    @staticmethod
    def forward(ctx, x, z, power):
        ctx.power = power
        ctx.save_for_backward(x, z)
        ctx.save_for_forward(x, z, x * x)
        return x**power * z

    @staticmethod
    def backward(ctx, grad):
        x, z = ctx.saved_tensors
        return grad * 3 * x**2 * z, grad * x**3, None

    @staticmethod
    def jvp(ctx, x_dot, z_dot, _):
        Cubed.calls += 1
        assert (ctx.power, _) == (3, None)
        x, z, square = ctx.saved_tensors
        return 3 * square * z * x_dot + square * x * z_dot


def test_jvp_of_a_function_is_its_tangent_rule_at_first_and_second_order():
    x, z, u = (neo.LiteTensor(v, dtype=torch.float64) for v in ([0.5, -2.0], [1.5, 0.3], [1.0, 0.7]))
    before = Cubed.calls
    _, tangent = neo.jvp(lambda x: Cubed.apply(x, z, 3), (x,), (u,))
    assert Cubed.calls == before + 1
    torch.testing.assert_close(tangent.data, 3 * x.data**2 * z.data * u.data)
    mixed = neo.grad(lambda x: neo.jvp(lambda x: Cubed.apply(x, z, 3), (x,), (u,))[1].sum())(x)
    torch.testing.assert_close(mixed[x].data, 6 * x.data * z.data * u.data)


def test_jvp_of_a_function_that_gives_too_many_tangents_is_named():
    class Two(Cubed):
        @staticmethod
        def jvp(ctx, x_dot, z_dot, _):
            return x_dot, z_dot

    x = neo.LiteTensor([1.0])
    with pytest.raises(
        GradientError, match=r"Two\.jvp: expected 1 tangents?, one per output of forward, got 2"
    ):
        neo.jvp(lambda x: Two.apply(x, x, 3), (x,), (x,))
