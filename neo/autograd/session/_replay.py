"""Running a function a second time, later, as if no time had passed: for checkpoint and vmap."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from neo.autograd._batched import agree
from neo.autograd._queries import version
from neo.autograd.tensor import LiteTensor
from neo.draws import replay as replay_draws
from neo.errors import SavedTensorError
from neo.guards import require

__all__ = ["Replay"]


class Replay:
    """What a second run needs of the first: where it drew from, its inputs' versions and its outputs.

    Made before the first run; `remember` after it; the second one goes inside `with replay.again():` and is judged by
    `compare`. What torch's default generators and those of `with draws(seed)` gave is drawn again. Python's, numpy's
    and the caller's own generators are not set back: draws from those are caught by `compare`. The first run may not be
    the first to touch CUDA, whose generators have no state to note until then.
    """

    def __init__(self, name: str):
        self.name = name
        self.cuda_was_up = torch.cuda.is_initialized()
        self.draws = _generator_states()
        self.seeded = replay_draws()

    def remember(self, inputs: Sequence[LiteTensor], outputs: Sequence[LiteTensor]) -> None:
        if torch.cuda.is_initialized() and not self.cuda_was_up:
            raise RuntimeError(
                f"{self.name}: the function was the first to use CUDA, so that its random draws there could not be "
                f"repeated. Call torch.cuda.init() before."
            )
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.versions = [version(value.data) for value in inputs]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draws as in the first run; torch's generators are put back afterwards."""
        for value, count in zip(self.inputs, self.versions, strict=True):
            if version(value.data) != count:
                raise SavedTensorError(
                    f"{self.name}: an input of shape {tuple(value.shape)} was changed in place before backward, so "
                    f"that recomputing would give other values. Work on a clone."
                )
        before = _generator_states()
        try:
            with self.repeated():
                yield
        finally:
            _set_generators(before)

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Generators as they were before the first run, and left as the second one leaves them."""
        _set_generators(self.draws)
        with self.seeded:
            yield

    def compare(self, outputs: Sequence[torch.Tensor]) -> None:
        """Raises SavedTensorError when the second run gave other values than the first; see neo.guards for when."""
        self.expect(len(outputs))
        for i, (first, second) in enumerate(zip(self.outputs, outputs, strict=True)):
            different = functools.partial(self._different, i, tuple(first.shape))
            if first.shape != second.shape:
                raise different()
            require(agree(first.data, second), different)

    def _different(self, i: int, shape: tuple[int, ...]) -> SavedTensorError:
        return SavedTensorError(
            f"{self.name}: output {i}, shape {shape}, came out different when fn was run again for backward. Does it "
            f"keep state, close over a variable that a loop around it has bound anew, or draw random numbers from a "
            f"generator other than torch's default ones? Pass it what it uses as arguments."
        )

    def expect(self, count: int) -> None:
        """Raises SavedTensorError when the second run did not give as many tensors as the first."""
        if count != len(self.outputs):
            raise SavedTensorError(
                f"{self.name}: fn gave {len(self.outputs)} tensors, and {count} when it was run again for backward. "
                f"Make it take the same path every time."
            )


def _generator_states() -> tuple[torch.Tensor, list[torch.Tensor]]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda


def _set_generators(states: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
