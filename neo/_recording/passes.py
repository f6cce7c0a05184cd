"""What of a recording need not be replayed: tensors handed on as they are, views made twice, what nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neo._recording.entries import NONE, Entry
from neo._recording.recorder import Recorder

__all__ = ["constant", "handed_on", "needed", "renumber", "views_once"]

Table = list[int]  # for each slot the one to use in its place


def renumber(entries: Sequence[Entry], table: Table) -> None:
    """Have the entries read, and write to, other slots; what they give stays where it is."""
    for entry in entries:
        entry.call.renumber({slot: table[slot] for slot in entry.reads})
        entry.reads, entry.writes = ([table[slot] for slot in slots] for slots in (entry.reads, entry.writes))


def handed_on(recorder: Recorder) -> Table:
    """Slots of what an op has handed on as it was: detach(x) is x to a program, which asks for no gradients.

    Not so where the sizes of one of the two are changed in place, as by squeeze_.
    """
    resized = {slot for entry in recorder.entries if entry.resizes for slot in entry.writes}
    table = list(range(len(recorder.memory_of)))
    for entry in recorder.entries:
        if entry.same and resized.isdisjoint((*entry.reads, *entry.out)):
            table[entry.out[0]] = table[entry.reads[0]]
            entry.out = [NONE]
    return table


def needed(recorder: Recorder, entries: Sequence[Entry], outputs: Sequence[int]) -> list[Entry]:
    """The entries that outputs depend on, in their order: whose tensors are read, or that change memory that is."""
    slots = set(outputs)
    memories = {recorder.memory_of[slot] for slot in slots}
    found = []
    for entry in reversed(entries):
        if entry.kept or not slots.isdisjoint(entry.out) or not memories.isdisjoint(entry.memories):
            found.append(entry)
            slots.update(entry.reads)
            memories.update(recorder.memory_of[slot] for slot in entry.reads)
    return found[::-1]


def views_once(recorder: Recorder, entries: Sequence[Entry]) -> Table:
    """Of the views of one slot that lie alike on its memory, the first serves for all.

    A view stays what it is while numbers change in place; not so where sizes are changed.
    """
    resized = {slot for entry in recorder.entries if entry.resizes for slot in entry.writes}
    table = list(range(len(recorder.memory_of)))
    first: dict[Any, int] = {}
    for entry in entries:
        if not entry.view or len(entry.out) != 1 or len(entry.reads) != 1 or entry.out[0] == NONE:
            continue
        base, out = entry.reads[0], entry.out[0]
        if recorder.memory_of[base] == recorder.memory_of[out] and resized.isdisjoint((base, out)):
            table[out] = first.setdefault((table[base], recorder.kinds[out]), out)
    return table


def constant(recorder: Recorder, entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Those whose tensors are the same at every replay, and the others.

    No tensor is among the first whose memory is changed in place.
    """
    changed = {memory for entry in entries for memory in entry.memories}
    found: list[Entry] = []
    rest: list[Entry] = []
    slots: set[int] = set()
    held = {slot for slot in recorder.held if not recorder.memories[recorder.memory_of[slot]].varies}
    for entry in entries:
        memories = {recorder.memory_of[slot] for slot in (*entry.reads, *entry.out) if slot != NONE}
        if entry.constant and slots.issuperset(set(entry.reads) - held) and changed.isdisjoint(memories):
            found.append(entry)
            slots.update(entry.out)
        else:
            rest.append(entry)
    return found, rest
