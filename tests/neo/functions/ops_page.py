"""docs/ops.md: a line an entry, as certificate.py finds it, under a head that counts them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch

__all__ = ["COMMAND", "PAGE", "cell", "forward_everywhere", "kind", "page", "rows_of"]

PAGE = Path(__file__).parents[3] / "docs" / "ops.md"
COMMAND = "python -m tests.neo.functions.certificate"

HEAD = """# Ops

Which entries of PyTorch's operator database (`op_db`, torch {version}) Neo covers, at which order. This page is what

```sh
{command}
```

writes. It calls every entry that supports autograd on LiteTensors made of its own float64 sample inputs, and compares
value, gradient and gradient of gradient with torch's double backward, to 1e-7. Numbers count samples; (d: n) says that
torch cannot differentiate its gradient on n of them, and that central differences of it were the judge, to 1e-4.
An entry is covered when it is right at both orders on at least one sample and wrong on none; samples refused by name
stand in the last column, with what Neo says.

The three columns in the middle count the samples on which forward mode was held to reverse mode, to 1e-9: tangents by
the identity ⟨v, J u⟩ = ⟨Jᵀ v, u⟩, tangents of the gradient (forward over reverse) likewise, and the gradient of
⟨v, J u⟩ (reverse over forward) entry by entry. Where they are fewer than the samples that reverse mode has right,
either it gives NaN or ∞ there, or several values are written to one place (max_unpool): one of them stands there, and
the gradient goes to all of them, in torch and here.

| | entries |
|---|---|
| support autograd in float64 | {entries} |
| covered at first and second order | {covered} |
| of those, on every sample | {wholly} |
| of those, with some samples refused | {partly} |
| of those, with differences as the judge of second order | {differences} |
| right at first order, on samples at kinks, which have no second | {first_only} |
| forward mode right at both orders, on every sample that reverse mode has right | {forward} |
| of which some samples could not be compared | {less_forward} |
| not covered | {uncovered} |
| wrong | {wrong} |

| entry | first order | second order | forward | forward over reverse | reverse over forward | not covered |
|---|---|---|---|---|---|---|
"""


def page(rows: Iterable[object]) -> str:
    """The page, from rows as they were found (certificate.Row) or as they stand on it."""
    lines = sorted(str(row) for row in rows)
    kinds = Counter(kind(line) for line in lines)
    return HEAD.format(
        version=torch.__version__.partition("+")[0],
        command=COMMAND,
        entries=len(lines),
        covered=kinds["wholly"] + kinds["partly"],
        wholly=kinds["wholly"],
        partly=kinds["partly"],
        differences=sum("(d: " in line for line in lines),
        first_only=kinds["first only"],
        forward=sum(forward_everywhere(line) is True for line in lines),
        less_forward=sum(forward_everywhere(line) is False for line in lines),
        uncovered=kinds["uncovered"],
        wrong=kinds["wrong"],
    ) + "".join(f"{line}\n" for line in lines)


def kind(line: str) -> str:
    """wholly, partly, first only, uncovered or wrong: what a line of the table says of its entry."""
    _, first, second, *_, said = cells(line)
    if said.startswith("WRONG"):
        return "wrong"
    if not first:
        return "uncovered"
    if second.startswith("-"):
        return "first only"
    return "partly" if said else "wholly"


def cells(line: str) -> list[str]:
    """The cells of a line of the table."""
    return [part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]]


def forward_everywhere(line: str) -> bool | None:
    """Was forward mode compared wherever reverse mode is right? None for an entry that is right nowhere, or wrong."""
    _, *numbers, said = cells(line)
    if said.startswith("WRONG") or not numbers[0]:
        return None
    first, second, *forward = (int(re.sub(r"\D.*", "", number) or 0) for number in numbers)
    return forward == [first, second, second]


def rows_of(text: str) -> dict[str, str]:
    """name of entry -> its line on the page."""
    lines = text.partition("| entry |")[2].splitlines()[2:]
    return {line.split("|")[1].strip(): line for line in lines}


def cell(text: str) -> str:
    """A text as it stands in a table."""
    return " ".join(text.replace("|", "\\|").split())[:150]
