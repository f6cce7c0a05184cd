"""Evaluate a run on unseen tasks: python scripts/evaluate.py run_dir=outputs/...; installed, neo-evaluate."""

from neo.__main__ import evaluate

if __name__ == "__main__":
    evaluate()
