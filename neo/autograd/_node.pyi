from collections.abc import Callable, Sequence
from typing import Any

import torch

from neo.autograd._context import PolicyBase
from neo.autograd.tensor import LiteTensor

Cotangent = LiteTensor | torch.Tensor

class Node:
    """One recorded op."""

    def __init__(
        self,
        output: LiteTensor | Sequence[LiteTensor],
        parents: Sequence[LiteTensor],
        bwd_fn: Callable[..., Any],
        jvp: Callable[..., Any] | None = None,
        materialize: bool = True,
    ) -> None: ...
    @property
    def output(self) -> LiteTensor | tuple[LiteTensor | None, ...] | None: ...
    @property
    def parents(self) -> tuple[LiteTensor | None, ...]: ...
    @property
    def bwd_fn(self) -> Callable[..., Any]: ...
    @property
    def name(self) -> str: ...
    @property
    def policy(self) -> PolicyBase: ...
    def pull_back(self, *cotangents: Cotangent) -> tuple[Cotangent | None, ...]: ...
