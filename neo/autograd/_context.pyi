from typing import Any

class Context:
    """`self.ctx` of a Policy."""

    @property
    def saved(self) -> tuple[Any, ...]: ...
    def save(self, *values: Any) -> None: ...
    def constant(self, *values: Any) -> Any: ...
    @property
    def needs_grad(self) -> tuple[bool, ...]: ...
    @property
    def release(self) -> tuple[Any, ...]: ...

class PolicyBase:
    """The compiled part of Policy: a slot for its context."""

    ctx: Context

def all_alike(ones: list[Any], others: list[Any]) -> bool: ...
