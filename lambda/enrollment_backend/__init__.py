"""The enrollment backend: takes a CSR over HTTP, verifies it, and has AWS IoT issue a certificate for it."""

from __future__ import annotations

__version__ = "0.1.0"
