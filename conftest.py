"""Loaded before pytest reads its options, wherever it is started."""

pytest_plugins = ["tests.tokens.options"]
