"""Layers against their counterparts in torch.nn, with the same weights: value, gradient, gradient of gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import neo
from neo import nn
from neo.errors import DrawError
from tests.neo.functions.orders import assert_orders_agree


class Case(NamedTuple):
    ours: nn.Module
    theirs: torch.nn.Module
    x: Callable[[], torch.Tensor]
    outputs: Callable[[Any], Any] = lambda out: out  # what of torch's output ours corresponds to


def normal(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(shape, dtype=torch.float64)


CASES: dict[str, Case] = {
    "Linear": Case(nn.Linear(3, 2), torch.nn.Linear(3, 2), normal(4, 3)),
    "Conv2d": Case(nn.Conv2d(2, 3, padding=1), torch.nn.Conv2d(2, 3, 3, padding=1), normal(2, 2, 4, 5)),
    "Flatten": Case(nn.Flatten(), torch.nn.Flatten(), normal(2, 2, 3)),
    "LayerNorm": Case(nn.LayerNorm((3, 4)), torch.nn.LayerNorm((3, 4)), normal(2, 3, 4)),
    "LayerNorm-bare": Case(
        nn.LayerNorm(4, scale=False, shift=False),
        torch.nn.LayerNorm(4, elementwise_affine=False),
        normal(3, 4),
    ),
    "RMSNorm": Case(nn.RMSNorm(4), torch.nn.RMSNorm(4, eps=1e-5), normal(3, 4)),
    "GroupNorm": Case(nn.GroupNorm(2, 4), torch.nn.GroupNorm(2, 4), normal(2, 4, 3)),
    "Embedding": Case(nn.Embedding(5, 3), torch.nn.Embedding(5, 3), lambda: torch.randint(5, (2, 4))),
    "Embedding-padding": Case(
        nn.Embedding(5, 3, padding=-1), torch.nn.Embedding(5, 3, padding_idx=-1), lambda: torch.tensor([0, 4, 1, 4])
    ),
    "MultiheadAttention": Case(
        nn.MultiheadAttention(4, 2), torch.nn.MultiheadAttention(4, 2, batch_first=True), normal(2, 3, 4)
    ),
    "MultiheadAttention-no_bias": Case(
        nn.MultiheadAttention(4, 2, bias=False),
        torch.nn.MultiheadAttention(4, 2, bias=False, batch_first=True),
        normal(2, 3, 4),
    ),
    "LSTM": Case(nn.LSTM(2, 3), torch.nn.LSTM(2, 3, batch_first=True), normal(2, 3, 2)),
    "LSTM-two_layers_both_ways": Case(
        nn.LSTM(2, 3, 2, bidirectional=True),
        torch.nn.LSTM(2, 3, 2, batch_first=True, bidirectional=True),
        normal(2, 3, 2),
    ),
    "GRU": Case(nn.GRU(2, 3, 2), torch.nn.GRU(2, 3, 2, batch_first=True), normal(2, 3, 2)),
    "GRU-no_bias": Case(
        nn.GRU(2, 3, bias=False), torch.nn.GRU(2, 3, batch_first=True, bias=False), normal(2, 3, 2)
    ),
    "RNN": Case(nn.RNN(2, 3), torch.nn.RNN(2, 3, batch_first=True), normal(2, 3, 2)),
    "RNN-relu": Case(
        nn.RNN(2, 3, relu=True), torch.nn.RNN(2, 3, batch_first=True, nonlinearity="relu"), normal(2, 3, 2)
    ),
    "ReLU": Case(nn.ReLU(), torch.nn.ReLU(), normal(3, 4)),
    "Tanh": Case(nn.Tanh(), torch.nn.Tanh(), normal(3, 4)),
    "Sigmoid": Case(nn.Sigmoid(), torch.nn.Sigmoid(), normal(3, 4)),
    "Softplus": Case(nn.Softplus(), torch.nn.Softplus(), normal(3, 4)),
    "GELU": Case(nn.GELU(), torch.nn.GELU(), normal(3, 4)),
    "GELU-tanh": Case(nn.GELU(tanh=True), torch.nn.GELU("tanh"), normal(3, 4)),
    "SiLU": Case(nn.SiLU(), torch.nn.SiLU(), normal(3, 4)),
    "LeakyReLU": Case(nn.LeakyReLU(0.1), torch.nn.LeakyReLU(0.1), normal(3, 4)),
    "ELU": Case(nn.ELU(0.7), torch.nn.ELU(0.7), normal(3, 4)),
    "PReLU": Case(nn.PReLU(4), torch.nn.PReLU(4), normal(3, 4)),
    "Softmax": Case(nn.Softmax(1), torch.nn.Softmax(1), normal(3, 4)),
    "Dropout": Case(nn.Dropout(0.0), torch.nn.Dropout(0.0), normal(3, 4)),
    "Residual": Case(nn.Residual(nn.Lambda(torch.sin)), torch.nn.Identity(), normal(3, 4), lambda x: x + torch.sin(x)),
}  # fmt: skip
SPACE = {1: (6,), 2: (6, 5), 3: (4, 4, 5)}
for d, space in SPACE.items():
    x = normal(2, 4, *space)
    if d != 2:
        conv, batch = getattr(nn, f"Conv{d}d"), getattr(nn, f"BatchNorm{d}d")
        CASES[f"Conv{d}d"] = Case(
            conv(4, 2, 3, 2, 1, 1, 2), getattr(torch.nn, f"Conv{d}d")(4, 2, 3, 2, 1, 1, 2), x
        )
        CASES[f"Conv{d}d-same"] = Case(
            conv(4, 2, 3, padding="same", bias=False),
            getattr(torch.nn, f"Conv{d}d")(4, 2, 3, padding="same", bias=False),
            x,
        )
    CASES[f"ConvTranspose{d}d"] = Case(
        getattr(nn, f"ConvTranspose{d}d")(4, 2, 3, stride=2, groups=2, output_padding=1),
        getattr(torch.nn, f"ConvTranspose{d}d")(4, 2, 3, stride=2, groups=2, output_padding=1),
        x,
    )
    CASES[f"BatchNorm{d}d"] = Case(
        getattr(nn, f"BatchNorm{d}d")(4),
        getattr(torch.nn, f"BatchNorm{d}d")(4, track_running_stats=False),
        x,
    )
    CASES[f"InstanceNorm-{d}d"] = Case(
        nn.InstanceNorm(4, scale=True, shift=True),
        getattr(torch.nn, f"InstanceNorm{d}d")(4, affine=True),
        x,
    )
    CASES[f"MaxPool-{d}d"] = Case(nn.MaxPool(3, 2, 1), getattr(torch.nn, f"MaxPool{d}d")(3, 2, 1), x)
    CASES[f"AvgPool-{d}d"] = Case(nn.AvgPool(2), getattr(torch.nn, f"AvgPool{d}d")(2), x)
    CASES[f"AdaptiveAvgPool-{d}d"] = Case(
        nn.AdaptiveAvgPool(2), getattr(torch.nn, f"AdaptiveAvgPool{d}d")(2), x
    )
    CASES[f"GlobalMean-{d}d"] = Case(
        nn.GlobalMean(), getattr(torch.nn, f"AdaptiveAvgPool{d}d")(1), x, lambda out: out.flatten(1)
    )
CASES["BatchNorm1d-rows"] = Case(
    nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4, track_running_stats=False), normal(5, 4)
)
# Those that other tests hold against torch: test_nn.py, test_fused.py, test_siren.py, test_lora.py.
ELSEWHERE = {"BatchNormReLU", "ChannelsLast", "Conv4", "Lambda", "MLP", "MaxPool2d", "Module", "Sequential"}
ELSEWHERE |= {"FullyConvolutional", "LoRA", "TokenEncoder"}
ELSEWHERE |= {"Frozen", "ResNet12", "ViT", "WideResNet"}
ELSEWHERE |= {"Sine", "Siren", "SpatialMean", "TorchModel"}


def test_every_layer_is_held_against_torch():
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)} - {"draws"}
    assert layers == {name.partition("-")[0] for name in CASES} | ELSEWHERE


@pytest.mark.parametrize("name", CASES)
def test_layer_equals_its_torch_counterpart_at_every_order(name: str):
    torch.manual_seed(0)
    case = CASES[name]
    theirs = case.theirs.double()
    weights = {key: p.detach() for key, p in theirs.named_parameters()}
    params = case.ours.init(seed=0)
    assert {key: p.shape for key, p in params.items()} == {key: w.shape for key, w in weights.items()}
    x = case.x()
    if name.startswith("MultiheadAttention"):
        theirs = Attention(theirs)
    tensors = [*weights.values(), *([x] if x.is_floating_point() else [])]

    def arguments(values: tuple[Any, ...]) -> tuple[dict[str, Any], Any]:
        own = dict(zip(weights, values[: len(weights)], strict=True))
        return own, values[-1] if x.is_floating_point() else x

    def by_neo(*values: Any) -> Any:
        return case.ours(*arguments(values))

    def by_torch(*values: Any) -> Any:
        own, at = arguments(values)
        if isinstance(theirs, Attention):
            own = {f"layer.{key}": value for key, value in own.items()}
        return case.outputs(torch.func.functional_call(theirs, own, (at,)))

    assert_orders_agree(by_neo, tensors, 2, examiner=by_torch)


class Attention(torch.nn.Module):
    """Self-attention without the weights; they are asked for, or torch takes a fused kernel of first order."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x, x, need_weights=True)[0]


