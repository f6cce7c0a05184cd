"""Every test here runs on each variant of the kernels that this processor has, and needs at least one."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

from neo import kernels
from neo.kernels import direct
from tests.helpers.built import expect_direct

VARIANTS = {"AVX512": ["_avx512", "_avx2", "_baseline"], "AVX2": ["_avx2", "_baseline"]}


@pytest.fixture(params=VARIANTS.get(torch.backends.cpu.get_cpu_capability(), ["_baseline"]), autouse=True)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    if os.environ.get("NEO_SANITIZE") and importlib.util.find_spec(f"neo.kernels.{request.param}") is None:
        pytest.skip("not among the kernels that are built with the compiler's checks")
    library = importlib.import_module(f"neo.kernels.{request.param}")
    library.use_describe(direct.describe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "library", library)
        patch.setattr(
            kernels, "_multiple", {torch.float32: library.BYTES // 4, torch.float64: library.BYTES // 8}
        )
        kernels._use(True)
        yield request.param
    kernels._use(True)  # of the library that was there: products too, which C++ was told of


@pytest.fixture
def own_kernels(variant: str) -> None:
    """Products, convolutions in groups, passes over rows: on this variant's kernels, whatever the processor's maker."""
    expect_direct()
    direct.use_matrix(kernels.library.matrix)  # `variant` puts back what was there
    direct.use_groups(kernels.library.groups)
    direct.use_rows(kernels.library.rows)
