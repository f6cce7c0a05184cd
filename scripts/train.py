"""Meta-train: python scripts/train.py task=omniglot seed=1; installed, neo-train. See meta/cli/train.py."""

from neo.__main__ import train

if __name__ == "__main__":
    train()
