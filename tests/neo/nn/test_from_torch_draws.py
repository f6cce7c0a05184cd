"""Dropout and noise in converted modules obey the call's seed on every tensor, LiteTensor or not."""

import pytest
import torch
import torch.nn.functional as F

import neo
from neo.errors import DrawError


class FunctionOnInput(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(F.dropout(x, 0.5, self.training))


class MaskMadeInForward(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = torch.nn.Linear(6, 3), torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.layer(x) * self.drop(torch.ones(1, 3))


class Noise(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 3)

    def forward(self, x):
        h = self.layer(x)
        return h + 0.1 * torch.randn_like(h) + torch.rand(3)


class Sampled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.spread = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.mean(x) + F.softplus(self.spread(x)) * torch.empty(3).normal_()


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.lstm = torch.nn.Dropout(0.3), torch.nn.LSTM(6, 3, 2, dropout=0.5)

    def forward(self, x):
        return self.lstm(self.drop(x))[0]


DROPS = {
    "nn.Dropout on the input": lambda: torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(6, 3)),
    "F.dropout on the input": FunctionOnInput,
    "a mask made in forward": MaskMadeInForward,
    "nn.Dropout after a layer": lambda: torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Dropout(0.5)),
    "nn.AlphaDropout on the input": lambda: torch.nn.Sequential(
        torch.nn.AlphaDropout(0.5), torch.nn.Linear(6, 3)
    ),
    "LSTM": Recurrent,
}
DRAWS = {**DROPS, "randn_like": Noise, "normal_": Sampled}
X = torch.linspace(-1, 1, 12).reshape(2, 6)


def converted(build):
    torch.manual_seed(0)
    return neo.nn.from_torch(build().train())


@pytest.mark.parametrize("wrap", [lambda x: x, neo.LiteTensor], ids=["torch tensor", "LiteTensor"])
@pytest.mark.parametrize("build", DRAWS.values(), ids=DRAWS)
def test_output_is_a_pure_function_of_the_seed(build, wrap):
    model, params = converted(build)
    first = model(params, wrap(X), seed=1).data
    torch.rand(1)
    assert torch.equal(model(params, wrap(X), seed=1).data, first)
    assert not torch.equal(model(params, wrap(X), seed=2).data, first)


@pytest.mark.parametrize("build", DRAWS.values(), ids=DRAWS)
def test_seed_draws_the_same_for_a_torch_tensor_and_a_litetensor(build):
    model, params = converted(build)
    assert torch.allclose(
        model(params, X, seed=1).data, model(params, neo.LiteTensor(X), seed=1).data, atol=1e-6
    )


@pytest.mark.parametrize("build", DROPS.values(), ids=DROPS)
def test_dropout_without_a_seed_is_refused(build):
    model, params = converted(build)
    with pytest.raises(DrawError, match="has no seed to draw from"):
        model(params, X)


@pytest.mark.parametrize("build", [Noise, Sampled])
def test_noise_without_a_seed_comes_from_torchs_generator(build):
    model, params = converted(build)
    torch.manual_seed(3)
    found = model(params, X)
    torch.manual_seed(4)
    assert not torch.equal(model(params, X).data, found.data)
    torch.manual_seed(3)
    assert torch.equal(model(params, X).data, found.data)


@pytest.mark.parametrize("build", DRAWS.values(), ids=DRAWS)
def test_block_around_a_call_is_what_it_draws_from(build):
    model, params = converted(build)
    with neo.nn.draws(1):
        first, second = model(params, X), model(params, X)
    assert torch.equal(first.data, model(params, X, seed=1).data)
    assert not torch.equal(first.data, second.data)


@pytest.mark.parametrize("build", DROPS.values(), ids=DROPS)
def test_draws_none_around_a_call_drops_nothing(build):
    model, params = converted(build)
    with neo.nn.draws(None):
        found = model(params, X)
    evaluated, _ = neo.nn.from_torch(build().eval())
    assert torch.allclose(found.data, evaluated(params, X).data)


@pytest.mark.parametrize("build", DRAWS.values(), ids=DRAWS)
def test_second_order_meets_the_draws_of_the_value(build):
    model, params = converted(build)
    params = {name: neo.LiteTensor(weight.data.double()) for name, weight in params.items()}
    x = X.double()

    def inner(params):
        return (model(params, x, seed=1) ** 2).sum()

    def outer(params):
        adapted = {
            name: weight - 0.1 * gradient
            for (name, weight), gradient in zip(
                params.items(), neo.grad(inner, argnums=0)(params).values(), strict=True
            )
        }
        return inner(adapted)

    neo.gradcheck(outer, (params,), order=1)


class WritesIntoZeros(torch.nn.Module):
    """Writes what a session differentiates into a torch tensor made in forward: its first run is begun anew."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 3)

    def forward(self, x):
        out = torch.zeros(2, 3)
        h = F.dropout(self.layer(F.dropout(x, 0.5, self.training)), 0.5, self.training)
        out[:, :2] = h[:, :2]
        return out + torch.rand(3)


def test_run_that_is_begun_anew_draws_anew():
    def drawn(model, params):
        with neo.nn.draws(1):
            gradient = neo.grad(lambda p: model(p, X).sum(), argnums=0)(params)
            return model(params, X).data, gradient["layer.weight"].data, torch.rand(3)

    torch.manual_seed(0)
    model, params = neo.nn.from_torch(WritesIntoZeros().train(), verify=False)
    for first, second in zip(drawn(model, params), drawn(model, params), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("training", [True, False])
def test_attention_on_torch_tensors_inside_a_block_draws_from_it(training):
    attention = torch.nn.MultiheadAttention(4, 2, dropout=0.5).train(training)
    x = torch.ones(2, 3, 4)
    found = []
    for _ in range(2):
        with neo.nn.draws(3), torch.no_grad():
            found.append(attention(x, x, x)[0])
    assert torch.equal(*found)


class DropsSometimes(torch.nn.Module):
    """Drops entries of a plain tensor, from its second call on of tall inputs alone: seen by no first call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(6)
        if len(x) > 2:
            mask = F.dropout(mask, 0.5, True)
        return self.layer(x * mask)


def test_dropout_of_a_plain_tensor_is_refused_on_a_path_that_the_first_calls_did_not_take() -> None:
    """Later calls are not asked about their draws; that they drew is seen, and they are made again."""
    model, params = converted(DropsSometimes)
    first = model(params, X)
    assert torch.equal(first.data, model(params, X).data)
    tall = torch.cat((X, X))
    for _ in range(2):
        with pytest.raises(DrawError, match="has no seed to draw from"):
            model(params, tall)
    assert torch.equal(first.data, model(params, X).data)
    assert torch.equal(model(params, tall, seed=2).data, model(params, tall, seed=2).data)
