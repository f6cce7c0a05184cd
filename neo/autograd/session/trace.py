"""What a function does on its tapes, written down as it happens: for draw, and for gradcheck to find whom to blame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from neo import pytree
from neo.autograd._identity import fresh_tensor
from neo.autograd._stack import TapeContext, observe
from neo.autograd._tape import Tape
from neo.autograd.policy import Policy
from neo.autograd.tensor import LiteTensor

__all__ = ["Box", "Call", "Trace", "trace"]


@dataclass(eq=False)
class Call:
    """One recorded op."""

    function: Callable[..., Any]  # the Neo function, or the rule of a hand-made node (checkpoint, vmap)
    policy: Policy | None  # what ran, with its context; None for a hand-made node
    args: tuple[Any, ...]  # as the function got them
    inputs: tuple[Any, ...]  # the tensors among them: LiteTensors, and torch tensors, which are constants
    outputs: tuple[LiteTensor, ...]
    levels: tuple[int, ...]  # which tapes recorded it: 1 is the outermost

    @property
    def name(self) -> str:
        """The Policy's name, or that of the hand-made node's rule."""
        named = self.function if self.policy is None else type(self.policy)
        return getattr(named, "__name__", type(named).__name__)


@dataclass(eq=False)
class Box:
    """A session, or the walk back over its tape, with what was recorded meanwhile on any open tape."""

    tape: Tape
    walk: bool = False
    items: list[Call | Box] = field(default_factory=list)

    def calls(self, walks: bool = True) -> Iterator[Call]:
        """Every call in this box and in those within; walks=False leaves out what happens on the way back."""
        for item in self.items:
            if isinstance(item, Call):
                yield item
            elif walks or not item.walk:
                yield from item.calls(walks)


class Trace:
    """Told by the tapes of a thread (_stack.observe) what they record. Keeps every tensor that it is told of alive."""

    def __init__(self, tape: Tape):
        self.root = Box(tape)
        self.origins: dict[
            int, LiteTensor
        ] = {}  # id of a session's fresh tensor -> the argument it stands for
        self.depths = {id(tape): 1}  # id of a tape -> its level, 1 being the outermost
        self._inside = [self.root]
        self._sessions = [self.root]  # those that are open, outermost first
        self._boxes = {id(tape): self.root}
        self._alive: list[LiteTensor] = []  # so that an id is not given twice

    def recorded(
        self, function: Any, policy: Policy | None, args: tuple, inputs: tuple, outputs: tuple
    ) -> None:
        known = [any(out in box.tape for out in outputs) for box in self._sessions]
        levels = tuple(level for level, knows in enumerate(known, start=1) if knows)
        self._inside[-1].items.append(Call(function, policy, args, inputs, outputs, levels))

    def opened(self, tape: Tape) -> None:
        box = Box(tape)
        self._boxes[id(tape)] = box
        self._inside[-1].items.append(box)
        self._inside.append(box)
        self._sessions.append(box)
        self.depths[id(tape)] = len(self._sessions)

    def closed(self, tape: Tape) -> None:
        self._inside.remove(self._boxes[id(tape)])
        self._sessions.remove(self._boxes[id(tape)])

    @contextmanager
    def walking(self, tape: Tape) -> Iterator[None]:
        """The walk back is drawn within its session's box, also when it comes later."""
        box = Box(tape, walk=True)
        self._boxes.get(id(tape), self._inside[-1]).items.append(box)
        self._inside.append(box)
        try:
            yield
        finally:
            self._inside.remove(box)

    def renamed(self, fresh: LiteTensor, tensor: LiteTensor) -> None:
        self.origins[id(fresh)] = tensor
        self._alive.append(fresh)


def trace(fn: Callable[..., Any], args: Any) -> tuple[Trace, tuple, Any]:
    """Run fn on fresh tensors in place of args' floating-point LiteTensors, all of them watched.

    Returns: the trace, the arguments as fn got them, and what fn gave. What an exception leaves open is closed.
    """
    tape = Tape()

    def watched(leaf: Any) -> Any:
        if not (isinstance(leaf, LiteTensor) and leaf.is_floating_point()):
            return leaf
        tensor = fresh_tensor(leaf)
        tape.watch(tensor)
        return tensor

    fresh: Any = pytree.tree_map(watched, args)
    told = Trace(tape)
    TapeContext.push(tape)
    before = observe(told)
    try:
        out = fn(*fresh)
    finally:
        observe(before)
        while TapeContext.pop() is not tape:
            pass
    return told, fresh, out
