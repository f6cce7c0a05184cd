"""Layers of a converted module that run as one op: found, right to third order, and given up where they must be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import neo
from neo import kernels
from tests.neo.nn.meta_gradients import assert_meta_gradients_agree


class Block(nn.Module):
    """As people write it: functional or not, in place or not, with a bias or not."""

    def __init__(self, inputs: int, relu: Any, pool: Any, view: bool, **conv: Any):
        super().__init__()
        self.conv = nn.Conv2d(inputs, 16, **{"kernel_size": 3, "padding": 1, **conv})
        self.bn = nn.BatchNorm2d(16)
        self.second, self.relu, self.pool, self.view = nn.Conv2d(16, 16, 3, padding=1), relu, pool, view
        self.second_bn = nn.BatchNorm2d(16, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.bn(self.conv(x))))
        x = self.relu(self.second_bn(self.second(x)) + x)
        return x.view(x.size(0), -1) if self.view else x.flatten(1)


def halved(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 2, 2)


def leaky(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, negative_slope=0.2)


CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "modules": ((3, nn.ReLU(), nn.MaxPool2d(2), False), {}, "conv + bn + ReLU + max pooling 2x2"),
    "in place": ((16, nn.ReLU(inplace=True), nn.Identity(), True), {"bias": False}, "conv + bn + ReLU"),
    "functions": ((16, F.relu, halved, False), {"stride": 2}, "conv + bn + ReLU + max pooling 2x2"),
    "leaky": (
        (3, nn.LeakyReLU(0.1), nn.MaxPool2d(2), False),
        {},
        "conv + bn + leaky ReLU 0.1 + max pooling 2x2",
    ),
    "leaky in place": (
        (16, nn.LeakyReLU(inplace=True), nn.Identity(), True),
        {},
        "conv + bn + leaky ReLU 0.01",
    ),
    "leaky function": ((16, leaky, halved, True), {}, "conv + bn + leaky ReLU 0.2 + max pooling 2x2"),
    "no rectifier": ((3, nn.Identity(), nn.Identity(), True), {"bias": False}, "conv + bn"),
    "pooling alone": ((16, nn.Identity(), nn.MaxPool2d(3), False), {}, "conv + bn + max pooling 3x3"),
    "a rectifier that falls": ((16, lambda x: F.leaky_relu(x, -0.1), halved, False), {}, "conv + bn"),
    "another kernel": ((2, torch.relu, nn.MaxPool2d(3, 2, 1), True), {"kernel_size": 5}, "conv + bn + ReLU"),
}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_fused_layers_give_torch_s_meta_gradient(name: str) -> None:
    given, conv, said = CASES[name]
    torch.manual_seed(0)
    module = Block(*given, **conv).double()
    support, query = drawn(3, given[0], 9, 8), drawn(4, given[0], 9, 8, seed=1)
    model, params = neo.nn.from_torch(module)
    model(params, support)
    assert str(model) == f"from_torch(Block)\n  one op: {said}\n  one op: second + second_bn"
    assert_meta_gradients_agree(module, (support,), (query,))


def test_fused_layers_are_right_to_third_order() -> None:
    torch.manual_seed(0)
    module = Block(16, nn.ReLU(), nn.MaxPool2d(2), True).double()
    x = neo.LiteTensor(drawn(2, 16, 6, 6))
    found = []
    for fused in (True, False):
        model, params = neo.nn.from_torch(module, fused=fused)

        def third(params: Any, x: Any, model: Any = model) -> Any:
            def loss(params: Any, x: Any) -> Any:
                return (torch.sin(model(params, x)) ** 2).sum()

            def norm(of: Any) -> Any:
                return lambda *args: sum((g**2).sum() for g in neo.pytree.leaves(neo.grad(of, (0, 1))(*args)))

            return neo.grad(norm(norm(loss)), (0, 1))(params, x)

        found.append(neo.pytree.leaves(third(params, x)))
        assert ("one op" in str(model)) is fused
    largest = max(
        float(right.data.abs().max()) for right in found[1]
    )  # that of conv.bias is zero, but for rounding
    for got, right in zip(*found, strict=True):
        torch.testing.assert_close(got.data, right.data, rtol=1e-7, atol=1e-9 * largest)


class Reached(nn.Module):
    """Of wide images, another layer reads what lies within the chain."""

    def __init__(self, how: Any):
        super().__init__()
        self.conv, self.bn, self.how = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.conv(x)
        y = self.bn(z)
        wide = x.shape[3] > 8
        out = torch.relu(y)
        return self.how(out, z, y) if wide else out


@pytest.mark.parametrize(
    ("how", "left"),
    [
        (lambda out, z, y: out + z, ""),
        (lambda out, z, y: torch.cat([out, y]), "\n  one op: conv + bn"),
        (lambda out, z, y: out * z.mean(), ""),
        (lambda out, z, y: F.max_pool2d(y, 2), "\n  one op: conv + bn"),
        (lambda out, z, y: out[y[0, 0, 0, 0] > 100], "\n  one op: conv + bn"),
    ],
)
def test_a_module_that_takes_another_path_later_gets_its_numbers(how: Any, left: str) -> None:
    torch.manual_seed(0)
    module = Reached(how).double()
    model, params = neo.nn.from_torch(module)
    for width, fused in ((8, True), (9, False), (8, False)):
        x = drawn(2, 16, 8, width)
        torch.testing.assert_close(model(params, x).data, module(x).detach(), rtol=1e-9, atol=1e-9)
        assert str(model) == "from_torch(Reached)" + ("\n  one op: conv + bn + ReLU" if fused else left)


class Residual(nn.Module):
    """As torchvision writes it: the sum in place, one ReLU in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def test_a_norm_that_is_added_to_in_place_before_its_relu_ends_a_chain() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(Residual(), Residual(), nn.Flatten()).double()
    support, query = drawn(3, 16, 6, 6), drawn(4, 16, 6, 6, seed=1)
    model, params = neo.nn.from_torch(module)
    model(params, support)
    assert str(model) == "from_torch(Sequential)" + "".join(
        f"\n  one op: {i}.conv1 + {i}.bn1 + ReLU\n  one op: {i}.conv2 + {i}.bn2" for i in range(2)
    )
    assert_meta_gradients_agree(module, (support,), (query,))


