"""Public models as a user converts them, one task of second-order MAML: torch's time over Neo's.

    OMP_NUM_THREADS=1 python -m benchmarks.public_models [NAME ...] [--rounds 5]

Five support and 25 query examples, one inner step; random weights, batch norm on batch statistics, no dropout. Torch
takes its double backward, in the faster of its two memory layouts, and attention by the kernel that has a second order;
Neo `neo.nn.from_torch` of the same module. In float64 loss and meta-gradient are compared first, to 1e-8; then, in
float32, the two take turns, and medians of processor time count. Models of timm and transformers are left out where
these are not installed (pip install timm transformers).
"""

from __future__ import annotations

import argparse
import gc
import importlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import problem
from benchmarks.networks import NETWORKS, WAYS, Network
from benchmarks.peers import neo as by_neo
from benchmarks.peers import torch as by_torch
from benchmarks.step import Spec, Step
from benchmarks.works import MetaModule
from neo.runtime import keep_freed_memory
from tasks._torchvision import import_torchvision

__all__ = ["MODELS", "main"]

TOLERANCE = 1e-8  # of the relative difference in float64
SECONDS = 0.5  # of one contender's turn, at the least


class MathAttention(nn.Module):
    """A model whose attention runs on torch's composed kernel: its fused ones have no second order."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return self.body(x)


class OnEmbeddings(nn.Module):
    """A language model on embeddings (n, length, width); the mean of what comes leads to the classes."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, WAYS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.head(self.body(inputs_embeds=x).last_hidden_state.mean(1))


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return getattr(import_torchvision().models, name)(num_classes=WAYS)

    return build


def of_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import_torchvision()  # which timm imports
        return importlib.import_module("timm").create_model(name, num_classes=WAYS, **options)

    return build


def of_transformers(kind: str, **options: Any) -> Callable[[], nn.Module]:
    """Without what embeddings leave unused: a table of words, a pooler."""

    def build() -> nn.Module:
        library = importlib.import_module("transformers")
        config = getattr(library, f"{kind}Config")(attn_implementation="sdpa", **TWO_LAYERS)
        model = getattr(library, f"{kind}Model")(config, **options)
        model.set_input_embeddings(nn.Identity())
        return OnEmbeddings(model, config.hidden_size)

    return build


def _vit(image_size: int) -> nn.Module:
    return MathAttention(
        import_torchvision().models.VisionTransformer(image_size, 4, 2, 3, 192, 768, num_classes=WAYS)
    )


IMAGE, LARGER, SEQUENCE = (3, 32, 32), (3, 64, 64), (32, 256)
TWO_LAYERS = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}
MODELS: dict[
    str, tuple[tuple[int, ...], Callable[[], nn.Module]]
] = {  # name → one example's shape, the model
    "torchvision resnet18": (IMAGE, of_torchvision("resnet18")),
    "torchvision densenet121": (IMAGE, of_torchvision("densenet121")),
    "torchvision efficientnet_b0": (IMAGE, of_torchvision("efficientnet_b0")),
    "torchvision mobilenet_v2": (IMAGE, of_torchvision("mobilenet_v2")),
    "torchvision mobilenet_v3_small": (IMAGE, of_torchvision("mobilenet_v3_small")),
    "torchvision shufflenet_v2_x0_5": (IMAGE, of_torchvision("shufflenet_v2_x0_5")),
    "torchvision squeezenet1_1": (LARGER, of_torchvision("squeezenet1_1")),
    "torchvision regnet_y_400mf": (IMAGE, of_torchvision("regnet_y_400mf")),
    "torchvision convnext_tiny": (IMAGE, of_torchvision("convnext_tiny")),
    "torchvision vit, two layers of 192": (IMAGE, lambda: _vit(32)),
    "timm convnext_atto": (IMAGE, of_timm("convnext_atto")),
    "timm vit_tiny_patch16_224": (
        IMAGE,
        lambda: MathAttention(of_timm("vit_tiny_patch16_224", img_size=32, patch_size=4)()),
    ),
    "timm resnet10t": (IMAGE, of_timm("resnet10t")),
    "transformers bert, two layers of 256": (SEQUENCE, of_transformers("Bert", add_pooling_layer=False)),
    "transformers llama, two layers of 256": (SEQUENCE, of_transformers("Llama")),
}


def without_chance(model: nn.Module) -> nn.Module:
    """Batch norms on batch statistics; in evaluation mode, so that nothing is dropped."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return model.eval()


def compared(name: str, rounds: int, folder: Path) -> tuple[float, float]:
    """Seconds of torch's and of Neo's step, medians; AssertionError where they do not compute the same."""
    shape, build = MODELS[name]
    NETWORKS[name] = Network(lambda width, size: without_chance(build()), lambda width, size: shape)
    work = MetaModule(name=name, title=name, network=name, width=0, size=0, meta_batch=1, meta_batches=(1,))
    path = folder / "problem.npz"
    problem.draw(work, problem.images(None, quick=True), path)

    def step(peer: Any, **setting: str) -> Step:
        return peer.meta_step(Spec(work.fields(), peer.__name__, setting, str(path), "cpu"))

    exact = [
        step(peer, dtype="float64", **setting)
        for peer, setting in ((by_torch, {}), (by_neo, {"workers": "none"}))
    ]
    expect_equal(*(one.result(one.run()) for one in exact))
    layouts = ("contiguous", "channels_last") if len(shape) == 3 else ("contiguous",)
    turns = [step(by_neo, workers="none"), *(step(by_torch, layout=layout) for layout in layouts)]
    seconds: list[list[float]] = [[] for _ in turns]
    for turn in range(rounds + 1):
        for spent, one in zip(seconds, turns, strict=True):
            found = timed(one.run)
            if turn:  # the first one warms up
                spent.append(found)
    own, *others = (statistics.median(spent) for spent in seconds)
    return min(others), own


def timed(run: Callable[[], Any]) -> float:
    """Seconds of processor time a call."""
    gc.collect()
    calls, begin = 0, time.process_time()
    while calls == 0 or time.process_time() - begin < SECONDS:
        run()
        calls += 1
    return (time.process_time() - begin) / calls


def expect_equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    largest = max(np.abs(value).max() for value in one.values())
    missing = set(one) ^ set(other)
    off = max(np.abs(one[name] - other[name]).max() for name in set(one) & set(other))
    assert not missing, f"only one of the two has {sorted(missing)}"
    assert off <= TOLERANCE * largest, f"off by {off / largest:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="part of a model's name each; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    warnings.simplefilter("ignore")
    print("| model | an example | torch | Neo | torch's time over Neo's |\n|---|---|---:|---:|---:|")
    for name, (shape, _) in MODELS.items():
        if options.names and not any(part in name for part in options.names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                torchs, own = compared(name, options.rounds, Path(folder))
            except ImportError as error:
                print(f"| {name} | | not installed: {error} | | |", flush=True)
                continue
            except RuntimeError as error:
                if "is not implemented" not in str(error):
                    raise
                print(f"| {name} | | none: {error} | | |", flush=True)  # of torch's, of second order
                continue
        size = "x".join(map(str, shape))
        print(
            f"| {name} | {size} | {1e3 * torchs:.0f} ms | {1e3 * own:.0f} ms | {torchs / own:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
