from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks._torchvision import import_torchvision


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_torchvision_datasets_can_be_imported_over_the_torch_at_hand():
    # In a process of its own: here another test may have declared the schemas, or imported torchvision, before.
    program = (
        "from tasks._torchvision import import_torchvision as get; one = get(); "
        "import torchvision.transforms; assert get() is one is torchvision; print(one.datasets.Omniglot.folder)"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert (run.stdout.strip(), run.returncode) == ("omniglot-py", 0), run.stderr


def test_import_torchvision_declares_nothing_when_the_import_works(monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: name)
    monkeypatch.setattr(torch.library, "define", lambda *args: pytest.fail(f"declared {args}"))
    assert import_torchvision() == "torchvision"


@pytest.mark.parametrize(
    "error", [RuntimeError("another operator"), ModuleNotFoundError("No module named torchvision")]
)
def test_import_torchvision_hides_no_other_error(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(type(error), match=str(error)):
        import_torchvision()
