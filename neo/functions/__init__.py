"""The op library: one Policy an op, grouped by subject. `neo.functions.<name>`, torch functions, methods and operators
on LiteTensors all lead to the same implementation."""

from neo.autograd._function import function
from neo.functions.registry import implements, supported
from neo.functions import (  # noqa: F401, I001  (importing a subject registers its ops)
    elementwise,
    transcendental,
    compound,
    piecewise,
    comparison,
    shaping,
    joining,
    indexing,
    casting,
    reduction,
    linalg,
    convolution,
    pooling,
    normalization,
    activations,
    losses,
)

__all__ = ["function", "implements", "supported"]
