"""From a recording to a program (_replay.cpp): the entries that are left, and when their slots go free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from neo._recording import passes
from neo._recording.entries import NONE, Entry
from neo._recording.recorder import Recorder
from neo.kernels import replay

__all__ = ["compiled"]


def compiled(recorder: Recorder, inputs: Sequence[torch.Tensor], outputs: list[int]) -> Any:
    """A replay.Program of a recording; inputs: those that it was given; outputs: the slots of what
    the step gave.

    An output whose memory is not its own (an argument, a tensor closed over, two outputs on one storage) is given as a
    copy.
    """
    table = passes.handed_on(recorder)
    passes.renumber(recorder.entries, table)
    outputs = [table[slot] for slot in outputs]
    entries = passes.needed(recorder, recorder.entries, outputs)
    table = passes.views_once(recorder, entries)
    passes.renumber(entries, table)
    outputs = [table[slot] for slot in outputs]
    entries = passes.needed(recorder, entries, outputs)
    held = dict(recorder.held)
    fixed, entries = passes.constant(recorder, entries)
    if fixed:
        read = {slot for entry in entries for slot in entry.reads} | set(outputs)
        wanted = [slot for entry in fixed for slot in entry.out if slot in read]
        values = _program(fixed, held, [], [(slot, False) for slot in wanted]).replay([])
        held.update(zip(wanted, values, strict=True))
    sharing = Counter(recorder.memory_of[slot] for slot in outputs)
    copied = [
        slot in held
        or sharing[recorder.memory_of[slot]] > 1
        or not recorder.memories[recorder.memory_of[slot]].own
        for slot in outputs
    ]
    return _program(entries, held, inputs, list(zip(outputs, copied, strict=True)))


def _program(
    entries: Sequence[Entry],
    held: dict[int, torch.Tensor],
    inputs: Sequence[torch.Tensor],
    outputs: list[tuple[int, bool]],
) -> Any:
    """In the numbers of a program, which begin with those of what is held and of the inputs."""
    used = {slot for entry in entries for slot in entry.reads} | {slot for slot, _ in outputs}
    given = {slot for slot, _ in outputs}
    made = [slot for entry in entries for slot in entry.out if slot in used]
    held = {slot: tensor for slot, tensor in held.items() if slot in used}
    now = {slot: number for number, slot in enumerate(dict.fromkeys([*held, *range(len(inputs)), *made]))}
    last = {slot: i for i, entry in enumerate(entries) for slot in entry.reads}
    first, steps = len(held) + len(inputs), []
    for i, entry in enumerate(entries):
        done = [slot for slot in dict.fromkeys(entry.reads) if last[slot] == i and slot not in given]
        entry.call.renumber({slot: now[slot] for slot in entry.reads})
        out = [now.get(slot, NONE) for slot in entry.out]
        steps.append((entry.call, out, [now[slot] for slot in done if now[slot] >= first]))
    return replay.Program(
        list(held.values()), list(inputs), len(now), steps, [(now[slot], copied) for slot, copied in outputs]
    )
