"""A user without rights, in the test's own process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

_NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give root's rights up inside the block; only root can."""
    groups = os.getgroups()
    # Imported while this user may still read the interpreter's own files.
    import_module("sqlite3")
    os.setgroups([])
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
