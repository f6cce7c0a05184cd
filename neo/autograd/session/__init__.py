"""Sessions: what differentiates a function. Each owns a tape, runs the function on it, and drops it.

reverse.py has the session itself; the other files are what is built from sessions. All of it is found here, under one
name: autograd.session.value_and_grad, autograd.session.jvp, ...
"""

from neo.autograd.session.batching import vmap
from neo.autograd.session.check import gradcheck
from neo.autograd.session.checkpointing import checkpoint
from neo.autograd.session.custom import custom_gradient
from neo.autograd.session.jacobians import hessian, jacobian
from neo.autograd.session.reverse import grad, stop_gradient, value_and_grad, vjp
from neo.autograd.session.taylor import jet
from neo.autograd.session.transforms import hvp, jvp, linearize

__all__ = [
    "checkpoint",
    "custom_gradient",
    "grad",
    "gradcheck",
    "hessian",
    "hvp",
    "jacobian",
    "jet",
    "jvp",
    "linearize",
    "stop_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
]
