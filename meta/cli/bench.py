"""neo-bench: the benchmark of the checkout that Neo is installed from.

The benchmark is not installed: it compares with libraries that are built for it, and keeps its records in docs/. Where
Neo runs from a checkout (pip install -e .), this is the checkout's scripts/bench.py; elsewhere it says where to look.
"""

from __future__ import annotations

import runpy
import sys

from meta.cli.configs import CONF

SCRIPT = CONF.parent / "scripts" / "bench.py"


def main() -> None:
    if not (CONF.parent / "benchmarks").is_dir() or not SCRIPT.is_file():
        sys.exit(
            "error: the benchmark is not installed with Neo; run it in a checkout of Neo's sources: make bench, or "
            "python scripts/bench.py."
        )
    runpy.run_path(str(SCRIPT), run_name="__main__")
