"""A notebook's code cells, run one after the other as Jupyter would, without Jupyter.

`python -m tests.helpers.notebook docs/first-hour.ipynb` runs one and writes what its cells print into it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["printed", "run"]


def run(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Each code cell, with what it prints. Raises: what a cell raises, with the cell's number in a note."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
        except Exception as error:
            error.add_note(f"in cell {number} of {path}")
            raise
        found.append((cell, out.getvalue()))
    return found


def printed(cell: dict[str, Any]) -> str:
    """What the notebook says that a cell prints."""
    return "".join(text for output in cell["outputs"] for text in output.get("text", []))


def main(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    outputs = iter([text for _, text in run(path)])
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            text = next(outputs)
            stream = {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
            cell["outputs"] = [stream] if text else []
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
