"""Loaded before pytest reads its options, wherever it is started."""

from __future__ import annotations

import gc
import signal

pytest_plugins = ["tests.tokens.options"]


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs that tests start, even if pytest itself was started with SIGINT ignored.

    The shell ignores it for what a script starts with ``&``. A program inherits an ignored signal; a handled one is
    back at its default there (execve(2)).
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)


def pytest_collection_finish() -> None:
    """Keep the collector from going through moto's modules and tables, which stay, again and again."""
    gc.freeze()
