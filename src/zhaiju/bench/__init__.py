"""Zhaiju against other ways to run the same weights on the same machine."""
