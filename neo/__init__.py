"""Neo: meta-learning on an eager functional reverse-mode autodiff engine. The gradient is yours to define.

    out, grads = neo.value_and_grad(fn)(x, y)      # grads: {x: dx, y: dy}

See autograd.Policy for a gradient rule of your own, neo.functions for the op library, neo.nn and neo.optim for models
and optimisers, and the package `meta` for MAML.
"""

from neo import autograd, functions, linear, nn, optim, pytree, runtime
from neo._custom_functions import install as _answer_custom_functions
from neo._torch_entry_points import install as _answer_torch_entry_points
from neo.autograd.session import (
    checkpoint,
    custom_gradient,
    grad,
    gradcheck,
    hessian,
    hvp,
    jacobian,
    jet,
    jvp,
    linearize,
    stop_gradient,
    value_and_grad,
    vjp,
    vmap,
)
from neo.autograd.tensor import LiteTensor
from neo.capture import capture
from neo.creation import (
    arange,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    manual_seed,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    tensor,
    zeros,
    zeros_like,
)
from neo.errors import (
    CaptureError,
    ConvergenceError,
    ConvergenceWarning,
    ConversionError,
    DrawError,
    GradcheckError,
    GradientError,
    InPlaceError,
    NeoError,
    SavedTensorError,
)
from neo.implicit_differentiation import implicit

_answer_custom_functions()
_answer_torch_entry_points()

__version__ = "0.2.0"

__all__ = [
    "CaptureError",
    "ConvergenceError",
    "ConvergenceWarning",
    "ConversionError",
    "DrawError",
    "GradcheckError",
    "GradientError",
    "InPlaceError",
    "LiteTensor",
    "NeoError",
    "SavedTensorError",
    "arange",
    "autograd",
    "capture",
    "checkpoint",
    "custom_gradient",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "functions",
    "grad",
    "gradcheck",
    "hessian",
    "hvp",
    "implicit",
    "jacobian",
    "jet",
    "jvp",
    "linear",
    "linearize",
    "linspace",
    "manual_seed",
    "nn",
    "ones",
    "ones_like",
    "optim",
    "pytree",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "runtime",
    "stop_gradient",
    "tensor",
    "value_and_grad",
    "vjp",
    "vmap",
    "zeros",
    "zeros_like",
]
