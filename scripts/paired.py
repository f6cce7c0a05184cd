"""Compare two runs task by task: python scripts/paired.py RUN RUN; installed, neo-paired."""

from meta.cli.paired import main

if __name__ == "__main__":
    main()
