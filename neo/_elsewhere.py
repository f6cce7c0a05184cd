"""What torch hangs on tensors and graphs has another place in Neo: which, for the errors that say so.

A LiteTensor is no torch.Tensor and has no graph. Where code written for torch asks one for `x.grad`, calls
`x.backward()` or `torch.autograd.grad(y, x)`, the answer is how the same is done here; where it works in place, the
functional form.
"""

from __future__ import annotations

__all__ = ["ASSIGNED", "ATTRIBUTES", "FUNCTIONS", "IN_PLACE"]

_GRADIENTS = "neo.value_and_grad(f)(x) gives f(x) and its gradients"
_HOOK = (
    "a hook on a gradient is a Policy here: identity in forward, the hook in backward; wrap it with "
    "neo.functions.function and call it on the tensor"
)
_SESSIONS = "what is differentiated is said by a session, neo.grad(f, argnums=...), not by the tensor"

ATTRIBUTES = {
    "backward": f"there is no backward() and no .grad; {_GRADIENTS}",
    "grad": "gradients are what a session returns, as in neo.grad(f)(x)",
    "grad_fn": "who came from whom is known to the tape of an open session, autograd.TapeContext.current()",
    "is_leaf": _SESSIONS,
    "output_nr": "who came from whom is known to the tape of an open session, autograd.TapeContext.current()",
    "register_hook": _HOOK,
    "register_post_accumulate_grad_hook": f"gradients are not accumulated; {_GRADIENTS}",
    "requires_grad_": f"{_SESSIONS}; x.detach() or neo.stop_gradient(x) makes a constant",
    "retain_grad": (
        "no gradient is kept on a tensor; that of an intermediate y = g(x) is neo.grad(h)(g(x)), h being what is done "
        "with y"
    ),
    "retains_grad": "no gradient is kept on a tensor; gradients are what a session returns",
}
"""Attributes and methods of torch.Tensor that a LiteTensor does not have: name -> what to do."""

ASSIGNED = {
    **ATTRIBUTES,
    "data": "a LiteTensor never changes; make a new one, neo.LiteTensor(data)",
    "requires_grad": f"it is always False: {_SESSIONS}",
    **dict.fromkeys(
        ("shape", "dtype", "device", "ndim", "T", "mT"), "a LiteTensor never changes; make a new one of it"
    ),
}
"""Attributes that code written for torch assigns to."""

FUNCTIONS = {
    "torch.autograd.grad": (
        "differentiates torch's graph, which LiteTensors are not on. Differentiate the function: neo.grad(f)(x); "
        "grad_outputs are neo.vjp's cotangents, create_graph is a session around a session"
    ),
    "torch.autograd.backward": f"walks torch's graph, which LiteTensors are not on: {_GRADIENTS}",
    "torch._make_dual": "LiteTensors have no duals: neo.jvp(f, args, tangents), or neo.linearize(f, *args)",
    "torch._unpack_dual": "LiteTensors have no duals: neo.jvp(f, args, tangents), or neo.linearize(f, *args)",
    **{f"torch.Tensor.{name}": words for name, words in ATTRIBUTES.items()},
}
"""torch callables that dispatch to LiteTensors and are no ops, as errors spell them -> what to do."""

IN_PLACE = {
    "apply_": "torch functions on the whole tensor",
    "bernoulli_": "torch.bernoulli(neo.full_like(x, p))",
    "cauchy_": "median + sigma * torch.tan(math.pi * (neo.rand_like(x) - 0.5))",
    "copy_": "the tensor that is copied, source.expand(x.shape).to(x.dtype)",
    "detach_": "x.detach()",
    "exponential_": "torch.log1p(-neo.rand_like(x)) / -lambd",
    "fill_": "neo.full_like(x, value)",
    "fill_diagonal_": "torch.diagonal_scatter(x, neo.full((n,), value, dtype=x.dtype))",
    "geometric_": "torch.ceil(torch.log1p(-neo.rand_like(x)) / math.log1p(-p))",
    "log_normal_": "torch.exp(mean + std * neo.randn_like(x))",
    "map2_": "torch functions on the whole tensors",
    "map_": "torch functions on the whole tensors",
    "normal_": "mean + std * neo.randn_like(x)",
    "polygamma_": "x.polygamma(n)",
    "random_": "neo.randint_like(x, low, high)",
    "resize_": "x.reshape(shape), or padding and slices",
    "resize_as_": "x.reshape(other.shape), or padding and slices",
    "set_": "neo.LiteTensor(source)",
    "share_memory_": "x.data.share_memory_(), which moves the torch tensor behind x",
    "uniform_": "low + (high - low) * neo.rand_like(x)",
    "zero_": "neo.zeros_like(x)",
    "__setitem__": "torch.where(mask, v, x), torch.index_put(x, (i,), v) or torch.scatter(x, dim, index, v)",
}
"""In-place methods whose functional form is not the name without its underscore."""
