from typing import Any

from neo.autograd._forward import ForwardTape
from neo.autograd.tensor import LiteTensor

class TaylorTape(ForwardTape):
    order: int
    def begin(self, tensor: LiteTensor, series: list[Any]) -> None: ...
    def series_of(self, tensor: LiteTensor) -> list[Any]: ...

def orders_taken(tensor: LiteTensor) -> int: ...
