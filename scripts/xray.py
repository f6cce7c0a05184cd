"""Split a run's meta-gradient into its parts: python scripts/xray.py run_dir=outputs/...; installed, neo-xray."""

from neo.__main__ import xray

if __name__ == "__main__":
    xray()
