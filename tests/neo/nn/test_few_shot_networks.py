"""ResNet-12, wide residual networks and ViT: values and meta-gradients beside plain torch in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from neo.nn import ResNet12, ViT, WideResNet

WAYS = 3
Weights = dict[str, torch.Tensor]


def norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, w[f"{name}.weight"], w[f"{name}.bias"], training=True)


def resnet12(w: Weights, x: torch.Tensor, blocks: int, flat: bool) -> torch.Tensor:
    for i in range(blocks):
        y, f = x, f"block{i}.body"
        for j in range(3):
            y = norm(w, f"{f}.norm{j}", F.conv2d(y, w[f"{f}.conv{j}.weight"], padding=1))
            y = y if j == 2 else F.leaky_relu(y, 0.1)
        short = norm(w, f"block{i}.shortcut.norm", F.conv2d(x, w[f"block{i}.shortcut.conv.weight"]))
        x = F.max_pool2d(F.leaky_relu(y + short, 0.1), 2)
    return F.linear(x.flatten(1) if flat else x.mean((2, 3)), w["head.weight"], w["head.bias"])


def wide(w: Weights, x: torch.Tensor, blocks: int) -> torch.Tensor:
    x = F.conv2d(x, w["conv.weight"], padding=1)
    for i in range(3 * blocks):
        stride = 2 if i in (blocks, 2 * blocks) else 1
        f = f"block{i}.body"
        changes = f"block{i}.shortcut.weight" in w
        assert changes == ((i % blocks == 0 and w[f"{f}.conv0.weight"].shape[0] != x.shape[1]) or stride == 2)
        y = torch.relu(norm(w, f"norm{i}" if changes else f"{f}.norm0", x))
        short = F.conv2d(y, w[f"block{i}.shortcut.weight"], stride=stride) if changes else x
        y = F.conv2d(y, w[f"{f}.conv0.weight"], stride=stride, padding=1)
        x = short + F.conv2d(torch.relu(norm(w, f"{f}.norm1", y)), w[f"{f}.conv1.weight"], padding=1)
    return F.linear(torch.relu(norm(w, "norm", x)).mean((2, 3)), w["head.weight"], w["head.bias"])


def vit(w: Weights, x: torch.Tensor, depth: int, heads: int, patch: int, token: bool) -> torch.Tensor:
    n, channels, size, _ = x.shape
    side, width = size // patch, w["patches.bias"].shape[0]
    x = x.reshape(n, channels, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(n, side * side, -1)
    x = x @ w["patches.weight"].flatten(1).T + w["patches.bias"]
    if token:
        x = torch.cat([w["tokens.token"].expand(n, 1, width), x], 1)
    x = x + w["tokens.positions"]

    def layer_norm(name, x):
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"])

    for i in range(depth):
        a, m = f"block{i}.attention.body", f"block{i}.mlp.body"
        y = layer_norm(f"{a}.norm", x)
        qkv = y @ w[f"{a}.attention.in_proj_weight"].T + w[f"{a}.attention.in_proj_bias"]
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in qkv.chunk(3, -1))
        y = torch.softmax(q @ k.transpose(2, 3) / (width / heads) ** 0.5, -1) @ v
        y = y.transpose(1, 2).flatten(2)
        x = x + y @ w[f"{a}.attention.out_proj.weight"].T + w[f"{a}.attention.out_proj.bias"]
        y = layer_norm(f"{m}.norm", x)
        y = F.gelu(y @ w[f"{m}.linear0.weight"].T + w[f"{m}.linear0.bias"])
        x = x + y @ w[f"{m}.linear1.weight"].T + w[f"{m}.linear1.bias"]
    x = layer_norm("norm", x)
    return F.linear(x[:, 0] if token else x.mean(1), w["head.weight"], w["head.bias"])


NETS: dict[str, tuple[Any, Callable[[Weights, torch.Tensor], torch.Tensor], int]] = {
    "resnet12": (
        ResNet12(WAYS, channels=2, size=16, filters=[2, 3, 4, 5]),
        lambda w, x: resnet12(w, x, 4, False),
        16,
    ),
    "resnet12, flat": (
        ResNet12(WAYS, channels=2, size=13, filters=[3, 2], head="flatten"),
        lambda w, x: resnet12(w, x, 2, True),
        13,
    ),
    "wide": (WideResNet(WAYS, channels=2, depth=16, width=2), lambda w, x: wide(w, x, 2), 8),
    "wide, narrow": (WideResNet(WAYS, channels=2, depth=10, width=1), lambda w, x: wide(w, x, 1), 8),
    "vit": (
        ViT(WAYS, channels=2, size=8, patch=2, width=6, depth=2, heads=2, mlp=2),
        lambda w, x: vit(w, x, 2, 2, 2, False),
        8,
    ),
    "vit, token": (
        ViT(WAYS, channels=2, size=8, patch=4, width=6, depth=1, heads=3, pool="token"),
        lambda w, x: vit(w, x, 1, 3, 4, True),
        8,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_values_and_meta_gradient_are_torchs(name: str) -> None:
    """∇ L_query(θ − α ∇ L_support(θ)): values, gradients and second order in one number a weight."""
    model, by_torch, size = NETS[name]
    generator = torch.Generator().manual_seed(0)
    support, query = torch.randn(2, 6, 2, size, size, generator=generator, dtype=torch.float64)
    labels = torch.arange(6) % WAYS
    drawn = model.init(seed=1, dtype=torch.float64)
    # Scales and shifts are 1 and 0 to begin with, which would hide an error in them.
    params = {
        key: LiteTensor(leaf.data + 0.1 * torch.randn(leaf.shape, generator=generator, dtype=torch.float64))
        for key, leaf in drawn.items()
    }

    def inner(params: Any) -> Any:
        return F.cross_entropy(model(params, support), labels)

    def outer(params: Any) -> Any:
        gradient = neo.grad(inner, argnums=0)(params)
        return F.cross_entropy(
            model({key: params[key] - 0.1 * gradient[key] for key in params}, query), labels
        )

    value, found = neo.value_and_grad(outer, argnums=0)(params)

    theta = {key: leaf.data.clone().requires_grad_() for key, leaf in params.items()}
    out = by_torch(theta, support)
    torch.testing.assert_close(model(params, support).data, out.detach(), rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(F.cross_entropy(out, labels), list(theta.values()), create_graph=True)
    adapted = {key: p - 0.1 * g for (key, p), g in zip(theta.items(), gradients, strict=True)}
    loss = F.cross_entropy(by_torch(adapted, query), labels)
    torch.testing.assert_close(value.data, loss.detach(), rtol=1e-9, atol=1e-9)
    for (key, ours), theirs in zip(
        found.items(), torch.autograd.grad(loss, list(theta.values())), strict=True
    ):
        torch.testing.assert_close(
            ours.data, theirs, rtol=1e-8, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (lambda: ResNet12(None), 12_424_320),  # Lee et al. 2019: 12.4 million
        (lambda: ResNet12(None, filters=(64, 128, 256, 512)), 7_996_800),  # 8.0 million
        (lambda: WideResNet(None), 36_472_784),  # Zagoruyko and Komodakis 2016, table 1: 36.5 million
    ],
    ids=["resnet12", "resnet12, narrow", "wrn28_10"],
)
def test_published_networks_have_the_published_number_of_parameters(make, parameters) -> None:
    weights = make().draw(torch.Generator().manual_seed(0))
    assert sum(weight.numel() for weight in weights.values()) == parameters


@pytest.mark.parametrize(
    ("make", "features"),
    [
        (lambda ways: ResNet12(ways, size=16, filters=[2, 4, 3, 5]), 5),
        (lambda ways: ResNet12(ways, size=16, filters=[2, 4], head="flatten"), 64),
        (lambda ways: WideResNet(ways, depth=10, width=1), 64),
        (lambda ways: ViT(ways, size=16, width=6, depth=1), 6),
    ],
    ids=["resnet12", "resnet12, flat", "wide", "vit"],
)
def test_without_a_head_it_is_an_embedding(make, features) -> None:
    embedding, whole = make(None), make(WAYS)
    params = whole.init(0)
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = embedding({key: leaf for key, leaf in params.items() if not key.startswith("head.")}, x)
    assert found.shape == (4, features)
    logits = F.linear(found, params["head.weight"], params["head.bias"])
    torch.testing.assert_close(logits.data, whole(params, x).data)


def test_dropout_of_a_wide_network_drops_in_training_alone() -> None:
    model = WideResNet(WAYS, depth=10, width=1, dropout=0.5)
    params = model.init(0)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def drawn(seed):
        with neo.nn.draws(seed):
            return model(params, x).data

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(drawn(None), WideResNet(WAYS, depth=10, width=1)(params, x).data)


@pytest.mark.parametrize("size", [28, 32, 84])
def test_patches_of_a_vit_are_at_most_eight_a_side(size: int) -> None:
    patch = ViT(WAYS, size=size, width=3, depth=1).layers[0][1].shape[2]
    assert size % patch == 0
    assert 7 <= size // patch <= 8


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ResNet12(0), "ResNet12: channels, size, ways must be at least 1, got channels=3"),
        (lambda: ResNet12(5, size=15), "4 blocks halve an image of 15 pixels to nothing; expected size=16"),
        (lambda: ResNet12(5, filters=[]), r"filters must be one or more integers of 1 or more, got \[\]"),
        (lambda: ResNet12(5, head="max"), "head must be one of 'mean', 'flatten', got 'max'"),
        (lambda: WideResNet(5, depth=12), "depth must be 4 more than a multiple of 6, as 10, 16, 28; got 12"),
        (lambda: WideResNet(5, width=0), "WideResNet: channels, width, ways must be at least 1"),
        (lambda: ViT(5, size=84, patch=5), "84 pixels does not divide into patches of 5"),
        (lambda: ViT(5, size=31), "31 pixels does not divide into patches of 31"),
        (lambda: ViT(5, width=10), "width=10 does not divide into heads=3"),
        (lambda: ViT(5, pool="max"), "pool must be one of 'mean', 'token', got 'max'"),
        (lambda: ViT(5, depth=0), "ViT: sizes and counts must be at least 1, got .*depth=0"),
    ],
)
def test_settings_out_of_range_are_refused(make, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_names_of_weights_are_those_of_the_docstrings() -> None:
    names = {
        "resnet12": ("block0.body.conv0.weight", "block3.shortcut.norm.bias", "head.bias"),
        "wide": ("conv.weight", "norm0.weight", "block0.body.norm1.bias", "block1.body.norm0.weight", "norm.bias"),
        "vit": ("tokens.positions", "block1.attention.body.attention.in_proj_weight", "block0.mlp.body.linear1.bias"),
    }  # fmt: skip
    for net, some in names.items():
        assert {*some} <= {*NETS[net][0].init(0)}