class WrittenThrough(nn.Module):
    """Of many images, a view of them is written to, or they are while the view is held."""

    def __init__(self, write: Any):
        super().__init__()
        self.conv, self.bn, self.write = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn(self.conv(x)))
        if len(x) < 3:
            return y.view(len(y), -1).sum(1)
        return self.write(y)


def view_then_write(y: torch.Tensor) -> torch.Tensor:
    y.view(len(y), -1).mul_(2)  # y is held
    return y.sum((1, 2, 3))


def flatten_then_write(y: torch.Tensor) -> torch.Tensor:
    rows = y.flatten(1)
    rows += 1
    return (rows * y.reshape(len(y), -1)).sum(1)


def write_then_read_the_view(y: torch.Tensor) -> torch.Tensor:
    rows = y.view_as(y.new_empty(len(y), y[0].numel()))
    y[:, 3] = 0
    return rows.sum(1)


def count_in_memory(y: torch.Tensor) -> torch.Tensor:
    return torch.as_strided(y, (len(y), 3), (y[0].numel(), 5)).sum(1)


@pytest.mark.parametrize(
    "write", [view_then_write, flatten_then_write, write_then_read_the_view, count_in_memory]
)
def test_what_is_written_through_a_view_reaches_its_base_in_neo_s_own_layout_too(write: Any) -> None:
    torch.manual_seed(0)
    module = WrittenThrough(write)  # float32, for which Neo has a layout of its own
    model, params = neo.nn.from_torch(module)
    for count, fused in ((2, kernels.available()), (4, False)):
        x = drawn(count, 16, 8, 8).float()
        torch.testing.assert_close(
            model(params, neo.LiteTensor(x)).data, module(x).detach(), rtol=1e-4, atol=1e-2
        )
        assert ("one op" in str(model)) is fused


