"""Neo beside PyTorch on MNIST: the 784-256-64-10 perceptron, from the same weights, over the same batches, by SGD.

python scripts/mnist.py epochs=1 prints the test accuracy of both after each epoch, and the ratio of their times.
The gradients of one column come from Neo's tape, of the other from torch.autograd.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from omegaconf import DictConfig

import neo
from meta.cli import command
from meta.machine import resolve_device
from neo.typing import Params
from tasks.mnist import Digits, load_mnist

SIZES = (784, 256, 64, 10)
Batches = Sequence[torch.Tensor]  # each the indices of its images


class Side(NamedTuple):
    """One of the two: trains on batches, predicts logits."""

    name: str
    train: Callable[[Batches], None]
    predict: Callable[[torch.Tensor], torch.Tensor]


def neo_side(params: Params, digits: Digits, lr: float) -> Side:
    model = neo.nn.MLP(*SIZES)
    optimizer = neo.optim.sgd(lr)
    gradient = neo.value_and_grad(lambda params, x, y: F.cross_entropy(model(params, x), y), argnums=0)
    state = optimizer.init(params)

    def train(batches: Batches) -> None:
        nonlocal params, state
        for batch in batches:
            _, gradients = gradient(params, digits.x[batch], digits.y[batch])
            params, state = optimizer.step(params, gradients, state)

    return Side("Neo", train, lambda x: model(params, x).data)


def torch_side(params: Params, digits: Digits, lr: float) -> Side:
    layers: list[torch.nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(SIZES)):
        layer = torch.nn.Linear(inputs, outputs)
        with torch.no_grad():
            layer.weight.copy_(params[f"linear{i}.weight"].data)
            layer.bias.copy_(params[f"linear{i}.bias"].data)
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).to(digits.x.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def train(batches: Batches) -> None:
        for batch in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(digits.x[batch]), digits.y[batch]).backward()
            optimizer.step()

    @torch.no_grad()
    def predict(x: torch.Tensor) -> torch.Tensor:
        return model(x)

    return Side("PyTorch", train, predict)


def job(config: DictConfig) -> None:
    device = resolve_device(config.device)
    for name, least in (("epochs", 1), ("batch", 1), ("limit", config.batch)):
        if config[name] is not None and config[name] < least:
            raise ValueError(f"{name}={config[name]} is too small; choose {name} ≥ {least}.")
    train, test = load_mnist(config.data_dir)
    if config.limit is not None:
        train = Digits(train.x[: config.limit], train.y[: config.limit])
    train, test = train.to(device), test.to(device)
    params = neo.nn.MLP(*SIZES).init(seed=config.seed, device=device)
    sides = (neo_side(params, train, config.lr), torch_side(params, train, config.lr))
    generator = torch.Generator().manual_seed(config.seed)

    print(
        f"{len(train)} images, batch {config.batch}, lr {config.lr}, {device}: test accuracy, training time"
    )
    print("epoch" + "".join(f"{side.name:>12}{'':>10}" for side in sides) + "  ratio of times")
    total_s = [0.0, 0.0]
    for epoch in range(1, config.epochs + 1):
        batches = torch.randperm(len(train), generator=generator).to(device).split(config.batch)
        spent_s = [0.0, 0.0]
        # Hundredths of an epoch in turns, so that whatever slows the machine down slows both.
        share = max(1, len(batches) // 100)
        for turn, first in enumerate(range(0, len(batches), share)):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                spent_s[which] += _timed(sides[which].train, batches[first : first + share], device)
        accuracies = [(side.predict(test.x).argmax(1) == test.y).double().mean().item() for side in sides]
        columns = "".join(f"{a:>11.2%} {s:>8.2f} s" for a, s in zip(accuracies, spent_s, strict=True))
        print(f"{epoch:>5}{columns}  {spent_s[0] / spent_s[1]:>8.2f}", flush=True)
        total_s = [total + spent for total, spent in zip(total_s, spent_s, strict=True)]
    print(f"Neo's training time / PyTorch's: {total_s[0] / total_s[1]:.2f}")


def _timed(train: Callable[[Batches], None], batches: Batches, device: torch.device) -> float:
    began = time.perf_counter()
    train(batches)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def main() -> None:
    command.run("mnist", job)


if __name__ == "__main__":
    main()
