"""Hydra configuration: wiring only."""
