"""The settings each contender is tried at; the fastest counts."""

from __future__ import annotations

import itertools

import torch

from benchmarks.networks import NETWORKS
from benchmarks.step import Setting
from benchmarks.works import MetaModule, Work

__all__ = ["ALLOCATOR", "contenders", "describe", "environment", "settings"]

# glibc gives a freed block above the first threshold back to the kernel at once, and the top of its heap above the
# second; the page faults of fetching them anew cost more than the arithmetic. As neo.runtime.keep_freed_memory.
ALLOCATOR: dict[str, dict[str, str]] = {
    "default": {},
    "raised": {
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
        "MALLOC_ARENA_MAX": "1",
    },
}
Options = dict[str, tuple[str, ...]]  # option → values
LAYOUT: Options = {"layout": ("contiguous", "channels_last")}
DERIVATIVES: Options = {"derivatives": ("reverse", "forward")}  # by what the equation is written
TAYLOR: Options = {"derivatives": ("reverse", "forward", "taylor")}  # torch.func has no Taylor mode
IN_JAX = ("sinusoid",)  # networks of MetaModule that peers/jax.py has
GRIDS: dict[str, dict[str, Options]] = {  # kind of work → contender
    "meta_step": {
        "neo": LAYOUT,
        "learn2learn": LAYOUT,
        "higher": LAYOUT,
        "torch": LAYOUT,
        "torch_func_loop": LAYOUT,
        "torch_func_vmap": {**LAYOUT, "chunk": ("4", "all")},  # tasks batched into one kernel call
        "jax": {**LAYOUT, "tasks": ("map", "vmap")},
    },
    "meta_module": {  # with LAYOUT where there are images, DERIVATIVES where there is an equation
        "neo": {},
        "learn2learn": {},
        "higher": {},
        "torch": {},
        "torch_func_loop": {},
        "torch_func_vmap": {"chunk": ("4", "all")},
        "jax": {"tasks": ("map", "vmap")},
    },
    "training": {"neo": {}, "torch": {"sgd": ("loop", "foreach", "fused")}},
    "chain": {"neo": {}, "neo_functions": {}, "torch": {"call": ("grad", "backward")}},
    "draws": {"neo": {}, "learn2learn": {}, "learn2learn_in_memory": {}},
    "unroll": {"neo": {}},
}


def contenders(work: Work) -> list[str]:
    """Who takes part in a work, Neo first."""
    in_jax = not isinstance(work, MetaModule) or work.network in IN_JAX
    return [peer for peer in GRIDS[work.kind] if peer != "jax" or in_jax]


def settings(work: Work, peer: str, device: str, quick: bool = False) -> list[Setting]:
    """Every combination of a contender's options; quick: the first alone."""
    options = dict(GRIDS[work.kind][peer])
    if isinstance(work, MetaModule):
        network = NETWORKS[work.network]
        if len(network.shape(work.width, work.size)) == 3:
            options |= LAYOUT
        if network.learns == "equation" and peer in ("neo", "torch_func_loop", "torch_func_vmap"):
            options |= TAYLOR if peer == "neo" else DERIVATIVES
    if device == "cpu" and peer != "jax":  # JAX brings its own allocator
        options["allocator"] = tuple(ALLOCATOR)
    if work.kind in ("meta_step", "meta_module") and peer == "neo":
        # none: one task at a time, on torch's own number of threads; that number: so many at once, of one thread each;
        # batched: all in one call of each kernel, which on a CPU costs conv-4 Neo's own kernels.
        threads = torch.get_num_threads()
        side_by_side = (str(threads),) if device == "cpu" and threads > 1 else ()
        batched = ("batched",) if work.kind == "meta_module" or device != "cpu" else ()
        options["workers"] = ("none", *side_by_side, *batched)
        if device == "cpu":  # neo.capture: the kernel calls of one meta-step, replayed; it records one thread
            options["capture"] = ("no", "yes")
    grid: list[Setting] = [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]
    grid = [one for one in grid if one.get("capture") != "yes" or one["workers"] in ("none", "batched")]
    return grid[:1] if quick else grid


def environment(setting: Setting) -> dict[str, str]:
    """The environment variables that a setting asks for."""
    return ALLOCATOR[setting.get("allocator", "default")]


def describe(setting: Setting) -> str:
    """{"layout": "channels_last", "allocator": "raised"} → "layout channels-last, allocator raised"."""
    return (
        ", ".join(f"{option} {value}".replace("_", "-") for option, value in setting.items())
        or "the only one"
    )
