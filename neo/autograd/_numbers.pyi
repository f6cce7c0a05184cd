from collections.abc import Iterable
from inspect import Parameter
from typing import Any

NAMES: frozenset[str]

class Numbers:
    """The parameters of an op that take numbers."""

    def __init__(
        self,
        op: str,
        parameters: Iterable[Parameter],
        declared: Iterable[str] = (),
        scalars: Iterable[str] = (),
        tensors: Iterable[str] = (),
    ) -> None: ...
    @property
    def op(self) -> str: ...
    @property
    def first(self) -> int: ...
    @property
    def keywords(self) -> frozenset[str]: ...
    def positional(self, args: tuple[Any, ...]) -> tuple[Any, ...]: ...
    def by_name(self, kwargs: dict[str, Any]) -> None: ...

def is_tracked(value: Any) -> bool: ...
