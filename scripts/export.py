"""A run's model for torch without Neo: python scripts/export.py run_dir=outputs/...; installed, neo-export."""

from neo.__main__ import export

if __name__ == "__main__":
    export()
