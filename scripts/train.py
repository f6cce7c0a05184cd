"""Meta-train: python scripts/train.py task=omniglot seed=1; installed, neo-train. See meta/cli/train.py."""

from meta.cli.train import main

if __name__ == "__main__":
    main()
