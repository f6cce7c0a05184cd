"""Foretell memory and time: python scripts/plan.py task=omniglot; installed, neo-plan. See meta/cli/plan.py."""

from neo.__main__ import plan

if __name__ == "__main__":
    plan()
