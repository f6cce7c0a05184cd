"""Entry points of a checkout. What they run is in meta/cli/ (installed with the packages) and in benchmarks/."""