@pytest.mark.parametrize("name", CASES)
def test_init_is_a_pure_function_of_the_seed_for_every_layer(name: str):
    layer = CASES[name].ours
    torch.manual_seed(1)
    first = layer.init(seed=3)
    torch.manual_seed(2)
    again = layer.init(seed=3)
    assert all(torch.equal(first[key].data, again[key].data) for key in first)
    assert all(bool(torch.isfinite(p.data).all()) for p in first.values())


def test_attention_takes_keys_values_and_a_mask_as_torch_does():
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(4, 2, batch_first=True).double()
    params = {name: neo.LiteTensor(p) for name, p in theirs.named_parameters()}
    query, key, value = normal(2, 3, 4)(), normal(2, 5, 4)(), normal(2, 5, 4)()
    takes_part = torch.rand(3, 5) > 0.3
    expected, _ = theirs(query, key, value, attn_mask=~takes_part)
    got = nn.MultiheadAttention(4, 2)(params, neo.LiteTensor(query), neo.LiteTensor(key), value, takes_part)
    torch.testing.assert_close(got.data, expected.detach())


def test_causal_attention_does_not_look_ahead():
    layer = nn.MultiheadAttention(4, 2, causal=True)
    params = layer.init(seed=0, dtype=torch.float64)
    x = normal(1, 5, 4)()
    changed = x.clone()
    changed[:, 3:] += 1
    a, b = layer(params, x).data, layer(params, changed).data
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3:], b[:, 3:])


