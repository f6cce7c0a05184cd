"""Rule 15: what is drawn inside `with neo.nn.draws(seed):` is a pure function of the seed, on whatever tensors."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import neo
from neo.errors import DrawError
from neo.functions.randomness import answers

X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(2, 3, 4)
HALF = torch.full((2, 3, 4), 0.5, dtype=torch.float64)
IMAGES = torch.ones(2, 3, 8, 8)
QUERY = torch.linspace(-1, 1, 24).reshape(2, 3, 4)


def filled(method, *args):
    return lambda: getattr(torch.empty(3, 4), method)(*args)


NOISE = {
    "rand": lambda: torch.rand(3, 4),
    "randn": lambda: torch.randn((3, 4), dtype=torch.float64),
    "randn, device named": lambda: torch.randn(3, device="cpu"),
    "randint": lambda: torch.randint(1000, (9,)),
    "randint from": lambda: torch.randint(low=5, high=1000, size=(9,)),
    "randperm": lambda: torch.randperm(20),
    "rand_like": lambda: torch.rand_like(X),
    "randn_like": lambda: torch.randn_like(input=X),
    "randint_like": lambda: torch.randint_like(X, 1000),
    "normal": lambda: torch.normal(X, HALF),
    "normal of numbers": lambda: torch.normal(0.0, 1.0, (3, 4)),
    "normal of a mean": lambda: torch.normal(mean=X, std=1.0),
    "bernoulli": lambda: torch.bernoulli(HALF),
    "Tensor.bernoulli": lambda: HALF.bernoulli(),
    "multinomial": lambda: torch.multinomial(torch.ones(50), 10),
    "poisson": lambda: torch.poisson(HALF * 50),
    "binomial": lambda: torch.binomial(HALF * 100, HALF),
    "_standard_gamma": lambda: torch._standard_gamma(HALF),
    "_sample_dirichlet": lambda: torch._sample_dirichlet(HALF),
    "uniform_": filled("uniform_", -1, 1),
    "normal_": filled("normal_"),
    "exponential_": filled("exponential_"),
    "cauchy_": filled("cauchy_"),
    "log_normal_": filled("log_normal_"),
    "geometric_": filled("geometric_", 0.1),
    "random_": filled("random_", 1000),
    "bernoulli_": lambda: torch.empty(40).bernoulli_(0.5),
    "init.uniform_": lambda: torch.nn.init.uniform_(torch.empty(3, 4)),
    "init.normal_": lambda: torch.nn.init.normal_(torch.empty(3, 4)),
    "init.kaiming_uniform_": lambda: torch.nn.init.kaiming_uniform_(torch.empty(3, 4)),
    "init.orthogonal_": lambda: torch.nn.init.orthogonal_(torch.empty(3, 4)),
    "init.trunc_normal_": lambda: torch.nn.init.trunc_normal_(torch.empty(3, 4)),
    "a layer's own weights": lambda: torch.nn.Linear(3, 4).weight.detach(),
    "svd_lowrank": lambda: torch.svd_lowrank(torch.arange(400.0).reshape(20, 20).sin(), 2, niter=0)[1],
    "pca_lowrank": lambda: torch.pca_lowrank(torch.arange(400.0).reshape(20, 20).sin(), 2, niter=0)[1],
    "fractional_max_pool2d": lambda: F.fractional_max_pool2d(
        torch.arange(512.0).reshape(2, 4, 8, 8).sin(), 2, output_size=5
    ),
    "fractional_max_pool3d": lambda: F.fractional_max_pool3d(
        torch.arange(1024.0).reshape(1, 2, 8, 8, 8).sin(), 2, output_size=5, return_indices=True
    )[0],
    "Normal.sample": lambda: torch.distributions.Normal(X, HALF).sample(),
    "Gamma.rsample": lambda: torch.distributions.Gamma(HALF, HALF).rsample(),
    "aten, a packet": lambda: torch.ops.aten.rand([3]),
    "aten, an overload": lambda: torch.ops.aten.bernoulli.default(HALF),
    "neo.randn": lambda: neo.randn(3, 4).data,
    "on a LiteTensor": lambda: torch.randn_like(neo.LiteTensor(X)).data,
    "a LiteTensor's method": lambda: neo.LiteTensor(HALF).bernoulli().data,
    "a LiteTensor in multinomial": lambda: torch.multinomial(neo.LiteTensor(torch.ones(50)), 10).data,
    "a LiteTensor in svd_lowrank": lambda: (
        torch.svd_lowrank(neo.LiteTensor(torch.arange(400.0).reshape(20, 20).sin()), 2, niter=0)[1].data
    ),
    "a LiteTensor in fractional_max_pool2d": lambda: (
        F.fractional_max_pool2d(
            neo.LiteTensor(torch.arange(512.0).reshape(2, 4, 8, 8).sin()), 2, output_size=5
        ).data
    ),
}

LSTM = torch.nn.LSTM(4, 3, num_layers=2, dropout=0.5)
GRU = torch.nn.GRU(4, 3, num_layers=3, dropout=0.5, bidirectional=True, batch_first=True)
RNN = torch.nn.RNN(4, 3, num_layers=2, dropout=0.5)
ATTENTION = torch.nn.MultiheadAttention(4, 2, dropout=0.5)
LENGTHS = torch.tensor([2, 2, 1])


def in_place(function):
    return lambda x: function(x.clone(), 0.5, True, True)


KIN = {
    "F.dropout": F.dropout,
    "F.dropout, in place": in_place(F.dropout),
    "torch.dropout": lambda x: torch.dropout(x, 0.5, True),
    "torch.dropout_": lambda x: torch.dropout_(x.clone(), 0.5, True),
    "F.dropout1d": lambda x: F.dropout1d(x.repeat(1, 5, 1)),
    "F.dropout2d": lambda x: F.dropout2d(x.repeat(1, 5, 1)[..., None]),
    "F.dropout3d": lambda x: F.dropout3d(x.repeat(1, 5, 1)[..., None, None]),
    "F.alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, True),
    "F.feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x.repeat(1, 5, 1), 0.5, True),
    "native_dropout": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "nn.Dropout": torch.nn.Dropout(),
    "nn.Dropout, in place": lambda x: torch.nn.Dropout(inplace=True)(x.clone()),
    "F.rrelu": lambda x: F.rrelu(x, training=True),
    "nn.RReLU": torch.nn.RReLU(),
    "F.gumbel_softmax": F.gumbel_softmax,
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.5),
    "scaled_dot_product_attention, by keyword": lambda x: F.scaled_dot_product_attention(
        x, x, x, dropout_p=0.5, is_causal=True
    ),
    "MultiheadAttention": lambda x: ATTENTION(x.float(), x.float(), x.float())[0],
    "MultiheadAttention without weights": lambda x: ATTENTION(
        x.float(), x.float(), x.float(), need_weights=False
    )[0],
    "LSTM": lambda x: LSTM(x.float())[0],
    "GRU": lambda x: GRU(x.float())[0],
    "RNN": lambda x: RNN(x.float())[0],
    "LSTM, packed": lambda x: LSTM(torch.nn.utils.rnn.pack_padded_sequence(x.float(), LENGTHS))[0].data,
    "neo.nn.Dropout": lambda x: neo.nn.Dropout(0.5)({}, x),
    "neo.nn.Dropout of channels": lambda x: neo.nn.Dropout(0.5, channels=True)(
        {}, x.repeat(1, 5, 1)[..., None]
    ),
}
GRADIENT_OF_ITS_OWN = {"F.rrelu", "nn.RReLU", "F.gumbel_softmax"}


def under(seed, draw):
    with neo.nn.draws(seed):
        return draw()


@pytest.mark.parametrize("draw", NOISE.values(), ids=NOISE)
def test_random_functions_are_pure_functions_of_the_seed(draw):
    state = torch.get_rng_state()
    first = under(3, draw)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(under(3, draw), first)
    assert not torch.equal(under(4, draw), first)


@pytest.mark.parametrize("draw", NOISE.values(), ids=NOISE)
@pytest.mark.parametrize("block", [neo.nn.draws(None), neo.draws.no_draws("none")], ids=["None", "no_draws"])
def test_random_functions_draw_from_torchs_generator_without_a_seed(block, draw):
    torch.manual_seed(5)
    expected = draw()
    torch.manual_seed(5)
    with block:
        assert torch.equal(draw(), expected)


@pytest.mark.parametrize("drop", KIN.values(), ids=KIN)
def test_dropout_of_a_torch_tensor_is_a_pure_function_of_the_seed(drop):
    state = torch.get_rng_state()
    first = under(3, lambda: drop(X))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(under(3, lambda: drop(X)), first)
    assert not torch.equal(under(4, lambda: drop(X)), first)


@pytest.mark.parametrize("drop", KIN.values(), ids=KIN)
def test_dropout_without_a_seed_is_refused_where_one_is_asked_for(drop):
    with pytest.raises(DrawError, match="give a seed"), neo.draws.no_draws("give a seed"):
        drop(X)


@pytest.mark.parametrize("name", sorted(KIN.keys() - {"F.gumbel_softmax"}))
def test_dropout_of_a_torch_tensor_drops_nothing_under_draws_none(name):
    drop = KIN[name]
    with neo.nn.draws(None):
        found = drop(X)
        assert torch.equal(found, drop(X))
    if "rrelu" not in name.lower() and found.dtype is torch.float64 and found.numel() == X.numel():
        evaluated = F.scaled_dot_product_attention(X, X, X, is_causal="keyword" in name)
        assert torch.allclose(found, evaluated if "product" in name else X)


@pytest.mark.parametrize(
    "name", [name for name in KIN if not any(word in name for word in ("place", "_", "native", "RNN"))]
)
def test_same_seed_drops_the_same_of_a_torch_tensor_and_of_a_litetensor(name):
    drop = KIN[name]
    plain, ours = under(7, lambda: drop(X)), under(7, lambda: drop(neo.LiteTensor(X)))
    assert torch.allclose(ours.data, plain, atol=1e-6)


@pytest.mark.parametrize("name", sorted(KIN.keys() - {"native_dropout"}))
def test_dropout_of_a_torch_tensor_keeps_torchs_own_gradient(name):
    drop = KIN[name]
    x = X.clone().requires_grad_()
    under(3, lambda: drop(x)).sum().backward()
    direction, eps = torch.cos(torch.arange(24.0, dtype=torch.float64)).reshape(2, 3, 4), 1e-4
    ahead, behind = (under(3, lambda x=x: drop(x)).sum() for x in (X + eps * direction, X - eps * direction))
    single = ahead.dtype is torch.float32
    assert torch.isclose(
        (x.grad * direction).sum(), ((ahead - behind) / (2 * eps)).double(), atol=5e-2 if single else 1e-6
    )


def test_every_random_op_of_torch_is_known():
    draws = set()
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace == "aten" and any(argument.name == "generator" for argument in schema.arguments):
            draws.add(name)
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        if isinstance(packet, torch._ops.OpOverloadPacket) and any(
            torch.Tag.nondeterministic_seeded in getattr(packet, overload).tags
            for overload in packet.overloads()
        ):
            draws.add(name)
    inside = {  # what others call, on accelerators and in TorchScript, never Python
        name
        for name in draws
        if name.startswith(("_cudnn", "miopen", "_efficient", "_flash", "_scaled_dot", "_fused", "_no_grad"))
    }
    reached = [
        (home.__name__, name)
        for name in draws - inside
        for home in (torch, torch.Tensor, F, torch.nn.init)
        if callable(getattr(home, name, None))
        and getattr(home, name) not in answers
        and not hasattr(getattr(home, name), "__wrapped__")
        and type(getattr(home, name)).__name__ != "function"  # Python's own run with their insides seen
    ]
    assert not reached
    assert not [name for name in draws - inside if getattr(torch.ops.aten, name) not in answers]


def test_generator_that_is_given_is_the_one_that_draws():
    expected = torch.randn(3, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(under(3, lambda: torch.randn(3, generator=generator)), expected)
    generator.manual_seed(1)
    assert torch.equal(under(3, lambda: torch.empty(3).normal_(generator=generator)), expected)


def test_blocks_nest_and_the_innermost_holds():
    with neo.nn.draws(1):
        first = torch.rand(3)
        with neo.nn.draws(2):
            inner = torch.rand(3)
            with neo.nn.draws(None):
                assert torch.equal(F.dropout(X), X)
        second = torch.rand(3)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(first, torch.rand(3, generator=generator))
    assert torch.equal(second, torch.rand(3, generator=generator))
    assert torch.equal(inner, torch.rand(3, generator=torch.Generator().manual_seed(2)))
    assert torch._C._len_torch_function_stack() == 0


def test_exception_leaves_no_block_behind():
    with pytest.raises(ZeroDivisionError), neo.nn.draws(1), neo.nn.draws(2):
        raise ZeroDivisionError
    assert neo.draws.source() is None
    assert torch._C._len_torch_function_stack() == 0


def test_torch_modes_of_others_go_on_inside_and_around():
    with neo.nn.draws(1), torch.device("meta"):
        assert torch.rand(3).is_meta
    with torch.device("meta"), neo.nn.draws(1):
        assert torch.ones(3).is_meta
        assert torch.rand(3).is_meta
    with torch.device("cpu"), neo.nn.draws(1):
        first = torch.rand(3)
    assert torch.equal(first, under(1, lambda: torch.rand(3)))


@pytest.mark.parametrize("shared", [False, True], ids=["a block each", "one block"])
def test_block_holds_for_its_thread_alone(shared):
    gate = threading.Barrier(2)
    one = neo.nn.draws(1)

    def work(seed):
        with one if shared else neo.nn.draws(seed):
            gate.wait(timeout=30)
            first = F.dropout(torch.ones(64))
            gate.wait(timeout=30)
            return first, torch.randn(8)

    with ThreadPoolExecutor(2) as pool:
        side_by_side = list(pool.map(work, (1, 2)))
    for seed, found in zip((1, 2), side_by_side, strict=True):
        alone = under(1 if shared else seed, lambda: (F.dropout(torch.ones(64)), torch.randn(8)))
        assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))


# --- in sessions ---------------------------------------------------------------------------------------------------


def noisy(x):
    mask = F.dropout(torch.ones(3, dtype=torch.float64), 0.5)
    return (F.dropout(x**3) * mask + x**2 * torch.randn_like(x) * torch.rand(3, dtype=torch.float64)).sum()


def lite(*values):
    return neo.LiteTensor(torch.tensor(values, dtype=torch.float64))


def coefficients():
    """noisy(x) = Σ a x³ + b x²: its draws, in their order."""
    ones = torch.ones(3, dtype=torch.float64)
    mask, kept = F.dropout(ones), F.dropout(ones)
    return mask * kept, torch.randn_like(ones) * torch.rand(3, dtype=torch.float64)


def test_gradients_of_every_order_meet_the_draws_of_the_value():
    x, v = lite(0.5, -1.0, 2.0), lite(1.0, 2.0, 3.0)
    a, b = under(3, coefficients)
    gradient, curvature = 3 * a * x.data**2 + 2 * b * x.data, 6 * a * x.data + 2 * b
    assert torch.allclose(under(3, lambda: neo.grad(noisy, argnums=0)(x)).data, gradient)
    (second,) = under(3, lambda: neo.hvp(noisy, (x,), (v,)))
    assert torch.allclose(second.data, curvature * v.data)
    out, tangent = under(3, lambda: neo.jvp(noisy, (x,), (v,)))
    assert torch.isclose(tangent.data, (gradient * v.data).sum())
    assert torch.isclose(out.data, (a * x.data**3 + b * x.data**2).sum())


@pytest.mark.parametrize(
    "around", [neo.checkpoint, lambda f: neo.checkpoint(neo.checkpoint(f))], ids=["once", "twice"]
)
def test_checkpoint_repeats_the_draws_of_a_block(around):
    x = lite(0.5, -1.0, 2.0)

    def draws_before_and_after(f):
        return lambda x: f(x) * torch.rand(()) + f(x)

    def second(f):
        return neo.grad(lambda x: (neo.grad(draws_before_and_after(f), argnums=0)(x) ** 2).sum(), argnums=0)(
            x
        )

    assert torch.allclose(under(3, lambda: second(around(noisy))).data, under(3, lambda: second(noisy)).data)


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize(
    "draw",
    [
        lambda x: F.dropout(x, 0.5),
        lambda x: x * F.dropout(torch.ones(64, dtype=torch.float64), 0.5),
        lambda x: x * torch.randn_like(x),
        lambda x: x * torch.rand_like(torch.ones(64)),
        lambda x: x * torch.native_dropout(torch.ones(64), 0.5, True)[0],
    ],
    ids=["dropout", "of a torch tensor", "randn_like", "rand_like of a torch tensor", "native_dropout"],
)
def test_vmap_repeats_the_draws_of_a_block(draw, randomness):
    x = neo.LiteTensor(torch.ones(3, 64, dtype=torch.float64))

    def both():
        return neo.value_and_grad(lambda x: neo.vmap(draw, randomness=randomness)(x), argnums=0)(x)

    out, gradient = under(3, both)
    assert torch.equal(out.data, gradient.data)  # linear in x, which is one
    assert torch.equal(out.data[0], out.data[1]) == (randomness == "same")
    assert torch.equal(under(3, both)[0].data, out.data)


def test_gumbel_softmax_draws_in_vmap():
    x = neo.LiteTensor(torch.zeros(2, 64))
    once, again = (under(3, lambda: neo.vmap(F.gumbel_softmax, randomness="different")(x)) for _ in range(2))
    assert torch.equal(once.data, again.data)
    assert not torch.equal(once.data[0], once.data[1])


def test_policy_of_the_user_draws_from_the_block():
    class Noisy(neo.autograd.Policy):
        def forward(self, x):
            scale = self.ctx.constant(torch.rand_like(x) * F.dropout(torch.ones_like(x)))
            self.ctx.save(scale)
            return x * scale

        def backward(self, y_bar):
            (scale,) = self.ctx.release
            return y_bar * scale

    noisy = neo.functions.function(Noisy)
    x = lite(1.0, 2.0, 3.0)
    once, again = (under(3, lambda: neo.grad(lambda x: noisy(x) + x, argnums=0)(x)) for _ in range(2))
    assert torch.equal(once.data, again.data)


def test_replaced_op_that_draws_is_asked_inside_a_block():
    before = neo.functions.registry._handlers[torch.hardshrink]
    try:

        @neo.functions.implements(torch.hardshrink, only=True)
        def hardshrink(x, lambd=0.5):
            return x * torch.rand_like(x)

        once, again = (under(3, lambda: torch.hardshrink(lite(1.0, 2.0))) for _ in range(2))
        assert torch.equal(once.data, again.data)
    finally:
        neo.functions.implements(torch.hardshrink, only=True)(before)


# --- calls that need no block until one of them draws -----------------------------------------------------------------

DRAWN = {
    "torch.randn": lambda: torch.randn(3),
    "dropout of a torch tensor": lambda: F.dropout(torch.ones(20)),
    "a distribution": lambda: torch.distributions.Gamma(HALF, HALF).sample(),
    "in place": lambda: torch.empty(3).uniform_(),
    "a LiteTensor": lambda: torch.randn_like(neo.LiteTensor(X)).data,
    "dropout of a LiteTensor": lambda: F.dropout(neo.LiteTensor(torch.ones(20))).data,
}


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("name", DRAWN)
def test_seeded_calls_draw_what_blocks_draw(name, dropout):
    seeded = neo.draws.SeededCalls()
    for seed in (3, 4, 3):
        torch.manual_seed(seed)
        with neo.nn.draws(seed, dropout=dropout):
            expected = DRAWN[name]()
        torch.manual_seed(11)
        assert torch.equal(seeded(seed, DRAWN[name], dropout=dropout), expected)


def test_calls_without_draws_are_made_once_and_without_asking_about_torchs_functions():
    calls = []
    seeded = neo.draws.SeededCalls()

    def asked():
        calls.append(torch._C._len_torch_function_stack())
        return torch.ones(2).sum()

    assert [float(seeded(seed, asked)) for seed in range(3)] == [2.0] * 3
    assert calls == [0, 0, 0]

    def draws():
        calls.append(torch._C._len_torch_function_stack())
        return torch.rand(1)

    seeded(0, draws)
    seeded(1, draws)
    assert calls[3:] == [0, 1, 1]  # found out, made anew, and from then on in blocks


def test_seeded_call_that_raises_leaves_no_block_behind():
    with pytest.raises(ZeroDivisionError):
        neo.draws.SeededCalls()(0, lambda: 1 / 0)
    assert neo.draws.source() is None


def test_block_inside_a_seeded_call_is_a_block():
    def both():
        outside = torch.randn_like(neo.LiteTensor(X)).data
        with neo.nn.draws(9):
            inside = torch.randn(4)
        return outside, inside

    with neo.nn.draws(2):
        expected = both()
    for got, wanted in zip(neo.draws.SeededCalls()(2, both), expected, strict=True):
        assert torch.equal(got, wanted)
