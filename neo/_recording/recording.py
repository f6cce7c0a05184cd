"""Records one run: Neo's own kernels and torch's ops tell a Recorder, and reads of numbers are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from neo import kernels
from neo._recording.program import compiled
from neo._recording.reads import refused
from neo._recording.recorder import Recorder
from neo.kernels import direct

__all__ = ["Recording", "record"]


class Recording(NamedTuple):
    program: Any  # neo.kernels.replay.Program
    draws: bool  # at all
    from_block: bool  # from the generator of the block around the call


_one_at_a_time = threading.Lock()  # for one recorder alone is told of Neo's kernels


def record(
    run: Callable[[], list[torch.Tensor]],
    inputs: list[torch.Tensor],
    step: str,
    generator: torch.Generator | None,
) -> Recording:
    """The program of one run on `inputs`, tensors of their own memory that it may not write to.

    run: gives the outputs. step: its name, for errors. generator: of the block of neo.nn.draws around the call.
    Raises: CaptureError where a replay would not do what the step does.
    """
    with _one_at_a_time:
        recorder = Recorder(inputs, step, generator)
        with _told(recorder), refused(recorder), recorder:
            slots = [recorder.slot(tensor, "the step's result") for tensor in run()]
        return Recording(compiled(recorder, inputs, slots), recorder.draws, recorder.from_block)


@contextmanager
def _told(recorder: Recorder) -> Iterator[None]:
    """Neo's own kernels tell the recorder of their calls."""
    of_library = kernels.library.record(recorder.note_kernel) if kernels.library is not None else None
    of_direct = direct.record(recorder.note_direct)
    try:
        yield
    finally:
        direct.record(of_direct)
        if kernels.library is not None:
            kernels.library.record(of_library)
