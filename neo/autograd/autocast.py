"""The state of torch.autocast in this thread: read, put back, switched off.

torch.autocast decides in which dtype an op computes, by the kind of the op. In Neo the choice is made once, when an op
is called: its arguments are cast by a recorded cast (neo.functions.autocasting), and the op's forward, its backward and
every walk of a tape run with autocast off, in the dtypes that the call chose. A rule of the user's runs, forward and
backward, under the state that its call met, as torch.amp.custom_fwd and custom_bwd have it.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["off", "restored", "state"]

State = tuple[tuple[str, torch.dtype], ...]
"""(kind of device, dtype of lower precision) of each kind of device that autocast is on for."""

_KINDS = tuple(
    kind
    for kind in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "maia", "xla", "ipu", "privateuseone")
    if torch.amp.is_autocast_available(kind)
)
_is_on, _switch = torch.is_autocast_enabled, torch.set_autocast_enabled
_dtype, _set_dtype = torch.get_autocast_dtype, torch.set_autocast_dtype


def state() -> State:
    return tuple([(kind, _dtype(kind)) for kind in _KINDS if _is_on(kind)])


class restored:
    """`with restored(state):` autocast is on for what `state` names, with its dtypes, and off for all else."""

    def __init__(self, wanted: State):
        self.wanted = wanted

    def __enter__(self) -> State:
        self.before = state()
        self.dtypes = [(kind, _dtype(kind)) for kind, _ in self.wanted]
        for kind, _ in self.before:
            _switch(kind, False)
        for kind, dtype in self.wanted:
            _set_dtype(kind, dtype)
            _switch(kind, True)
        return self.before

    def __exit__(self, *error: Any) -> None:
        for kind, _ in self.wanted:
            _switch(kind, False)
        for kind, dtype in self.dtypes:
            _set_dtype(kind, dtype)
        for kind, _ in self.before:
            _switch(kind, True)


def off() -> restored:
    """`with off() as before:` no autocast; `before` is the state that was met."""
    return restored(())
