"""One training loop, what consumes its events, and evaluation."""