def test_recurrent_layer_goes_on_from_the_state_it_returned():
    for layer in (nn.LSTM(2, 3, 2), nn.GRU(2, 3, 2)):
        params = layer.init(seed=0, dtype=torch.float64)
        x = normal(2, 6, 2)()
        whole, last = layer(params, x)
        first, state = layer(params, x[:, :4])
        second, end = layer(params, x[:, 4:], state)
        torch.testing.assert_close(torch.cat([first.data, second.data], 1), whole.data)
        ends = (end, last) if isinstance(layer, nn.GRU) else (torch.stack(end), torch.stack(last))
        torch.testing.assert_close(ends[0].data, ends[1].data)


# --- dropout -------------------------------------------------------------------------------------------------


def test_dropout_drops_the_same_entries_for_the_same_seed_and_others_for_another():
    x = neo.ones(40, 50)
    layer = nn.Dropout(0.3)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed + 7)  # of no influence
        with nn.draws(seed=seed):
            drawn.append(layer({}, x).data)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert abs(float((drawn[0] == 0).float().mean()) - 0.3) < 0.05


def test_dropout_leaves_torchs_generator_alone_under_a_seed():
    before = torch.get_rng_state()
    with nn.draws(seed=0):
        nn.Dropout(0.5)({}, neo.ones(9))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_of_channels_drops_whole_ones():
    with nn.draws(seed=0):
        y = nn.Dropout(0.5, channels=True)({}, neo.ones(8, 16, 3, 3)).data.flatten(2)
    assert bool(((y == 0).all(2) | (y == 2).all(2)).all())
    assert 0 < float((y == 0).float().mean()) < 1


