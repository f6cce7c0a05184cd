"""Hold a published number against our own: python scripts/reproduce.py name=...; installed, neo-reproduce."""

from neo.__main__ import reproduce

if __name__ == "__main__":
    reproduce()
