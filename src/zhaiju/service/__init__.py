"""The HTTP service: `zhaiju serve`."""
