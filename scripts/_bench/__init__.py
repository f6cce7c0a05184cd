"""What stands behind scripts/bench.py: Neo against its peers, each in a process of its own, in turns."""
