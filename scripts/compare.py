"""Every algorithm within its budget, for docs/algorithms.md: python scripts/compare.py data_dir=..."""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # benchmarks/ is part of a checkout, and never installed

from benchmarks.algorithms import main

if __name__ == "__main__":
    main()
