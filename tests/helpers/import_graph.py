"""Who imports whom: the files of a tree as nodes, .py by their syntax tree, .pyx, .pxd and .pxi by their lines.

A name is taken where it lies: `from neo import pytree` is an edge to neo/pytree.py, `from neo import LiteTensor` to
neo/__init__.py. That Python also runs the __init__.py of every folder on the way is no edge. Imports inside functions
and under TYPE_CHECKING are edges like any other. Stubs (.pyi) are not read: they tell the type checker of a compiled
module in the words of those who use it, of whom some lie above.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = (".py", ".pyx", ".pxd", ".pxi", ".cpp")
_IMPORT = re.compile(
    r"^(?P<indent>[ \t]*)(?:"
    r"from\s+(?P<module>[\w.]+)\s+c?import\s+(?P<names>\([^)]*\)|[^\n]*)"
    r"|c?import\s+(?P<modules>[\w., \t]+))",
    re.MULTILINE,
)
_INCLUDE = re.compile(r"""^include\s+["'](?P<file>[^"']+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Import:
    """One imported module or name, as it stands in a file."""

    file: str  # "neo/nn/layers.py"
    line: int
    name: (
        str  # "neo.functions.fused.conv_block", "wandb", or a function that imports by name: "import_module"
    )
    in_function: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


class Tree:
    """The source files of some packages, and the imports between them.

    modules: "neo.nn.layers" → its files; a package's own is "neo.nn.__init__". A .pyx and its .pxd are one module.
    edges: module → the modules of the tree that it imports.
    """

    def __init__(self, root: Path, packages: Iterable[str]):
        self.root = root
        self.modules: dict[str, list[Path]] = {}
        for package in packages:
            for path in sorted((root / package).rglob("*")):
                if path.suffix in SOURCES and "__pycache__" not in path.parts:
                    inside = path.relative_to(root)
                    dotted = ".".join((inside if path.suffix == ".pxi" else inside.with_suffix("")).parts)
                    self.modules.setdefault(dotted, []).append(path)
        self.imports = [
            found for files in self.modules.values() for path in files for found in self._read(path)
        ]
        self.edges: dict[str, set[str]] = {module: set() for module in self.modules}
        of_file = {self._name(path): module for module, files in self.modules.items() for path in files}
        for found in self.imports:
            module, target = of_file[found.file], self.module_of(found.name)
            if target is not None and target != module:
                self.edges[module].add(target)

    def module_of(self, name: str) -> str | None:
        """The module of the tree that an imported name is, or is taken from; None for anything else's."""
        while name:
            for module in (name, f"{name}.__init__"):
                if module in self.modules:
                    return module
            name = name.rpartition(".")[0]
        return None

    def module_getattrs(self) -> list[str]:
        """Files with a __getattr__ of the module itself, which finds names that no import shows."""
        return [
            self._name(path)
            for files in self.modules.values()
            for path in files
            if re.search(
                r"^(def|cdef|cpdef) (\w+ )?__getattr__\b|^__getattr__\b", path.read_text("utf-8"), re.M
            )
        ]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _read(self, path: Path) -> Iterator[Import]:
        text, file = path.read_text(encoding="utf-8"), self._name(path)
        if path.suffix == ".py":
            package = ".".join(path.relative_to(self.root).parent.parts)
            for node, in_function in _nodes(ast.parse(text)):
                for name in _imported(node, package, in_function):
                    yield Import(file, node.lineno, name, in_function)
        elif path.suffix != ".cpp":
            for match in _IMPORT.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                for name in _cython_names(match):
                    yield Import(file, line, name, bool(match["indent"]))
            for match in _INCLUDE.finditer(text):
                included = ".".join((path.parent / match["file"]).relative_to(self.root).parts)
                yield Import(file, text.count("\n", 0, match.start()) + 1, included, False)


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Every set of modules in which each leads to each other, by Tarjan 1972."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for target in sorted(edges.get(module, ())):
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in path:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            start = path.index(module)
            cycle, path[start:] = path[start:], []
            if len(cycle) > 1:
                found.append(sorted(cycle))

    for module in sorted(edges):
        if module not in number:
            visit(module)
    return found


def _nodes(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.stmt | ast.expr, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.expr):
            yield child, in_function
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _nodes(child, in_function or function)


def _imported(node: ast.AST, package: str, in_function: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{module}.{alias.name}" for alias in node.names]
    if in_function and isinstance(node, ast.Call):
        called = ast.unparse(node.func).rpartition(".")[2]
        return [called] if called in ("import_module", "__import__") else []
    return []


def _cython_names(match: re.Match[str]) -> list[str]:
    if match["modules"] is not None:
        return [part.split()[0] for part in match["modules"].split(",") if part.strip()]
    names = re.sub(r"#[^\n]*", "", match["names"]).strip("() \t\n")
    return [f"{match['module']}.{part.split()[0]}" for part in names.split(",") if part.strip()]
