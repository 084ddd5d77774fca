"""What a device does with its identity, one module per use case."""
