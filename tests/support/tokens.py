"""What a module shows, asked as every command asks: through a worker."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens


def listed(module: Path) -> list[TokenReport]:
    """Return a module's tokens, uninitialised ones included."""
    with Tokens() as tokens:
        return tokens.listed(module)


def token_of(module: Path) -> TokenReport:
    """Return a module's only initialised token."""
    [report] = [report for report in listed(module) if report.initialized]
    return report