def test_a_view_that_alone_is_left_may_be_written_to() -> None:
    torch.manual_seed(0)
    module = WrittenThrough(lambda y: F.relu_(y.flatten(1) - 1).sum(1))
    model, params = neo.nn.from_torch(module)
    for count in (2, 4):
        x = drawn(count, 16, 8, 8).float()
        torch.testing.assert_close(
            model(params, neo.LiteTensor(x)).data, module(x).detach(), rtol=1e-4, atol=1e-2
        )
    assert ("one op" in str(model)) is kernels.available()


def hooked(module: Any) -> Any:
    module.conv.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda module: module, {"fused": False}),
        (lambda module: module, {"verify": False}),
        (lambda module: module, {"buffers": "frozen"}),
        (hooked, {}),
    ],
)
def test_what_is_not_to_be_fused_is_not(change: Any, options: Any) -> None:
    torch.manual_seed(0)
    model, params = neo.nn.from_torch(change(Reached(None).double()), **options)
    model(params, drawn(2, 16, 8, 8))
    assert "conv + bn" not in str(model)


def test_float32_runs_on_the_block_s_kernels_and_keeps_the_user_s_weights() -> None:
    torch.manual_seed(0)
    module = Reached(None)
    model, params = neo.nn.from_torch(module)
    x = neo.LiteTensor(torch.randn(2, 16, 8, 8))
    model(params, x)
    names: list[str] = []
    tape = neo.autograd.Tape()
    tape.watch(x)
    neo.autograd.TapeContext.push(tape)
    try:
        model(params, x)
        names = [node.name for node in tape.nodes]
    finally:
        neo.autograd.TapeContext.pop()
    assert ("ConvNormReLUPool" in names) is kernels.available()
    assert params["conv.weight"].data.is_contiguous()


class Convolved(nn.Module):
    """Convolutions without a norm, whose images then lie as Neo has them; `end` makes of them what is given back."""

    def __init__(self, end: Any):
        super().__init__()
        self.first, self.second, self.end = (
            nn.Conv2d(3, 16, 5, 2),
            nn.Conv2d(16, 8, 3, padding=1, groups=2),
            end,
        )

    def forward(self, x: torch.Tensor) -> Any:
        return self.end(torch.relu(self.second(torch.relu(self.first(x)))))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "last"])
def test_images_are_given_back_in_the_layout_of_those_that_came(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    module = Convolved(lambda y: {"images": y, "sums": y.sum((2, 3))})
    model, params = neo.nn.from_torch(module)
    x = drawn(2, 3, 13, 12).float().contiguous(memory_format=layout)
    for _ in range(2):
        out, right = model(params, neo.LiteTensor(x)), module(x)
        assert out["images"].is_contiguous(memory_format=layout)
        assert out["images"].stride() == right["images"].stride()
        for name, value in right.items():
            torch.testing.assert_close(out[name].data, value.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "write", [view_then_write, flatten_then_write, write_then_read_the_view, count_in_memory]
)
def test_images_of_convolutions_alone_may_be_written_through_a_view(write: Any) -> None:
    torch.manual_seed(0)
    module = Convolved(lambda y: y.view(len(y), -1).sum(1) if len(y) < 3 else write(y))
    model, params = neo.nn.from_torch(module)
    for count in (2, 4, 2):
        x = drawn(count, 3, 13, 12).float()
        torch.testing.assert_close(
            model(params, neo.LiteTensor(x)).data, module(x).detach(), rtol=1e-4, atol=1e-2
        )


def test_convolutions_alone_give_torch_s_meta_gradient() -> None:
    torch.manual_seed(0)
    module = Convolved(lambda y: F.max_pool2d(y, 2).flatten(1)).double()
    assert_meta_gradients_agree(module, (drawn(3, 3, 13, 12),), (drawn(4, 3, 13, 12, seed=1),))
