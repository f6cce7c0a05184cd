"""The layers of DESIGN: tasks -> meta -> neo, benchmarks and scripts on top, conf only wiring; and those inside."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.import_graph import Tree, cycles

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "neo": set(),
    "tasks": set(),
    "meta": {"neo", "tasks"},
    "benchmarks": {"neo", "tasks", "meta"},
    "scripts": {"neo", "tasks", "meta", "benchmarks"},
}
OURS = {*MAY_IMPORT, "conf", "tests"}

# The layers of neo, tasks and meta, the lowest first, and what each may import: only layers that stand above it in this
# list. A file belongs to the longest name that it begins with; x.__init__ is the file that collects what lies in the
# folders of x. "neo.*" is all of neo.
LAYERS = {
    "neo.errors": [],
    "neo._elsewhere": [],
    "neo.runtime": [],
    "neo.guards": ["neo.errors"],
    "neo.pytree": [],
    "neo.draws": ["neo.errors"],
    "neo.kernels": ["neo.errors"],
    # The tensor, the tape, and Policies with `function`; compiled, for the most part.
    "neo.autograd": ["neo.errors", "neo._elsewhere", "neo.guards", "neo.pytree", "neo.kernels"],
    "neo.autograd.session": ["neo.autograd", "neo.draws", "neo.errors", "neo.guards", "neo.pytree"],
    "neo.autograd.__init__": ["neo.autograd", "neo.autograd.session"],
    "neo.linear": ["neo.autograd", "neo.autograd.session", "neo.errors", "neo.pytree"],
    "neo.implicit_differentiation": ["neo.linear", "neo.autograd", "neo.autograd.session", "neo.pytree"],
    "neo.typing": ["neo.autograd"],
    # The op library. What it gives to layers below, it installs there: _install.py.
    "neo.functions": [
        *("neo.autograd", "neo.autograd.session", "neo.draws", "neo.errors", "neo._elsewhere", "neo.guards"),
        "neo.kernels",
    ],
    "neo.creation": ["neo.autograd", "neo.functions"],
    "neo._recording": ["neo.autograd", "neo.draws", "neo.errors", "neo.kernels", "neo.pytree"],
    "neo.capture": [
        *(
            "neo.autograd",
            "neo.autograd.__init__",
            "neo._recording",
            "neo.draws",
            "neo.errors",
            "neo.kernels",
        ),
        "neo.pytree",
    ],
    "neo.nn._torch": [
        *("neo.autograd", "neo.autograd.session", "neo.functions", "neo.draws", "neo.errors", "neo.pytree"),
    ],
    "neo.nn": ["neo.nn._torch", "neo.autograd", "neo.functions", "neo.draws", "neo.errors", "neo.typing"],
    "neo.optim": ["neo.autograd", "neo.functions", "neo.pytree", "neo.typing"],
    # What answers where torch's own functions are given LiteTensors.
    "neo._custom_functions": ["neo.autograd", "neo.functions", "neo.errors"],
    "neo._torch_entry_points": ["neo.autograd", "neo.nn"],
    "neo.__init__": ["neo.*"],
    "neo.__main__": [],
    "tasks": [],
    "meta": ["neo.*", "tasks"],
    "meta.report": ["meta"],
    "meta.tables": ["meta", "meta.report"],
    "meta.__init__": ["meta", "meta.tables"],
    "meta.template": ["meta", "meta.__init__", "neo.*", "tasks"],  # what neo-new writes: code of a user's
    "meta.cli.value_types": [],
    "meta.search": ["meta", "meta.report", "meta.cli.value_types"],
    "meta.cli": ["meta", "meta.report", "meta.search", "meta.cli.value_types", "neo.*", "tasks"],
}

# Imports inside functions: (file, what it imports, or the function that imports it) -> why they wait.
LAZY_IMPORTS = {
    ("tasks/__init__.py", "import_module"): "a family of tasks brings libraries that the others do without",
    ("neo/kernels/__init__.py", "import_module"): "the build for the processor at hand; there may be none",
    ("neo/kernels/direct.py", "neo.kernels._direct"): "is built only where torch is at hand",
    ("neo/kernels/replay.py", "neo.kernels._replay"): "is built only where torch is at hand",
    ("neo/kernels/dense.py", "neo.kernels._triton"): "Triton is optional",
    ("neo/_torch_entry_points.py", "import_module"): "private modules of torch, by name",
    (
        "tasks/_torchvision.py",
        "import_module",
    ): "torchvision is optional, and its import is repaired",
    (
        "neo/__main__.py",
        "import_module",
    ): "the commands lie above the engine, which is the one package of a safe name",
    ("meta/loggers/mlflow.py", "mlflow.MlflowClient"): "MLflow is optional",
    ("meta/loggers/mlflow.py", "mlflow.entities.Metric"): "MLflow is optional",
    ("meta/loggers/mlflow.py", "mlflow.entities.Param"): "MLflow is optional",
    ("meta/loggers/mlflow.py", "mlflow.entities.RunTag"): "MLflow is optional",
    ("meta/loggers/mlflow.py", "mlflow.exceptions.MlflowException"): "MLflow is optional",
    ("meta/loggers/tensorboard.py", "torch.utils.tensorboard.summary.hparams"): "TensorBoard is optional",
    (
        "meta/loggers/tensorboard.py",
        "torch.utils.tensorboard.writer.SummaryWriter",
    ): "TensorBoard is optional",
    ("meta/loggers/wandb.py", "wandb"): "wandb is optional",
    ("meta/cli/sweeps.py", "meta.search.settings"): "needs Optuna, which is optional",
    ("meta/cli/sweeps.py", "meta.search.sweeper"): "needs Optuna, which is optional",
    ("meta/search/pruning.py", "optuna"): "is optional: training reports to it only as a trial",
    ("meta/search/pruning.py", "meta.search.samplers.pruner"): "needs Optuna, which is optional",
    ("meta/search/pruning.py", "meta.search.study.storage"): "needs Optuna, which is optional",
    ("meta/__init__.py", "import_module"): "what reads finished runs needs hydra and matplotlib",
    ("meta/tables.py", "pandas"): "pandas is optional",
    ("meta/imports.py", "import_module"): "the user's own modules, which a configuration names",
}


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


@pytest.mark.parametrize("package", ["neo", "tasks"])
def test_extensions_import_nothing_above_their_package(package):
    paths = [*(ROOT / package).rglob("*.pyx"), *(ROOT / package).rglob("*.pxd")]
    assert paths
    for path in paths:
        words = [
            line.split()[1].partition(".")[0]
            for line in path.read_text().splitlines()
            if line.startswith(("import ", "from "))
        ]
        assert not {*words} & (OURS - {package}), path


def test_engine_and_tasks_know_nothing_of_hydra():
    for package in ("neo", "tasks"):
        for path in sources(package):
            assert not imported(path) & {"hydra", "omegaconf"}, path


def test_training_from_python_needs_neither_hydra_nor_matplotlib():
    """They are 50 MB, which commands and pictures alone have a use for; what needs them is there when asked for."""
    code = (
        "import sys, meta; there = {'hydra', 'matplotlib', 'omegaconf'} & {*sys.modules}; assert not there, there; "
        "assert {'load', 'metrics', 'results'} <= {*dir(meta)}; from meta import load; assert meta.load is load"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


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


# --- the layers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source_tree() -> Tree:
    return Tree(ROOT, ("neo", "tasks", "meta"))


def layer_of(module: str) -> str:
    return max((name for name in LAYERS if f"{module}.".startswith(f"{name}.")), key=len, default="")


def undeclared_imports(edges: dict[str, set[str]]) -> list[str]:
    """Imports from one layer of another that LAYERS does not allow it."""
    return [
        f"{module} -> {target}: LAYERS does not allow {layer_of(module) or module} to import "
        f"{layer_of(target) or target}"
        for module, targets in edges.items()
        for target in sorted(targets)
        if layer_of(module) != layer_of(target) and not may_import(layer_of(module), layer_of(target))
    ]


def may_import(layer: str, lower: str) -> bool:
    names = LAYERS.get(layer, [])
    return lower in names or f"{lower.partition('.')[0]}.*" in names


def lazy_imports(tree: Tree) -> list[str]:
    return [
        str(found)
        for found in tree.imports
        if found.in_function and (found.file, found.name) not in LAZY_IMPORTS
    ]


def test_no_file_imports_what_imports_it(source_tree):
    assert cycles(source_tree.edges) == []


def test_every_import_between_layers_is_declared(source_tree):
    assert undeclared_imports(source_tree.edges) == []


def test_every_layer_imports_layers_below_it():
    names = list(LAYERS)
    for i, (name, lower) in enumerate(LAYERS.items()):
        assert {*lower} - {"neo.*"} <= {*names[:i]}, name


def test_every_layer_has_files(source_tree):
    assert {*LAYERS} == {layer_of(module) for module in source_tree.modules}


def test_no_import_hides_inside_a_function(source_tree):
    assert lazy_imports(source_tree) == []
    met = {(found.file, found.name) for found in source_tree.imports if found.in_function}
    assert {*LAZY_IMPORTS} <= met, "LAZY_IMPORTS names imports that are no longer there"


def test_no_module_finds_names_by_getattr(source_tree):
    """But two: what reads finished runs, and each family of tasks, is imported when asked for (see the comments)."""
    assert sorted(source_tree.module_getattrs()) == ["meta/__init__.py", "tasks/__init__.py"]


# --- the check sees what is planted ----------------------------------------------------------------------------------

IMPORTS_OF_TENSOR = {  # ways in which a lower file may import a higher one, neo/autograd/tensor.py
    "from": ("neo/errors.py", "from neo.autograd.tensor import LiteTensor"),
    "from the package": ("neo/errors.py", "from neo.autograd import tensor"),
    "import": ("neo/errors.py", "import neo.autograd.tensor"),
    "relative": ("neo/errors.py", "from .autograd.tensor import LiteTensor"),
    "in a function": ("neo/errors.py", "def f():\n    from neo.autograd.tensor import LiteTensor"),
    "for types": ("neo/errors.py", "if TYPE_CHECKING:\n    from neo.autograd.tensor import LiteTensor"),
    "cimport": ("neo/errors.pyx", "from neo.autograd.tensor cimport (  # both\n    Handle, LiteTensor)"),
    "cimport of a module": ("neo/errors.pxd", "cimport neo.autograd.tensor"),
    "in a Cython function": ("neo/errors.pyx", "def f():\n    from neo.autograd.tensor import LiteTensor"),
}


@pytest.fixture
def planted(tmp_path):
    """A small tree, in order, in which other files can be put."""

    def plant(files: dict[str, str]) -> Tree:
        good = {
            "neo/__init__.py": "from neo.autograd.tensor import LiteTensor",
            "neo/autograd/__init__.py": "",
            "neo/autograd/tensor.py": "from neo.errors import NeoError",
            "neo/errors.py": "",
        }
        for name, text in {**good, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return Tree(tmp_path, ["neo"])

    return plant


def test_a_tree_in_order_passes(planted):
    tree = planted({})
    found = [
        *cycles(tree.edges),
        *undeclared_imports(tree.edges),
        *lazy_imports(tree),
        *tree.module_getattrs(),
    ]
    assert found == []


@pytest.mark.parametrize(("file", "text"), IMPORTS_OF_TENSOR.values(), ids=IMPORTS_OF_TENSOR)
def test_a_planted_cycle_and_its_upward_import_are_seen(planted, file, text):
    tree = planted({file: text})
    assert cycles(tree.edges) == [["neo.autograd.tensor", "neo.errors"]]
    assert undeclared_imports(tree.edges) == [
        "neo.errors -> neo.autograd.tensor: LAYERS does not allow neo.errors to import neo.autograd"
    ]


@pytest.mark.parametrize(
    "module", ["neo.errors", "neo.pytree", "neo.kernels.direct", "neo.autograd._tape", "tasks.task"]
)
def test_an_import_planted_in_the_tree_is_seen(source_tree, module):
    edges = {**source_tree.edges, module: {*source_tree.edges[module], "neo.__init__"}}
    assert len(undeclared_imports(edges)) == 1
    assert bool(cycles(edges)) == module.startswith("neo.")


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    import numpy",
        "class A:\n    def f(self):\n        from neo.errors import NeoError",
        "f = lambda: __import__('numpy')",
        "async def f():\n    importlib.import_module('neo.errors')",
    ],
)
def test_a_planted_import_in_a_function_is_seen(planted, text):
    assert len(lazy_imports(planted({"neo/autograd/tensor.py": text}))) == 1


@pytest.mark.parametrize("text", ["def __getattr__(name):\n    return 1", "__getattr__ = find"])
def test_a_planted_getattr_of_a_module_is_seen(planted, text):
    assert planted({"neo/errors.py": text}).module_getattrs() == ["neo/errors.py"]


def test_a_file_in_no_layer_is_seen(planted):
    tree = planted({"neo/attic.py": "import neo.errors"})
    assert undeclared_imports(tree.edges) == [
        "neo.attic -> neo.errors: LAYERS does not allow neo.attic to import neo.errors"
    ]
