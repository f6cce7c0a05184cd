"""Every test here runs on each variant of the kernels that this processor has, and needs at least one."""

from __future__ import annotations

import importlib

import pytest
import torch

from neo import kernels

VARIANTS = {"AVX512": ["_avx512", "_avx2", "_baseline"], "AVX2": ["_avx2", "_baseline"]}


@pytest.fixture(params=VARIANTS.get(torch.backends.cpu.get_cpu_capability(), ["_baseline"]), autouse=True)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    library = importlib.import_module(f"neo.kernels.{request.param}")
    monkeypatch.setattr(kernels, "library", library)
    monkeypatch.setattr(
        kernels, "_multiple", {torch.float32: library.BYTES // 4, torch.float64: library.BYTES // 8}
    )
    return request.param
