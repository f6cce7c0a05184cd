"""One page about a sweep: python scripts/report.py SWEEP_DIR; installed, neo-report."""

from neo.__main__ import report

if __name__ == "__main__":
    report()
