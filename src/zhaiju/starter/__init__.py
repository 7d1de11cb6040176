"""The project's own sample texts; later the packaged small models."""
