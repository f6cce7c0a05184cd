"""draw: every op once, in its session's box, joined to what made its inputs; and what the tape holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import TapeContext, session
from scripts.picture import run_page

ROOT = Path(__file__).parents[3]
NEEDS_DOT = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


X, Y = number([1.0, 2.0, 3.0]), number([0.5, 0.5, 0.5])


def flat(x, y):
    return torch.tanh(x * y).sum()


def nested(x, y):
    g = session.grad(lambda t: torch.tanh(t * y).sum(), argnums=0)(x)
    return (x - g).sum()


def edges(picture):
    labels = dict(re.findall(r'(\w+) \[label="([^"\\ ]+)', picture.dot))
    return {(labels[a], labels[b]) for a, b in re.findall(r"^  (\w+) -> (\w+)$", picture.dot, re.MULTILINE)}


def test_ops_and_edges_of_a_plain_function():
    picture = autograd.draw(flat, X, Y)
    assert edges(picture) == {("argument", "Mul"), ("Mul", "Tanh"), ("Tanh", "Sum")}
    assert picture.dot.count("->") == 4
    assert picture.dot.count("subgraph") == 1
    assert 'label="argument 1\\n3"' in picture.dot
    assert 'label="Sum\\nscalar  level 1"' in picture.dot
    assert repr(picture) == "Drawing(flat: 3 ops)"


def test_nested_session_is_a_box_with_its_walk_back_within():
    picture = autograd.draw(nested, X, Y)
    lines = [line.strip() for line in picture.dot.splitlines()]
    opened = [i for i, line in enumerate(lines) if line.startswith("subgraph")]
    titles = [lines[i + 1] for i in opened]
    assert titles == [
        'label="session 1: draw(nested)"',
        'label="session at level 2"',
        'label="its walk back"',
    ]
    depth, seen = 0, {}
    for line in lines[opened[0] :]:
        depth += line.startswith("subgraph") - (line == "}")
        if found := re.match(r'op\d+ \[label="(\w+)\\n\S+  level ([\d, ]+)"', line):
            seen.setdefault((found[1], depth), []).append(found[2])
    assert seen[("Tanh", 2)] == ["1, 2"]
    assert seen[("Sub", 1)] == ["1"]
    assert any(where == 3 for _, where in seen)
    assert all(set(levels) == {"1"} for (_, where), levels in seen.items() if where == 3)


def test_argument_of_a_session_is_joined_to_what_it_stands_for():
    picture = autograd.draw(nested, X, Y)
    assert ("argument", "Mul") in edges(picture)
    # without the fresh tensor's origin, x would reach nothing but the subtraction
    made = [node for node, _ in picture._edges() if node == "in0"]
    assert len(made) == 2


def test_levels_count_the_sessions_that_recorded():
    def three(x):
        return session.grad(
            lambda a: session.grad(lambda b: (a * b * x).sum(), argnums=0)(x).sum(), argnums=0
        )(x)

    levels = {call.levels for call in autograd.draw(three, X).trace.root.calls()}
    assert (1, 2, 3) in levels
    assert (1,) in levels


def test_checkpoint_and_vmap_are_one_node_each():
    names = [
        call.name for call in autograd.draw(lambda x: session.checkpoint(torch.sin)(x), X).trace.root.calls()
    ]
    assert names == ["checkpoint(sin)"]
    names = [call.name for call in autograd.draw(lambda x: session.vmap(torch.sin)(x), X).trace.root.calls()]
    assert names == ["vmap(sin)"]


def test_table_counts_bytes_once_and_arguments_not_at_all():
    def fn(x):
        y = torch.exp(x)  # saves y: 24 bytes
        return torch.sin(y) * torch.cos(y)  # save y again, twice; then sin y and cos y: 48 bytes

    table = autograd.draw(fn, X).table
    rows = {row[0]: [int(n) for n in row[1:]] for row in (line.split() for line in table.splitlines()[1:])}
    assert rows == {
        "Exp": [1, 1, 24],
        "Mul": [1, 2, 48],
        "Sin": [1, 1, 0],
        "Cos": [1, 1, 0],
        "total": [4, 5, 72],
    }
    assert autograd.draw(lambda x: torch.sin(x), X).table.splitlines()[-1].split() == ["total", "1", "1", "0"]


def test_mermaid_has_the_same_nodes_edges_and_boxes():
    picture = autograd.draw(nested, X, Y)
    text = picture.mermaid
    assert text.startswith("flowchart TD\n")
    assert text.count("subgraph") == len(re.findall(r"^ +end$", text, re.MULTILINE)) == 3
    assert text.count("-->") == picture.dot.count("->")
    assert text.count(":::level") == len(list(picture.trace.root.calls()))


@NEEDS_DOT
@pytest.mark.parametrize(("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_picture_is_drawn_by_graphviz(tmp_path, ending, magic):
    path = autograd.draw(nested, X, Y).save(tmp_path / f"tape.{ending}")
    assert path.read_bytes().startswith(magic)


@NEEDS_DOT
def test_notebook_shows_svg():
    assert "<svg" in autograd.draw(flat, X, Y)._repr_mimebundle_()["image/svg+xml"]


def test_without_graphviz_text_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    picture = autograd.draw(flat, X, Y)
    with pytest.raises(RuntimeError, match=r"`dot` is not installed\. Install graphviz, or save as \.mmd"):
        picture.save(tmp_path / "tape.svg")
    assert picture.save(tmp_path / "tape.mmd").read_text() == picture.mermaid
    assert picture.save(tmp_path / "tape.dot").read_text() == picture.dot
    assert picture._repr_mimebundle_()["text/markdown"] == f"```mermaid\n{picture.mermaid}```"
    with pytest.raises(ValueError, match=r"may end in .*, got 'tape\.jpg'"):
        picture.save(tmp_path / "tape.jpg")


def test_names_with_quotes_do_not_break_the_text():
    picture = autograd.draw(lambda tree: tree['a"\\b'] * 2, {'a"\\b': X})
    assert "&quot;" in picture.mermaid
    assert r"\"" in picture.dot


def test_drawing_leaves_no_tape_and_no_observer_behind():
    def fails(x):
        session.grad(lambda t: t.no_such_method(), argnums=0)(x)

    with pytest.raises(AttributeError):
        autograd.draw(fails, X)
    assert TapeContext.current() is None

    def draws_inside(x):
        assert len(list(autograd.draw(flat, X, Y).trace.root.calls())) == 3
        return x * 2

    names = [call.name for call in autograd.draw(draws_inside, X).trace.root.calls()]
    assert names.count("MulNumber") == 1
    assert session.grad(flat, argnums=0)(X, Y).shape == (3,)


def test_picture_in_the_docs_is_that_of_the_code_on_the_page():
    page = ROOT / "docs" / "tape.md"
    picture, _ = run_page(page.read_text())
    drawn = re.findall(r"<title>(\w+)(?:&#45;&gt;(\w+))?</title>", page.with_suffix(".svg").read_text())
    assert {pair for pair in drawn if pair[1]} == set(picture._edges())
    assert {node for node, _ in drawn if re.match(r"op\d", node)} >= {f"op{i}" for i in range(10)}
