"""Scripts that run in the peers' own environments. They import nothing of zhaiju but `_rounds`, by its file."""
