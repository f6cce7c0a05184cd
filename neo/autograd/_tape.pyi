from collections.abc import Callable, Sequence
from typing import Any

from neo.autograd._node import Cotangent, Node
from neo.autograd._slots import TensorSlots
from neo.autograd.tensor import LiteTensor

class Tape(TensorSlots):
    """What one session records."""

    @property
    def nodes(self) -> list[Node]: ...
    def __len__(self) -> int: ...
    def add(self, node: Node) -> None: ...
    def gradients(
        self,
        outputs: Sequence[LiteTensor],
        cotangents: Sequence[Cotangent],
        inputs: Sequence[LiteTensor],
        *,
        keep: bool = False,
    ) -> list[Cotangent | None]: ...

def record(
    outputs: Sequence[LiteTensor],
    parents: Sequence[LiteTensor],
    bwd_fn: Callable[..., Any],
    jvp: Callable[..., Any] | None = None,
    materialize: bool = True,
) -> None: ...
