"""What a device does with its identity, a module for each use case."""
