"""Compare two runs task by task: python scripts/paired.py RUN RUN; installed, neo-paired."""

from neo.__main__ import paired

if __name__ == "__main__":
    paired()
