"""Two-dimensional convolutions in groups and their gradients: on Neo's own kernels, or None where torch serves.

They are Neo's where `use_groups` has named them (group_convolution.h): float32 and float64 images channels-last on the
CPU, as many channels out as in, in groups that fill a vector (of AVX-512 1, 2, 4, 8 or 16 float32 channels), and at
least a vector of channels; any size, stride, padding and dilation. Cost: 2 n h w channels (channels / groups) kh kw
operations each, less the taps that fall outside. Numbers differ from torch's by rounding alone.
geometry: as in neo/functions/convolution.py.
"""

from __future__ import annotations

from typing import Any

from neo.kernels.direct import bound

__all__ = ["convolution", "input_gradient", "weight_gradient"]


def _by_torch(*arguments: Any) -> None:
    return None


convolution = bound("group_convolution", _by_torch)
"""(x (n, channels, h, w), weight (channels, channels / groups, kh, kw), bias (channels,) or None, geometry)
→ x ∗ weight + bias."""
input_gradient = bound("group_input_gradient", _by_torch)
"""(g, weight, (shape, strides) of x, geometry) → the gradient of x from that of x ∗ weight."""
weight_gradient = bound("group_weight_gradient", _by_torch)
"""(x, g, shape of the weight, geometry) → the gradient of the weight from that of x ∗ weight."""
