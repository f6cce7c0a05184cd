"""JAX, jit-compiled: in an environment of its own (make bench-jax), so this imports nothing of torch or Neo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.step import Arrays, NotInstalled, Spec, Step

__all__ = ["meta_step"]

AXES = {"contiguous": ("NCHW", "OIHW", "NCHW"), "channels_last": ("NHWC", "HWIO", "NHWC")}


def meta_step(spec: Spec) -> Step:
    """grad inside grad, mapped over the tasks; setting: tasks (map: lax.map; vmap), layout of images and weights."""
    try:
        import jax
    except ImportError as error:
        raise NotInstalled(f"jax is not installed ({error}); run make bench-jax") from None
    import jax.numpy as jnp

    work = spec.work
    dtype = spec.setting.get("dtype", "float32")
    jax.config.update("jax_enable_x64", dtype == "float64")
    last = spec.setting.get("layout") == "channels_last"

    def placed(name: str, array: np.ndarray) -> Any:
        if last and array.ndim >= 4:
            array = array.transpose(2, 3, 1, 0) if name.startswith("params/") else np.moveaxis(array, -3, -1)
        return jnp.asarray(array, dtype if array.dtype.kind == "f" else "int32")

    with np.load(spec.problem) as arrays:
        params = {name[7:]: placed(name, arrays[name]) for name in arrays if name.startswith("params/")}
        stacked = tuple(
            placed(name, arrays[name]) for name in ("support_x", "support_y", "query_x", "query_y")
        )
    perceptron = work["kind"] == "meta_module"
    forward = _perceptron if perceptron else _conv4(work, AXES[spec.setting["layout"]])

    def loss(params: Any, x: Any, y: Any) -> Any:
        if perceptron:
            return jnp.square(forward(params, x) - y).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(params, x)), y[:, None], 1).mean()

    def query_loss(params: Any, task: Any) -> Any:
        sx, sy, qx, qy = task
        for _ in range(work["inner_steps"]):
            gradient = jax.grad(loss)(params, sx, sy)
            params = jax.tree.map(lambda p, g: p - work["inner_lr"] * g, params, gradient)
        return loss(params, qx, qy)

    of_task = jax.value_and_grad(query_loss)

    @jax.jit
    def of_tasks(params: Any, stacked: Any) -> Any:
        one = lambda task: of_task(params, task)  # noqa: E731
        out = jax.vmap(one)(stacked) if spec.setting["tasks"] == "vmap" else jax.lax.map(one, stacked)
        return jax.tree.map(lambda leaf: leaf.mean(0), out)

    def result(out: Any) -> Arrays:
        loss, gradient = out
        found = {name: np.asarray(leaf) for name, leaf in gradient.items()}
        if last:
            found = {
                name: leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf for name, leaf in found.items()
            }
        return {"loss": np.asarray(loss), **found}

    return Step(lambda: jax.block_until_ready(of_tasks(params, stacked)), result)


def _perceptron(params: Any, x: Any) -> Any:
    """Linear layers "0", "2", "4", ... with ReLUs between them, as in a torch.nn.Sequential."""
    import jax

    layers = range(0, len(params), 2)  # a weight and a bias each
    for layer in layers:
        x = (jax.nn.relu(x) if layer else x) @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]
    return x


def _conv4(work: Any, axes: tuple[str, str, str]) -> Callable[[Any, Any], Any]:
    import jax
    from jax import lax

    space = (axes[0].index("H"), axes[0].index("W"))
    over = (0, *space)
    stride = 2 if work["pool"] == "stride" else 1
    window = tuple(2 if axis in space else 1 for axis in range(4))
    channel = tuple(-1 if axis == "C" else 1 for axis in axes[0])

    def forward(params: Any, x: Any) -> Any:
        for block in range(sum(name.startswith("conv") and name.endswith(".weight") for name in params)):
            x = lax.conv_general_dilated(
                x, params[f"conv{block}.weight"], (stride, stride), ((1, 1), (1, 1)), dimension_numbers=axes
            )
            x = x + params[f"conv{block}.bias"].reshape(channel)
            mean, variance = x.mean(over, keepdims=True), x.var(over, keepdims=True)
            scale, shift = params[f"norm{block}.weight"], params[f"norm{block}.bias"]
            x = (x - mean) * lax.rsqrt(variance + 1e-5) * scale.reshape(channel) + shift.reshape(channel)
            x = jax.nn.relu(x)
            if work["pool"] == "max":
                x = lax.reduce_window(x, -np.inf, lax.max, window, window, "VALID")
        return x.mean(space) @ params["head.weight"].T + params["head.bias"]

    return forward
