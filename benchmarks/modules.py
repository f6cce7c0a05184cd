"""Modules written in torch, converted, against torch itself: python -m benchmarks.modules [network ...]

The second-order meta-gradient of one task, 5 support and 25 query examples, one inner step, float32; one thread unless
THREADS says otherwise. Neo differentiates neo.nn.from_torch(module); torch the module by double backward, and by
torch.func, in the memory layout given by the user (contiguous) and in channels-last. The contenders take turns; their
meta-gradients are compared first. A ratio is torch's time over Neo's, the median over the rounds; so are the counts.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import neo
from benchmarks.networks import NETWORKS, WAYS, Network

ROUNDS = int(os.environ.get("ROUNDS", "15"))
THREADS = int(os.environ.get("THREADS", "1"))
LR, SUPPORT, QUERY = 0.05, 5, 25
Gradient = dict[str, torch.Tensor]


def data(network: Network, seed: int) -> list[torch.Tensor]:
    """Support x and y, query x and y."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for count in (SUPPORT, QUERY):
        found.append(torch.randn((count, *network.shape), generator=generator))
        found.append(
            torch.randn((count, 1), generator=generator) if network.regression else torch.arange(count) % WAYS
        )
    return found


def loss_of(network: Network) -> Callable[[Any, Any], Any]:
    return F.mse_loss if network.regression else F.cross_entropy


def with_neo(network: Network, module: torch.nn.Module) -> Callable[[], Gradient]:
    model, params = neo.nn.from_torch(module)
    support_x, support_y, query_x, query_y = data(network, 0)
    loss = loss_of(network)

    def of_support(params: Any) -> Any:
        return loss(model(params, support_x), support_y)

    def of_query(params: Any) -> Any:
        gradient = neo.grad(of_support, argnums=0)(params)
        adapted = {name: params[name] - LR * gradient[name] for name in params}
        return loss(model(adapted, query_x), query_y)

    def run() -> Gradient:
        return {name: g.data for name, g in neo.grad(of_query, argnums=0)(params).items()}

    return run


def with_torch(
    network: Network, module: torch.nn.Module, layout: torch.memory_format
) -> Callable[[], Gradient]:
    support_x, support_y, query_x, query_y = (
        x.contiguous(memory_format=layout) if x.ndim == 4 else x for x in data(network, 0)
    )
    loss = loss_of(network)
    params = {
        name: (p.detach().contiguous(memory_format=layout) if p.ndim == 4 else p.detach()).requires_grad_()
        for name, p in module.named_parameters()
    }

    def call(params: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, params, (x,))

    def run() -> Gradient:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second order
            inner = loss(call(params, support_x), support_y)
            grads = torch.autograd.grad(inner, list(params.values()), create_graph=True)
            adapted = {name: p - LR * g for (name, p), g in zip(params.items(), grads, strict=True)}
            outer = loss(call(adapted, query_x), query_y)
            return dict(zip(params, torch.autograd.grad(outer, list(params.values())), strict=True))

    return run


def with_torch_func(network: Network, module: torch.nn.Module) -> Callable[[], Gradient]:
    support_x, support_y, query_x, query_y = data(network, 0)
    loss = loss_of(network)
    params = {name: p.detach() for name, p in module.named_parameters()}

    def of_support(params: Any) -> Any:
        return loss(torch.func.functional_call(module, params, (support_x,)), support_y)

    def of_query(params: Any) -> Any:
        grads = torch.func.grad(of_support)(params)
        adapted = {name: p - LR * grads[name] for name, p in params.items()}
        return loss(torch.func.functional_call(module, adapted, (query_x,)), query_y)

    def run() -> Gradient:
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.grad(of_query)(params)

    return run


def measured(run: Callable[[], Gradient]) -> tuple[float, float, int]:
    """Seconds on the wall, seconds of the process's processor time, minor page faults."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return (
        time.perf_counter() - wall,
        time.process_time() - cpu,
        resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
    )


def compare(name: str) -> None:
    network = NETWORKS[name]
    torch.manual_seed(0)
    module = network.build()
    contenders = {
        "neo": with_neo(network, module),
        "torch": with_torch(network, module, torch.contiguous_format),
        "torch, channels-last": with_torch(network, module, torch.channels_last),
        "torch.func": with_torch_func(network, module),
    }
    if len(network.shape) != 3:
        del contenders["torch, channels-last"]
    expected = contenders["torch"]()
    scale = max(float(g.abs().max()) for g in expected.values())
    errors = {}
    for peer, run in contenders.items():
        gradient = run()
        errors[peer] = max(float((gradient[key] - g).abs().max()) for key, g in expected.items()) / scale
    found: dict[str, list[tuple[float, float, int]]] = {peer: [] for peer in contenders}
    for _ in range(ROUNDS):
        for peer, run in contenders.items():
            found[peer].append(measured(run))
    own = found["neo"]
    for peer, spent in found.items():
        wall, cpu, faults = (statistics.median(turn[i] for turn in spent) for i in range(3))
        ratio = statistics.median(t[1] / n[1] for t, n in zip(spent, own, strict=True))
        times = f"{1e3 * wall:.1f} | {1e3 * cpu:.1f} | {ratio:.2f}"
        print(f"| {name} | {peer} | {times} | {faults:.0f} | {errors[peer]:.0e} |", flush=True)


def main() -> None:
    torch.set_num_threads(THREADS)
    print("| network | contender | wall, ms | processor, ms | × Neo | page faults | difference |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in sys.argv[1:] or NETWORKS:
        compare(name)


if __name__ == "__main__":
    main()
