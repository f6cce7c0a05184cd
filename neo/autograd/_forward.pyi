from collections.abc import Sequence

from neo.autograd._node import Cotangent
from neo.autograd._tape import Tape
from neo.autograd.tensor import LiteTensor

def tangents(
    tape: Tape, inputs: Sequence[LiteTensor], dots: Sequence[Cotangent], outputs: Sequence[LiteTensor]
) -> list[Cotangent | None]: ...
