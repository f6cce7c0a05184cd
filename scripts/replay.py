"""Meet a task of a run again: python scripts/replay.py run_dir=outputs/... iteration=9 slot=7; or neo-replay."""

from neo.__main__ import replay

if __name__ == "__main__":
    replay()
