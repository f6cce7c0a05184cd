"""Draw the picture of docs/tape.md anew, and print its table there, from the code on that page; needs graphviz."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tape.md"


BLOCKS = re.compile(
    r"^```python\n(?P<code>.*?)^```\n\n```text\n(?P<printed>.*?)^```$", re.MULTILINE | re.DOTALL
)


def run_page(text: str) -> tuple[Any, str]:
    """Run the page's first Python block: what it leaves in `picture`, an autograd.Drawing, and what it prints."""
    block = BLOCKS.search(text)
    if block is None:
        raise ValueError(f"{PAGE}: expected a Python block with a text block after it, found none")
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block["code"], str(PAGE), "exec"), names)
    return names["picture"], printed.getvalue()


def main() -> None:
    text = PAGE.read_text()
    picture, printed = run_page(text)
    start, end = BLOCKS.search(text).span("printed")  # type: ignore[union-attr]
    PAGE.write_text(text[:start] + printed + text[end:])
    print(f"written: {PAGE}, {picture.save(PAGE.with_suffix('.svg'))}")


if __name__ == "__main__":
    main()
