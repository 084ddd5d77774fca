"""The enrollment backend: a verified CSR in, an AWS IoT certificate out. HTTP at one edge, AWS at the other."""

from __future__ import annotations

__version__ = "0.1.0"
