"""Memory and time of the meta-gradient against inner steps, by each way to it: for docs/meta-gradients.md.

    python -m benchmarks.meta_gradients [--steps 1 10 100] [--rounds 3] [--write docs/meta-gradients.json] [--ways ...]
    python -m benchmarks.meta_gradients --plot docs/meta-gradients-memory.png --write docs/meta-gradients.json

A six-layer transformer adapts by n steps of SGD on one batch of sequences, and the meta-gradient of a query loss is
taken by reverse mode, by reverse mode with every inner step checkpointed, by mixed mode, plain, in segments of √n
steps, in three and in four segments, and with each layer checkpointed; and, of another meta-gradient, implicitly
(iMAML, five conjugate gradients), by what the solution alone says. The second call draws what the file has, and
measures nothing.
With JAX at hand (make bench-jax) also by its nested grad over lax.scan, with jax.checkpoint around a step and without.
Each number comes from a process of its own, on one thread, time being that of the processor; the ways alternate from
round to round. Peak memory is the process's, less what it had when the problem was built (a small one having been
run); of JAX, what XLA plans for temporaries and outputs, since compiling takes more than running.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["WAYS", "main", "table"]

LAYERS, WIDTH, HEADS, BATCH, LENGTH, WORDS, RATE = 6, 64, 4, 16, 32, 64, 0.001
ROOT = Path(__file__).resolve().parents[1]
WAYS = (
    "reverse",
    "reverse, steps checkpointed",
    "mixed",
    "mixed in segments",
    "mixed in three segments",
    "mixed in four segments",
    "mixed, layers checkpointed",
    "implicit",
    "JAX",
    "JAX, steps checkpointed",
)


def arrays(batch: int = BATCH) -> tuple[dict[str, Any], Any, Any]:
    """Parameters by name, and two batches of sequences to be predicted word by word: support and query."""
    draw = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return (draw.standard_normal(shape) / math.sqrt(shape[0])).astype("float32")

    params: dict[str, Any] = {"words": weight(WORDS, WIDTH), "head": weight(WIDTH, WORDS)}
    for layer in range(LAYERS):
        params |= {
            f"{layer}.in": weight(WIDTH, 3 * WIDTH),
            f"{layer}.out": weight(WIDTH, WIDTH),
            f"{layer}.up": weight(WIDTH, 4 * WIDTH),
            f"{layer}.down": weight(4 * WIDTH, WIDTH),
            f"{layer}.norm1": np.ones(WIDTH, "float32"),
            f"{layer}.norm2": np.ones(WIDTH, "float32"),
        }
    batches = draw.integers(0, WORDS, (2, 2, batch, LENGTH))
    return params, tuple(batches[0]), tuple(batches[1])


def by_neo(way: str, steps: int, size: int = BATCH) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F

    import meta
    import neo

    torch.set_num_threads(1)
    raw, *batches = arrays(size)
    params: Any = {name: neo.LiteTensor(torch.from_numpy(value)) for name, value in raw.items()}
    support, query = (tuple(torch.from_numpy(part) for part in batch) for batch in batches)

    def layer(p: Any, x: Any) -> Any:
        h = F.layer_norm(x, (WIDTH,), p["norm1"])
        q, k, v = (h @ p["in"]).reshape((size, LENGTH, 3, HEADS, -1)).permute((2, 0, 3, 1, 4)).unbind(0)
        a = F.softmax(q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS), -1) @ v
        x = x + a.transpose(1, 2).reshape((size, LENGTH, WIDTH)) @ p["out"]
        return x + F.gelu(F.layer_norm(x, (WIDTH,), p["norm2"]) @ p["up"]) @ p["down"]

    run = neo.checkpoint(layer) if "layers checkpointed" in way else layer

    def loss(p: Any, batch: Any) -> Any:
        x = F.embedding(batch[0], p["words"])
        for i in range(LAYERS):
            names = ("in", "out", "up", "down", "norm1", "norm2")
            x = run({name: p[f"{i}.{name}"] for name in names}, x)
        return F.cross_entropy((x @ p["head"]).reshape((-1, WORDS)), batch[1].reshape(-1))

    segment = None
    if "segments" in way:
        counts = {"three": 3, "four": 4}
        count = next((counts[word] for word in way.split() if word in counts), math.sqrt(steps))
        segment = math.ceil(steps / count)
    exact = meta.Mixed(segment) if "mixed" in way else meta.Reverse()
    estimator = meta.Implicit() if way == "implicit" else exact

    def adapted(p: Any) -> Any:
        if "steps checkpointed" in way:
            for _ in range(steps):
                one = meta.InnerLoop("bench", steps=1, lr=RATE)
                p = neo.checkpoint(lambda p, one=one: one.iterates(loss, p, support).end())(p)
            return p
        return (
            meta.InnerLoop("bench", steps=steps, lr=RATE)
            .iterates(loss, p, support, estimator=estimator)
            .end()
        )

    def gradient() -> Any:
        value, found = neo.value_and_grad(lambda p: loss(adapted(p), query), argnums=0)(params)
        return value.item(), sum(g.abs().sum().item() for g in found.values())

    return gradient


def by_jax(way: str, steps: int) -> tuple[Callable[[], Any], int]:
    """The same, compiled, and the bytes that XLA plans for temporaries and outputs."""
    import jax
    import jax.numpy as jnp

    raw, *batches = arrays()
    params = {name: jnp.asarray(value) for name, value in raw.items()}
    support, query = (tuple(jnp.asarray(part, "int32") for part in batch) for batch in batches)

    def norm(x: Any, scale: Any) -> Any:
        away = x - x.mean(-1, keepdims=True)
        return away * jax.lax.rsqrt((away**2).mean(-1, keepdims=True) + 1e-5) * scale

    def loss(p: Any, batch: Any) -> Any:
        x = p["words"][batch[0]]
        for i in range(LAYERS):
            h = (norm(x, p[f"{i}.norm1"]) @ p[f"{i}.in"]).reshape(BATCH, LENGTH, 3, HEADS, -1)
            q, k, v = jnp.moveaxis(h, (2, 3), (0, 2))
            a = jax.nn.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(WIDTH // HEADS), -1) @ v
            x = x + a.swapaxes(1, 2).reshape(BATCH, LENGTH, WIDTH) @ p[f"{i}.out"]
            x = x + jax.nn.gelu(norm(x, p[f"{i}.norm2"]) @ p[f"{i}.up"], approximate=False) @ p[f"{i}.down"]
        logs = jax.nn.log_softmax(x @ p["head"])
        return -jnp.take_along_axis(logs, batch[1][..., None], -1).mean()

    def step(p: Any, _: Any) -> Any:
        gradient = jax.grad(loss)(p, support)
        return jax.tree.map(lambda a, g: a - RATE * g, p, gradient), None

    inner = jax.checkpoint(step) if "checkpointed" in way else step
    objective = lambda p: loss(jax.lax.scan(inner, p, None, steps)[0], query)  # noqa: E731
    compiled = jax.jit(jax.value_and_grad(objective)).lower(params).compile()
    memory = compiled.memory_analysis()

    def gradient() -> Any:
        value, found = compiled(params)
        return float(value), float(sum(jnp.abs(g).sum() for g in found.values()))

    return gradient, memory.temp_size_in_bytes + memory.output_size_in_bytes


def measure(way: str, steps: int) -> dict[str, Any]:
    """In this process: the gradient once to warm up where it is short, then timed."""
    planned = None
    if way.startswith("JAX"):
        gradient, planned = by_jax(way, steps)
    else:
        gradient = by_neo(way, steps)
        by_neo(way, 1, size=1)()  # what torch and Neo load and compile on first use
    gc.collect()
    gc.freeze()  # what the libraries have made would be walked through again at some step of one way or another
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    value, size = gradient()
    seconds = time.process_time() - began
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"seconds": seconds, "bytes": planned or peak, "loss": value, "gradient": size}


def run(way: str, steps: int, limit: float) -> dict[str, Any] | str:
    """`measure` in a process of its own; the reason in words where it did not come to a number."""
    jax = ROOT / ".venv" / "jax" / "bin" / "python"
    python = os.environ.get("JAX_PYTHON", str(jax)) if way.startswith("JAX") else sys.executable
    if not Path(python).is_file():
        return "not installed"
    command = [python, "-m", "benchmarks.meta_gradients", "--measure", way, str(steps)]
    flags = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **flags},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit))),
    )
    out, error = child.communicate()
    if child.returncode:
        told = error.strip().splitlines()[-1] if error.strip() else f"exit {child.returncode}"
        return f"over {limit / 2**30:.0f} GiB" if "emory" in error or child.returncode < 0 else told
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def table(found: dict[str, dict[str, Any]], steps: list[int]) -> str:
    """Markdown: a row for each way, peak memory and seconds for each number of inner steps."""
    head = " | ".join(f"{n} step{'s' if n > 1 else ''}" for n in steps)
    lines = [f"| | {head} |", "|---|" + "---|" * len(steps)]
    for way, numbers in found.items():
        cells = []
        for n in steps:
            one = numbers.get(str(n), "")
            cells.append(
                one if isinstance(one, str) else f"{one['bytes'] / 2**20:.0f} MiB, {one['seconds']:.2f} s"
            )
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Peak memory against inner steps, a line for each of Neo's ways."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for way, numbers in found.items():
        points = [(int(n), one["bytes"] / 2**20) for n, one in numbers.items() if not isinstance(one, str)]
        if not way.startswith("JAX"):
            axis.loglog(*zip(*sorted(points), strict=True), "o-", label=way)
    axis.set_xlabel("inner steps")
    axis.set_ylabel("peak memory of a meta-gradient, MiB")
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, help="draw what the file of --write has into a picture")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 10, 100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=16.0, help="GiB that a process may take")
    parser.add_argument(
        "--write", type=Path, help="a JSON file, which keeps what it has of other steps and ways"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], int(given.measure[1]))))
        return
    found: dict[str, dict[str, Any]] = {}
    if given.write and given.write.is_file():
        found = json.loads(given.write.read_text(encoding="utf-8"))["found"]
    if given.plot:
        draw(found, given.plot)
        return
    for n in given.steps:
        turns: dict[str, list[Any]] = {way: [] for way in given.ways}
        for _ in range(given.rounds):
            for way, results in turns.items():
                if not results or not isinstance(results[-1], str):
                    results.append(run(way, n, given.limit * 2**30))
                    print(f"{n:5d} steps, {way}: {results[-1]}", file=sys.stderr, flush=True)
        for way, results in turns.items():
            failed = [one for one in results if isinstance(one, str)]
            found.setdefault(way, {})[str(n)] = (
                failed[0]
                if failed
                else {key: statistics.median(one[key] for one in results) for key in results[0]}
            )
    ordered = {way: found[way] for way in WAYS if way in found}
    if given.write:
        machine = f"{platform.machine()}, one thread, medians of {given.rounds} rounds"
        given.write.write_text(
            json.dumps({"machine": machine, "found": ordered}, indent=1) + "\n", encoding="utf-8"
        )
    print(table(ordered, sorted({int(n) for numbers in ordered.values() for n in numbers})))


if __name__ == "__main__":
    main()
