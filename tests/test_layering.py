"""The arrows of DESIGN: tasks -> meta -> neo, benchmarks and scripts on top, conf only wiring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "neo": set(),
    "tasks": set(),
    "meta": {"neo", "tasks"},
    "benchmarks": {"neo", "tasks", "meta"},
    "scripts": {"neo", "tasks", "meta", "benchmarks"},
}
OURS = {*MAY_IMPORT, "conf", "tests"}


def imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def sources(package: str) -> list[Path]:
    return [path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_what_lies_below_it(package):
    assert sources(package)
    for path in sources(package):
        strangers = (imported(path) & OURS) - MAY_IMPORT[package] - {package}
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


def test_extensions_import_nothing_above_neo():
    for path in [*(ROOT / "neo").rglob("*.pyx"), *(ROOT / "neo").rglob("*.pxd")]:
        words = [
            line.split()[1].partition(".")[0]
            for line in path.read_text().splitlines()
            if line.startswith(("import ", "from "))
        ]
        assert not {*words} & (OURS - {"neo"}), path


def test_engine_and_tasks_know_nothing_of_hydra():
    for package in ("neo", "tasks"):
        for path in sources(package):
            assert not imported(path) & {"hydra", "omegaconf"}, path


def test_conf_has_no_logic():
    for path in sources("conf"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), path


def test_gradients_never_come_from_torch_autograd():
    """benchmarks/mnist.py trains PyTorch's column with it, beside Neo's; benchmarks of peers may too."""
    for package in ("neo", "meta", "tasks"):
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
                assert name not in ("torch.autograd.grad", "torch.autograd.backward", "torch.func.grad"), path
                assert not name.endswith(".requires_grad_"), path
