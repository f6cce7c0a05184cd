"""The op library: one Policy an op, grouped by subject. `neo.functions.<name>`, torch functions, methods and operators
on LiteTensors all lead to the same implementation."""

from neo.autograd._function import function
from neo.functions import (  # noqa: F401  (importing a subject registers its ops)
    activations,
    arithmetic,
    casting,
    comparison,
    compound,
    contraction,
    convolution,
    elementwise,
    extremes,
    foreach,
    fused,
    indexing,
    joining,
    linalg,
    losses,
    normalization,
    padding,
    piecewise,
    pooling,
    reduction,
    scattering,
    shaping,
    softmaxes,
    transcendental,
)
from neo.functions.registry import implements, supported

__all__ = ["function", "implements", "supported"]
