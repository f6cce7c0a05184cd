"""The op library: one Policy an op, grouped by subject. `neo.functions.<name>`, torch functions, methods and operators
on LiteTensors all lead to the same implementation."""

from neo.autograd._function import function
from neo.functions import (  # noqa: F401  (importing a subject registers its ops)
    activations,
    arithmetic,
    attention,
    casting,
    comparison,
    compound,
    contraction,
    convolution,
    distances,
    dropout,
    elementwise,
    embedding,
    extremes,
    foreach,
    fused,
    grid_sampling,
    indexing,
    joining,
    likelihoods,
    linalg,
    losses,
    margin_losses,
    normalization,
    padding,
    piecewise,
    pooling,
    reduction,
    resampling,
    scattering,
    shaping,
    softmaxes,
    transcendental,
    windows,
)
from neo.functions.registry import implements, supported

__all__ = ["function", "implements", "supported"]
