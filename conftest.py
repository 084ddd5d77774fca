"""Loaded before pytest reads its options, wherever it is started."""

from __future__ import annotations

import gc

pytest_plugins = ["tests.tokens.options"]


def pytest_collection_finish() -> None:
    """Keep the collector from going through moto's modules and tables, which stay, again and again."""
    gc.freeze()
