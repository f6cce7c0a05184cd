"""The models of few-shot learning's standard benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from neo.functions import chosen_statistics
from neo.functions.fused import conv_block
from neo.functions.perceptron import perceptron
from neo.nn.batch_norm import BatchNorm2d, BatchNormReLU
from neo.nn.convolution import ConvTranspose2d
from neo.nn.layers import (
    ChannelsLast,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    SpatialMean,
)
from neo.nn.module import Module, Sequential
from neo.typing import Params

__all__ = ["MLP", "Conv4", "FullyConvolutional"]

BLOCK_PARAMS = ("conv{}.weight", "conv{}.bias", "norm{}.weight", "norm{}.bias")


class MLP(Sequential):
    """Linear layers with ReLU between them: MLP(784, 256, 64, 10). x (batch, ...) is flattened first.

    Without a norm all layers are one op (neo/functions/perceptron.py), under torch.autocast one after the other.

    Args:
        sizes: of an input, of each hidden layer, of an output.
        norm: batch norm by the batch at hand before each ReLU, as the MAML paper's net for Omniglot has it (Finn et al.
            2017, arXiv:1703.03400, section 5.2: 784, 256, 128, 64, 64, 5).
        scale: whether batch norm learns a scale γ (that net learns the shift alone).
    Params: linear0.weight (256, 784), linear0.bias, then norm0.weight, norm0.bias where there is a norm, ...
    """

    def __init__(self, *sizes: int, norm: bool = False, scale: bool = True):
        if len(sizes) < 2:
            raise ValueError(f"MLP: expected at least an input and an output size, got {sizes}")
        layers: list[tuple[str, Module]] = [("flatten", Flatten())]
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            layers.append((f"linear{i}", Linear(inputs, outputs)))
            layers.append((f"norm{i}", BatchNormReLU(outputs, scale)) if norm else (f"relu{i}", ReLU()))
        super().__init__(layers[:-1])
        count = len(sizes) - 1
        self._kinds = "" if norm else "r" * (count - 1) + "-"  # of the layers as one op
        self._names = [f"linear{i}.{kind}" for kind in ("weight", "bias") for i in range(count)]

    def __call__(self, params: Params, x: Any) -> Any:
        layers = [params.get(name) for name in self._names] if self._kinds else [None]
        if any(layer is None for layer in layers):
            return self.run(params, x)
        return perceptron(self._kinds, x if x.ndim == 2 else x.flatten(1), *layers)


class Conv4(Sequential):
    """Four blocks of 3x3 convolution, batch norm and ReLU, then a linear head: x (n, channels, size, size) → (n, ways).

    Without the head it is an embedding: x → (n, features), 64 of 28x28 images with the defaults.

    Vinyals et al. 2016, arXiv:1606.04080; MAML's variants: Finn et al. 2017, arXiv:1703.03400, section 5.2.

    Args:
        ways: classes of a task, the outputs of the head. None: no head, the outputs are what it would see.
        channels: of the images (1 for Omniglot).
        size: height and width of the images in pixels.
        hidden: filters of each convolution.
        pool: "stride" halves the image by convolutions of stride 2 (the MAML paper on Omniglot), "max" by 2x2 max
            pooling after the ReLU (Matching Networks, MAML++).
        head: what the linear layer sees, "mean" over space (MAML paper) or "flatten" (learn2learn, MAML++).
        fused: channels-last images, and batch norm, ReLU and pooling as one op; on the CPU, where `hidden` fills the
            vectors of Neo's own kernels, a whole block (neo.kernels; a task then runs on one thread). False composes
            torch's functions plainly on contiguous images: the same function, slower. In float32 the two round apart,
            and where that turns a ReLU or a maximum over, a meta-gradient moves by some 1e-4 of its size.
        scale: whether batch norm learns a scale γ (the MAML paper's Omniglot net learns the shift alone).
    Params: conv0.weight (hidden, channels, 3, 3), conv0.bias, norm0.weight, norm0.bias, ..., head.weight, head.bias
        where there is a head.
    """

    def __init__(
        self,
        ways: int | None,
        channels: int = 1,
        size: int = 28,
        hidden: int = 64,
        pool: str = "stride",
        head: str = "mean",
        scale: bool = True,
        blocks: int = 4,
        fused: bool = True,
    ):
        if min(1 if ways is None else ways, channels, hidden, blocks) < 1:
            raise ValueError(
                f"Conv4: ways, channels, hidden and blocks must be at least 1, got ways={ways}, channels={channels}, "
                f"hidden={hidden}, blocks={blocks}"
            )
        _expect("pool", pool, ("stride", "max"))
        _expect("head", head, ("mean", "flatten"))
        layers: list[tuple[str, Module]] = [("layout", ChannelsLast())] if fused else []
        stride = 2 if pool == "stride" else 1
        for i in range(blocks):
            inputs = channels if i == 0 else hidden
            layers.append((f"conv{i}", Conv2d(inputs, hidden, stride=stride, padding=1, channels_last=fused)))
            if fused:
                layers.append(
                    (f"norm{i}", BatchNormReLU(hidden, scale=scale, pool=2 if pool == "max" else None))
                )
            else:
                layers += [(f"norm{i}", BatchNorm2d(hidden, scale=scale)), (f"relu{i}", ReLU())]
                layers += [(f"pool{i}", MaxPool2d(2))] if pool == "max" else []
            size = (size + 1) // 2 if pool == "stride" else size // 2
            if size < 1:
                raise ValueError(
                    f"Conv4: the image is used up after {i + 1} blocks; expected size of 2^{blocks} or more"
                )
        self._window = (stride, 2 if pool == "max" else 1)
        self._fused = [[name.format(i) for name in BLOCK_PARAMS] for i in range(blocks)] if fused else []
        features = hidden if head == "mean" else hidden * size * size
        layers.append(("features", SpatialMean() if head == "mean" else Flatten()))
        if ways is not None:
            layers.append(("head", Linear(features, ways)))
        super().__init__(layers)

    def __call__(self, params: Params, x: Any) -> Any:
        done = 0  # layers: the layout and two for each block; once one is not for the kernels, all go layer by layer
        for names in () if chosen_statistics.chosen() else self._fused:
            weight, bias, gamma, beta = (params.get(name) for name in names)
            block = conv_block(x, weight, bias, gamma, beta, *self._window)
            if block is None:
                break
            x, done = block, done + 2 if done else 3
        return self.run(params, x, first=done)


class FullyConvolutional(Sequential):
    """Logits for each pixel: x (n, channels, height, width) → (n, ways + 1, height, width), class 0 the background.

    Three 3x3 convolutions with batch norm and ReLU, of which the second and third halve the image, two transposed ones
    that double it again, and a 1x1 convolution. After Long, Shelhamer, Darrell 2015, arXiv:1411.4038, without what is
    skipped there.

    Args:
        ways: classes of a task besides the background, ≥ 1.
        channels: of the images.
        hidden: filters of each convolution.
    Raises: ValueError for images whose height or width is no multiple of 4.
    """

    def __init__(self, ways: int, channels: int = 3, hidden: int = 32):
        if min(ways, channels, hidden) < 1:
            raise ValueError(
                f"FullyConvolutional: ways, channels and hidden must be at least 1, got {ways}, {channels}, {hidden}"
            )
        layers: list[tuple[str, Module]] = []
        for i, stride in enumerate((1, 2, 2)):
            inputs = channels if i == 0 else hidden
            layers.append((f"conv{i}", Conv2d(inputs, hidden, stride=stride, padding=1)))
            layers.append((f"norm{i}", BatchNormReLU(hidden)))
        for i in range(2):
            layers.append((f"up{i}", ConvTranspose2d(hidden, hidden, 4, stride=2, padding=1)))
            layers.append((f"norm{3 + i}", BatchNormReLU(hidden)))
        super().__init__([*layers, ("head", Conv2d(hidden, ways + 1, kernel=1))])

    def __call__(self, params: Params, x: Any) -> Any:
        if x.ndim != 4 or x.shape[2] % 4 or x.shape[3] % 4:
            raise ValueError(
                f"FullyConvolutional: expected images (n, channels, height, width) of a height and width that 4 "
                f"divides, got {tuple(x.shape)}"
            )
        return super().__call__(params, x)


def _expect(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"Conv4: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
