from collections.abc import Sequence

from neo.autograd._node import Cotangent
from neo.autograd._tape import Tape
from neo.autograd._tensor import TensorBase
from neo.autograd.tensor import LiteTensor

class NoTangentRule(Exception): ...

class ForwardTape(Tape):
    """A level in forward mode."""

    own_rules: bool
    def start(self, tensor: LiteTensor, dot: Cotangent) -> None: ...
    def tangent_of(self, tensor: TensorBase) -> Cotangent | None: ...

def tangents(
    tape: Tape, inputs: Sequence[LiteTensor], dots: Sequence[Cotangent], outputs: Sequence[LiteTensor]
) -> list[Cotangent | None]: ...
