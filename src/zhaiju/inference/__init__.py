"""From examples to predictions: backends, the engine, and select and read joined."""
