"""One page about a sweep: python scripts/report.py SWEEP_DIR; installed, neo-report."""

from meta.cli.report import main

if __name__ == "__main__":
    main()
