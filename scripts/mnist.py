"""The 784-256-64-10 MLP on MNIST, Neo beside PyTorch: python scripts/mnist.py epochs=1. See benchmarks/mnist.py."""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # benchmarks/ is part of a checkout, and never installed

from benchmarks.mnist import main

if __name__ == "__main__":
    main()
