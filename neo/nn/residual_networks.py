"""The residual networks of few-shot learning's papers: ResNet-12 and WRN-28-10."""

from __future__ import annotations

from collections.abc import Sequence

from neo.nn.activations import LeakyReLU
from neo.nn.batch_norm import BatchNorm2d, BatchNormReLU
from neo.nn.containers import Residual
from neo.nn.dropout import Dropout
from neo.nn.layers import ChannelsLast, Conv2d, Flatten, Linear, MaxPool2d, SpatialMean
from neo.nn.module import Module, Sequential

__all__ = ["ResNet12", "WideResNet"]

Layers = list[tuple[str, Module]]


class ResNet12(Sequential):
    """Four residual blocks of three 3x3 convolutions, each halving the image; x (n, channels, size, size) → (n, ways).

    A block is max_pool2(leaky(f(x) + s(x))): f three convolutions with batch norm, leaky ReLU of slope 0.1 after the
    first two, s a 1x1 convolution with batch norm. Without the head it is an embedding: x → (n, filters[-1]).
    Oreshkin et al. 2018, arXiv:1805.10123 (64, 128, 256, 512 filters); Lee et al. 2019, arXiv:1904.03758 (64, 160, 320,
    640), whose DropBlock is left out.

    Args:
        ways: classes of a task, the outputs of the head. None: no head, the outputs are what it would see.
        channels: of the images.
        size: height and width of the images in pixels, at least 2 for each block: 16.
        filters: of each block.
        head: what the linear layer sees, "mean" over space or "flatten" (MetaOptNet's features).
    Params: block0.body.conv0.weight (filters, channels, 3, 3), block0.body.norm0.weight and .bias, ...,
        block0.shortcut.conv.weight, block0.shortcut.norm.weight and .bias, ..., head.weight, head.bias; convolutions
        have no bias. W: Glorot uniform.
    Cost: 12.4 million parameters with Lee's filters, 8.0 million with Oreshkin's.
    """

    def __init__(
        self,
        ways: int | None,
        channels: int = 3,
        size: int = 84,
        filters: Sequence[int] = (64, 160, 320, 640),
        head: str = "mean",
    ):
        _expect_counts("ResNet12", channels=channels, size=size, ways=1 if ways is None else ways)
        if not filters or any(not isinstance(count, int) or count < 1 for count in filters):
            raise ValueError(
                f"ResNet12: filters must be one or more integers of 1 or more, got {list(filters)}"
            )
        if head not in ("mean", "flatten"):
            raise ValueError(f"ResNet12: head must be one of 'mean', 'flatten', got {head!r}")
        least = 2 ** len(filters)
        if size < least:
            raise ValueError(
                f"ResNet12: {len(filters)} blocks halve an image of {size} pixels to nothing; expected size={least} or "
                "more"
            )
        layers: Layers = [("layout", ChannelsLast())]
        inputs = channels
        for i, outputs in enumerate(filters):
            layers += [
                (f"block{i}", _leaky_block(inputs, outputs)),
                (f"relu{i}", LeakyReLU(0.1)),
                (f"pool{i}", MaxPool2d(2)),
            ]
            inputs, size = outputs, size // 2
        layers.append(("features", SpatialMean() if head == "mean" else Flatten()))
        if ways is not None:
            layers.append(("head", Linear(inputs if head == "mean" else inputs * size * size, ways)))
        super().__init__(layers)


class WideResNet(Sequential):
    """A wide residual network, WRN-28-10 by default: x (n, channels, height, width) → (n, ways).

    A 3x3 convolution of 16 filters, three groups of (depth − 4) / 6 pre-activation blocks with 16, 32 and 64 times
    `width` filters, the second and third of which halve the image, then batch norm, ReLU and the mean over space.
    Without the head it is an embedding: x → (n, 64 · width). Zagoruyko and Komodakis 2016, arXiv:1605.07146, section 2;
    as Mangla et al. 2020, arXiv:1907.12087, have it for few-shot learning.

    Args:
        ways: classes of a task, the outputs of the head. None: no head.
        channels: of the images, of any size.
        depth: of convolutions, 4 more than a multiple of 6.
        width: by which filters are multiplied.
        dropout: probability with which an entry between the convolutions of a block is dropped in training.
    Params: conv.weight, then of a block that changes the filters norm0.weight, norm0.bias, block0.body.conv0.weight,
        block0.body.norm1.weight, block0.body.norm1.bias, block0.body.conv1.weight, block0.shortcut.weight, of the
        others all below block1.body; norm.weight, norm.bias, head.weight, head.bias. Convolutions have no bias. W:
        Glorot uniform.
    Cost: 36.5 million parameters for WRN-28-10.
    """

    def __init__(
        self, ways: int | None, channels: int = 3, depth: int = 28, width: int = 10, dropout: float = 0.0
    ):
        _expect_counts("WideResNet", channels=channels, width=width, ways=1 if ways is None else ways)
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(
                f"WideResNet: depth must be 4 more than a multiple of 6, as 10, 16, 28; got {depth}"
            )
        layers: Layers = [("layout", ChannelsLast()), ("conv", _conv(channels, 16))]
        inputs = 16
        for i in range(3 * blocks):
            group, first = i // blocks, i % blocks == 0
            outputs = 16 * width * 2**group
            stride = 2 if first and group else 1
            # Where the filters change, the shortcut sees the activation too, which then stands before the block.
            changes = stride != 1 or inputs != outputs
            activation = BatchNormReLU(inputs)
            body = Sequential(
                [
                    *([] if changes else [("norm0", activation)]),
                    ("conv0", _conv(inputs, outputs, stride=stride)),
                    ("norm1", BatchNormReLU(outputs)),
                    ("dropout", Dropout(dropout)),
                    ("conv1", _conv(outputs, outputs)),
                ]
            )
            layers += [(f"norm{i}", activation)] if changes else []
            shortcut = _conv(inputs, outputs, kernel=1, stride=stride) if changes else None
            layers.append((f"block{i}", Residual(body, shortcut)))
            inputs = outputs
        layers += [("norm", BatchNormReLU(inputs)), ("features", SpatialMean())]
        if ways is not None:
            layers.append(("head", Linear(inputs, ways)))
        super().__init__(layers)


def _leaky_block(inputs: int, outputs: int) -> Residual:
    """f(x) + s(x) of ResNet-12."""
    body: Layers = []
    for i in range(3):
        body += [
            (f"conv{i}", _conv(inputs if i == 0 else outputs, outputs)),
            (f"norm{i}", BatchNorm2d(outputs)),
            (f"relu{i}", LeakyReLU(0.1)),
        ]
    shortcut = Sequential([("conv", _conv(inputs, outputs, kernel=1)), ("norm", BatchNorm2d(outputs))])
    return Residual(Sequential(body[:-1]), shortcut)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Conv2d:
    """A convolution that keeps the image's size, but for the stride; batch norm follows, so that a bias is nothing."""
    return Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, channels_last=True)


def _expect_counts(owner: str, **counts: int) -> None:
    if min(counts.values()) < 1:
        said = ", ".join(f"{name}={count}" for name, count in counts.items())
        raise ValueError(f"{owner}: {', '.join(counts)} must be at least 1, got {said}")
