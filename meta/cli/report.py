"""One page about a sweep, to be opened in a browser: python scripts/report.py SWEEP_DIR

A table of the arms with paired differences and their intervals, learning curves, parallel coordinates, and how the
configurations differ. Arms that failed, or have not finished, are shown as such; a single run's folder serves too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from meta import report
from meta.cli import command
from meta.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(prog="report", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="SWEEP_DIR", help="of a sweep, or of a run")
    parser.add_argument(
        "--baseline", metavar="ARM", help="to compare with; the best by validation if not given"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="SWEEP_DIR/report.html if not given")
    arguments = parser.parse_args()
    with command.report_errors():
        sweep = report.read(arguments.folder)
        path = arguments.out or arguments.folder / "report.html"
        atomic_write(path, report.page(sweep, baseline=arguments.baseline).encode())
        for arm in sweep.arms:
            if arm.status == "inconsistent":
                command.print_error(f"{arm.name} is left out of all comparisons: {arm.reason}")
        print(f"{path}: {len(sweep.arms)} arm{'s' if len(sweep.arms) != 1 else ''}")


if __name__ == "__main__":
    main()
