from collections.abc import Callable
from typing import Any

TORCH: str
NAMES: tuple[str, ...]
look: object
describe: object

def bind(name: str, fallback: Callable[..., Any]) -> Callable[..., Any]: ...
def use_matrix(matrix: object) -> None: ...
def idle_bytes() -> int: ...
