"""The arithmetic of a work: what a convolution rate is a fraction of."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.works import MetaStep

__all__ = ["Layer", "layers", "meta_step_flops"]

IMAGE = 28  # pixels, height and width


class Layer(NamedTuple):
    """A 3x3 convolution with padding 1, or the linear head (size 1, kernel 1)."""

    inputs: int  # channels
    outputs: int
    size: int  # height and width of the image that comes out
    stride: int
    kernel: int

    @property
    def flops(self) -> int:
        """Of the forward pass of one image: a multiplication and an addition for each weight and output pixel."""
        return 2 * self.inputs * self.outputs * self.kernel**2 * self.size**2


def layers(work: MetaStep) -> list[Layer]:
    """The layers of the work's conv-4 that multiply, first to last; all else is counted as free."""
    found, size, inputs = [], IMAGE, 1
    for _ in range(4):
        stride = 2 if work.pool == "stride" else 1
        size = (size + 1) // 2 if work.pool == "stride" else size
        found.append(Layer(inputs, work.hidden, size, stride, 3))
        size, inputs = (size if work.pool == "stride" else size // 2), work.hidden
    return [*found, Layer(work.hidden, work.ways, 1, 1, 1)]


def meta_step_flops(work: MetaStep) -> int:
    """Multiplications and additions of one second-order meta-step, at the least that the chain rule needs.

    In units of a layer's forward pass F, for each image:
      query:    F forward, F for the weights' gradient, F for the input's: 3 F (first layer: 2 F, images need none).
      support, each inner step: the same 3 F (first layer: 2 F), and the way back through it: the weights' gradient
        is a product of input and cotangent, so it gives a gradient to each, 2 F; likewise the input's gradient,
        2 F; and the forward pass, 2 F: 9 F in all. In the first layer the image needs no gradient and is given
        none: F for the cotangent, F for the forward pass's weights: 4 F in all.
    """
    first, *rest = layers(work)
    support, query = work.ways * work.shots, work.ways * work.queries
    of_rest = sum(layer.flops for layer in rest)
    of_support = work.inner_steps * support * (9 * of_rest + 4 * first.flops)
    of_query = query * (3 * of_rest + 2 * first.flops)
    return work.meta_batch * (of_support + of_query)
