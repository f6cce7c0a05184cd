"""Searches for good settings by Optuna: -m sweep=optuna. See docs/sweeps.md."""
