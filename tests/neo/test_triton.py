"""The switch to Triton's kernels, and what triton_checks.py and triton_compiled.py say of them, in processes of their
own: how Triton runs a kernel is settled when it is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import neo
from benchmarks.triton import main as measure
from benchmarks.triton import preferred
from neo.kernels import dense, direct

ROOT = Path(__file__).parents[2]
INTERPRETER = {"TRITON_INTERPRET": "1"}


@pytest.fixture
def triton():
    """Skips where Triton is not installed, or fails where NEO_REQUIRE_TRITON is set, as in continuous integration."""
    if importlib.util.find_spec("triton") is None:
        give_up = pytest.fail if os.environ.get("NEO_REQUIRE_TRITON") else pytest.skip
        give_up("Triton is not installed; make triton installs it")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TRITON_INTERPRET"))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=kept | variables, capture_output=True, text=True
    )


def check(name: str, **variables: str) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/neo/{name}.py", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_triton_kernels_agree_with_torch_in_the_interpreter():
    check("triton_checks", **INTERPRETER)


@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_triton_kernels_compile_for_a_gpu(tmp_path):
    check("triton_compiled", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.usefixtures("triton")
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_triton_kernels_agree_with_torch_on_a_gpu():
    check("triton_checks")


def test_without_triton_the_switch_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'neo-meta\[triton\]'"), neo.kernels.triton_kernels():
        pass
    assert dense.product is direct.product


def test_neo_alone_imports_no_triton():
    done = run("-c", "import sys, neo; print(*{name.partition('.')[0] for name in sys.modules})")
    assert "neo" in done.stdout.split(), done.stderr
    assert "triton" not in done.stdout.split()


def test_kernels_are_torchs_until_the_switch_is_opened():
    assert (dense.product, dense.matmul) == (direct.product, direct.batch_product)
    assert (dense.softmax, dense.softmax_gradient) == (torch._softmax, torch._softmax_backward_data)


@pytest.mark.parametrize(
    ("times", "whose"),
    [
        ((2, 1, 2, 1), "Triton"),
        ((1, 2, 1, 2), "torch"),
        ((1, 2, 2, 1), "Triton if captured"),
        ((2, 1, 1, 2), "Triton if called"),
    ],
)
def test_measurement_prefers_the_faster(times, whose):
    assert preferred(*times) == whose


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_measurement_without_a_gpu_says_that_it_needs_one():
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU"):
        measure([])


def test_measurement_refuses_what_it_does_not_know():
    with pytest.raises(SystemExit, match="expected nothing, or quick=true; got rounds=3"):
        measure(["rounds=3"])