def test_dropout_is_the_identity_in_evaluation_and_an_error_when_nobody_says_which():
    x = neo.ones(9)
    with nn.draws(None):
        assert nn.Dropout(0.5)({}, x) is x
    with pytest.raises(DrawError, match=r"training or evaluation\? Say `with neo\.nn\.draws\(seed"):
        nn.Dropout(0.5)({}, x)


def test_draws_nest_and_close_when_an_exception_passes():
    x, layer = neo.ones(50), nn.Dropout(0.5)
    with nn.draws(seed=1):
        outer = layer({}, x).data
    with nn.draws(seed=1):
        with pytest.raises(ZeroDivisionError), nn.draws(None):
            1 / (layer({}, x).numel() - 50)
        assert torch.equal(layer({}, x).data, outer)
    with pytest.raises(DrawError):
        layer({}, x)


def test_dropout_inside_checkpoint_meets_the_same_draws_again():
    layer, x = nn.Dropout(0.5), neo.ones(64, dtype=torch.float64)
    square = lambda x: (layer({}, x) ** 2).sum()  # noqa: E731

    def gradient(fn: Any, inside: bool) -> torch.Tensor:
        with nn.draws(seed=3):
            _, pullback = neo.autograd.session.vjp(fn, x)
            if inside:
                return pullback(neo.tensor(1.0, dtype=torch.float64))[0].data
        return pullback(neo.tensor(1.0, dtype=torch.float64))[0].data

    expected = gradient(square, True)
    assert 0 < int((expected == 0).sum()) < 64
    for inside in (True, False):
        assert torch.equal(gradient(neo.checkpoint(square), inside), expected)


@pytest.mark.parametrize("seed", [1.5, "a", True])
def test_draws_refuse_what_is_no_seed(seed: Any):
    with pytest.raises(TypeError, match="expected an integer seed"):
        nn.draws(seed)


# --- what layers refuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: nn.Conv1d(3, 4, 3, groups=2), "must divide into groups"),
        (lambda: nn.Conv3d(2, 2, 3, output_padding=1), "is for transposed convolutions"),
        (lambda: nn.GroupNorm(3, 4), "do not divide into 3 groups"),
        (lambda: nn.Embedding(3, 2, padding=3), "must name one of 3 rows"),
        (lambda: nn.MultiheadAttention(5, 2), "does not divide into 2 heads"),
        (lambda: nn.LSTM(2, 0), "must be at least 1"),
        (lambda: nn.Dropout(1.5), r"p must be in \[0, 1\]"),
        (lambda: nn.MaxPool()({}, neo.ones(3, 4)), "1 to 3 spatial dims"),
        (lambda: nn.InstanceNorm(3)({}, neo.ones(2, 3, 1)), "more than 1 value a channel"),
        (lambda: nn.Residual(nn.GlobalMean())({}, neo.ones(2, 3, 4)), "give a shortcut"),
    ],
)
def test_layer_refuses_what_cannot_work(make: Callable[[], Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_residual_with_a_shortcut_adds_what_both_give():
    block = nn.Residual(nn.Linear(3, 2), shortcut=nn.Linear(3, 2, bias=False))
    params = block.init(seed=0)
    assert list(params) == ["body.weight", "body.bias", "shortcut.weight"]
    x = torch.randn(4, 3)
    expected = x @ (params["body.weight"].data + params["shortcut.weight"].data).T + params["body.bias"].data
    torch.testing.assert_close(block(params, x).data, expected)
