"""Zhaiju against other ways to run the same weights: `python -m benchmarks.peers`."""
