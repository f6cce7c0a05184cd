from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

TORCH: str

class Call:
    def slots(self) -> list[int]: ...
    def renumber(self, now: Mapping[int, int]) -> None: ...

class Storages:
    def __init__(self, objects: list[Any]) -> None: ...
    def __contains__(self, address: int) -> bool: ...

class Program:
    def __init__(
        self,
        held: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        slots: int,
        steps: Sequence[tuple[Call, list[int], list[int]]],
        outputs: Sequence[tuple[int, bool]],
    ) -> None: ...
    def takes(self, inputs: list[torch.Tensor]) -> bool: ...
    def replay(
        self, inputs: list[torch.Tensor], generator: torch.Generator | None = None
    ) -> list[torch.Tensor]: ...
    def __len__(self) -> int: ...

def aten(
    name: str,
    overload: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    slots: Mapping[int, int],
    from_block: bool,
) -> Call: ...
def callable(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], slots: Mapping[int, int]
) -> Call: ...
def view(slot: int, size: Sequence[int], stride: Sequence[int], further: int) -> Call: ...
def changed(tensors: list[Any], before: list[Any]) -> list[int]: ...
