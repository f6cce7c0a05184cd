"""Evaluate a run on unseen tasks: python scripts/evaluate.py run_dir=outputs/...; installed, neo-evaluate."""

from meta.cli.evaluate import main

if __name__ == "__main__":
    main()
