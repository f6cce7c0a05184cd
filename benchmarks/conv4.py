"""Conv4 in torch, as a module and as a function: the network on which the peers are compared with Neo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Downsample = Literal["stride", "max_pool"]
Readout = Literal["mean", "flatten"]


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm, ReLU and halving of the image, then a linear layer.

    Parameters are named conv0.weight, conv0.bias, norm0.weight, norm0.bias, ..., head.weight, head.bias. Batch norm
    always uses the statistics of the batch. As it subtracts the mean, the true gradient of every conv bias is zero.

    Args:
        channels, image_size: of the input, (batch, channels, image_size, image_size).
        filters: output channels of each convolution.
        ways: number of classes, the width of the output.
        downsample: "stride" convolves with stride 2; "max_pool" with stride 1, and pools 2x2 after the ReLU.
        readout: "mean" over space before the linear layer, or "flatten".
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int = 28,
        filters: int = 64,
        ways: int = 5,
        blocks: int = 4,
        downsample: Downsample = "stride",
        readout: Readout = "mean",
    ) -> None:
        super().__init__()
        self.blocks, self.downsample, self.readout = blocks, downsample, readout
        stride = 2 if downsample == "stride" else 1
        size = image_size
        for block in range(blocks):
            inputs = channels if block == 0 else filters
            self.add_module(f"conv{block}", nn.Conv2d(inputs, filters, 3, stride=stride, padding=1))
            self.add_module(f"norm{block}", nn.BatchNorm2d(filters, track_running_stats=False))
            size = (size + 1) // 2 if downsample == "stride" else size // 2
        self.head = nn.Linear(filters * (size * size if readout == "flatten" else 1), ways)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in range(self.blocks):
            x = F.relu(getattr(self, f"norm{block}")(getattr(self, f"conv{block}")(x)))
            if self.downsample == "max_pool":
                x = F.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)) if self.readout == "mean" else x.flatten(1))


def conv4_like(
    params: dict[str, torch.Tensor], image_size: int, downsample: Downsample, readout: Readout
) -> Conv4:
    """A Conv4 of the sizes, dtype and values of params; the values are copied."""
    filters, channels = params["conv0.weight"].shape[:2]
    model = Conv4(
        channels=channels,
        image_size=image_size,
        filters=filters,
        ways=params["head.bias"].shape[0],
        blocks=sum(name.startswith("conv") and name.endswith(".weight") for name in params),
        downsample=downsample,
        readout=readout,
    ).to(params["conv0.weight"])
    model.load_state_dict(params)  # strict: a name or a shape that does not fit raises
    return model


def functional_conv4(
    params: Mapping[str, torch.Tensor], x: torch.Tensor, downsample: Downsample
) -> torch.Tensor:
    """The same network as a function of its parameters, with the mean readout: no module, no call to spare."""
    stride = 2 if downsample == "stride" else 1
    for block in range(sum(name.startswith("conv") and name.endswith(".weight") for name in params)):
        x = F.conv2d(x, params[f"conv{block}.weight"], params[f"conv{block}.bias"], stride, 1)
        scale, shift = params[f"norm{block}.weight"], params[f"norm{block}.bias"]
        x = F.relu(F.batch_norm(x, None, None, scale, shift, training=True))
        if downsample == "max_pool":
            x = F.max_pool2d(x, 2)
    return F.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"])
