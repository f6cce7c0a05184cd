"""Neo against its peers: python scripts/bench.py works=[w1,w4] rounds=5. See benchmarks/bench.py."""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # benchmarks/ is part of a checkout, and never installed

from benchmarks.bench import main

if __name__ == "__main__":
    main()
