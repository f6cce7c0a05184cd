"""draw: a picture of what a function leaves on its tapes, and what the tapes hold for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from neo import pytree
from neo.autograd.session._recording import name_of
from neo.autograd.session.trace import Box, Call, Trace, trace
from neo.autograd.tensor import LiteTensor

__all__ = ["Drawing", "draw"]

# One fill a level: the innermost session that recorded an op says how deep the op sits.
FILLS = ("#dbe9f6", "#fde2c4", "#d9f0d3", "#ead7f0", "#f9d5d5")


def draw(fn: Callable[..., Any], *args: Any) -> Drawing:
    """Run fn(*args) in a session of its own and draw what the session, and every session within, recorded.

    An op is a box with its Policy, the shape of its output and the levels that recorded it, 1 being the outermost:
    this session, which watches every floating-point LiteTensor of args. Sessions inside fn are boxes around their ops,
    with the walk back over their tape as a box within. Edges are tensors; constants are left out.

        picture = autograd.draw(loss_after_adaptation, params, task)
        picture.save("maml.svg")     # or .png .pdf by graphviz, .dot, .mmd
        print(picture.table)         # bytes held by saved tensors, a row per Policy

    A notebook shows the picture by itself: by graphviz where its `dot` is installed, else as Mermaid text.
    Raises: what fn raises. Cost: fn once; every tensor it makes stays alive as long as the Drawing.
    """
    name = name_of(fn, "draw")
    told, fresh, out = trace(fn, args)
    return Drawing(name, told, fresh, out)


class Drawing:
    """What draw saw: `dot`, `mermaid` and `table` as text, `save` as a file."""

    def __init__(self, name: str, told: Trace, args: Any, out: Any):
        self.name = name
        self.trace = told
        self._args = args
        self._outputs = [leaf for leaf in pytree.leaves(out) if isinstance(leaf, LiteTensor)]
        self._calls = list(told.root.calls())
        self._names = {id(call): f"op{i}" for i, call in enumerate(self._calls)}
        self._makers: dict[int, str] = {}  # id of a tensor -> the node that made it
        self._inputs: list[tuple[str, str]] = []  # (node, label) of each argument
        leaves, spec = pytree.flatten(args)
        for leaf, path in zip(leaves, spec.paths(), strict=True):
            if isinstance(leaf, LiteTensor) and leaf.is_floating_point():
                node = f"in{len(self._inputs)}"
                where = "".join(f"[{key!r}]" if i else str(key) for i, key in enumerate(path))
                self._inputs.append((node, f"argument {where}\n{_shape(leaf)}"))
                self._makers[id(leaf)] = node
        for call in self._calls:
            for output in call.outputs:
                self._makers.setdefault(id(output), self._names[id(call)])

    def __repr__(self) -> str:
        return f"Drawing({self.name}: {len(self._calls)} ops)"

    @property
    def table(self) -> str:
        """Per Policy: how often it ran, how many tensors it saved, and the bytes that the tapes hold for that.

        Memory that several ops saved counts for the first of them; that of the arguments, which is there anyway, for
        none. Bytes of Policies that only an inner session recorded go free when that session is done.
        """
        seen = {_storage(leaf.data) for leaf in pytree.leaves(self._args) if isinstance(leaf, LiteTensor)}
        rows: dict[str, list[int]] = {}
        for call in self._calls:
            row = rows.setdefault(call.name, [0, 0, 0])
            row[0] += 1
            for value in call.policy.ctx.saved if call.policy is not None else ():
                if isinstance(value, torch.Tensor):
                    row[1] += 1
                    if _storage(value) not in seen:
                        seen.add(_storage(value))
                        row[2] += value.untyped_storage().nbytes()
        ordered = sorted(rows.items(), key=lambda item: (-item[1][2], item[0]))
        total = [sum(row[i] for row in rows.values()) for i in range(3)]
        width = max(len("Policy"), *(len(name) for name in rows), 0)
        lines = [f"{'Policy':<{width}}   calls   saved       bytes"]
        for name, (calls, saved, held) in [*ordered, ("total", total)]:
            lines.append(f"{name:<{width}}  {calls:6}  {saved:6}  {held:10}")
        return "\n".join(lines)

    @property
    def dot(self) -> str:
        """The picture in graphviz's language."""
        lines = [
            "digraph tape {",
            '  graph [fontname="Helvetica" fontsize=11 labeljust=l style=rounded color="#888888" ranksep=0.3]',
            '  node [fontname="Helvetica" fontsize=10 shape=box style="rounded,filled" color="#888888" height=0.3]',
            '  edge [color="#666666" arrowsize=0.6]',
        ]
        for node, label in self._inputs:
            lines.append(f"  {node} [label={_quoted(label)} shape=ellipse fillcolor=white]")
        lines += self._dot_box(self.trace.root, "  ", [0])
        lines += [f"  {a} -> {b}" for a, b in self._edges()]
        for node in dict.fromkeys(self._ends()):
            lines.append(f"  {node} [penwidth=2.5 color=black]")
        return "\n".join([*lines, "}"]) + "\n"

    def _dot_box(self, box: Box, indent: str, counter: list[int]) -> list[str]:
        if not any(box.calls()):
            return []
        counter[0] += 1
        style = "dashed" if box.walk else "rounded"
        lines = [f"{indent}subgraph cluster{counter[0]} {{", f"{indent}  label={_quoted(self._title(box))}"]
        lines.append(f'{indent}  style="{style}"')
        for item in box.items:
            if isinstance(item, Call):
                fill = FILLS[(max(item.levels, default=1) - 1) % len(FILLS)]
                label = _quoted(_label(item))
                lines.append(f'{indent}  {self._names[id(item)]} [label={label} fillcolor="{fill}"]')
            else:
                lines += self._dot_box(item, indent + "  ", counter)
        return [*lines, f"{indent}}}"]

    @property
    def mermaid(self) -> str:
        """The picture as Mermaid text, which Markdown renderers draw by themselves."""
        lines = ["flowchart TD"]
        for node, label in self._inputs:
            lines.append(f"  {node}([{_escaped(label)}])")
        lines += self._mermaid_box(self.trace.root, "  ", [0])
        lines += [f"  {a} --> {b}" for a, b in self._edges()]
        used = sorted({(max(call.levels, default=1) - 1) % len(FILLS) for call in self._calls})
        for level in used:
            lines.append(f"  classDef level{level + 1} fill:{FILLS[level]},stroke:#888888")
        return "\n".join(lines) + "\n"

    def _mermaid_box(self, box: Box, indent: str, counter: list[int]) -> list[str]:
        if not any(box.calls()):
            return []
        counter[0] += 1
        lines = [f"{indent}subgraph box{counter[0]} [{_escaped(self._title(box))}]"]
        for item in box.items:
            if isinstance(item, Call):
                level = (max(item.levels, default=1) - 1) % len(FILLS) + 1
                lines.append(f"{indent}  {self._names[id(item)]}[{_escaped(_label(item))}]:::level{level}")
            else:
                lines += self._mermaid_box(item, indent + "  ", counter)
        return [*lines, f"{indent}end"]

    def save(self, path: str | Path) -> Path:
        """Write the picture: .svg, .png or .pdf by graphviz, .dot or .mmd (Mermaid) as text.

        Raises: RuntimeError for a picture where graphviz's `dot` is not installed; ValueError for another ending.
        """
        path = Path(path)
        kind = path.suffix.removeprefix(".")
        if kind in ("dot", "mmd"):
            path.write_text(self.dot if kind == "dot" else self.mermaid)
        elif kind in ("svg", "png", "pdf"):
            path.write_bytes(self.render(kind))
        else:
            raise ValueError(f"draw: a picture may end in .svg, .png, .pdf, .dot or .mmd, got {path.name!r}")
        return path

    def render(self, kind: str) -> bytes:
        """The picture as an svg, png or pdf file, by graphviz."""
        program = shutil.which("dot")
        if program is None:
            raise RuntimeError(
                f"draw: a {kind} is drawn by graphviz, whose program `dot` is not installed. Install graphviz, or save "
                f"as .mmd (Mermaid text)."
            )
        done = subprocess.run(
            [program, f"-T{kind}"], input=self.dot.encode(), capture_output=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"draw: graphviz failed: {done.stderr.decode().strip()}")
        return done.stdout

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        if shutil.which("dot") is not None:
            return {"image/svg+xml": self.render("svg").decode()}
        return {"text/markdown": f"```mermaid\n{self.mermaid}```", "text/plain": self.mermaid}

    def _edges(self) -> Iterator[tuple[str, str]]:
        for call in self._calls:
            for value in call.inputs:
                maker = self._maker(value)
                if maker is not None and maker != self._names[id(call)]:
                    yield maker, self._names[id(call)]

    def _ends(self) -> Iterator[str]:
        for output in self._outputs:
            maker = self._maker(output)
            if maker is not None:
                yield maker

    def _maker(self, value: Any) -> str | None:
        """The node that made this tensor; through the fresh tensors of sessions."""
        while id(value) not in self._makers and id(value) in self.trace.origins:
            value = self.trace.origins[id(value)]
        return self._makers.get(id(value))

    def _title(self, box: Box) -> str:
        if box is self.trace.root:
            return f"session 1: draw({self.name})"
        if box.walk:
            return "its walk back"
        return f"session at level {self.trace.depths[id(box.tape)]}"


def _label(call: Call) -> str:
    shapes = ", ".join(_shape(output) for output in call.outputs)
    levels = "level " + ", ".join(map(str, call.levels)) if call.levels else "not recorded"
    return f"{call.name}\n{shapes}  {levels}"


def _shape(value: LiteTensor) -> str:
    return "scalar" if value.ndim == 0 else " × ".join(map(str, value.shape))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _quoted(text: str) -> str:
    inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{inner}"'


def _escaped(text: str) -> str:
    inner = text.replace("&", "&amp;").replace('"', "&quot;").replace("\n", "<br/>")
    return f'"{inner}"'
