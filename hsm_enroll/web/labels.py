"""New invites as labels to print: each has a code, and is shown once."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import segno
from markupsafe import Markup

from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.operator.records import CreatedInvite
from hsm_enroll.secret import Secret


@dataclass(frozen=True, slots=True)
class Sheet:
    """What became of a request for invites.

    Attributes:
        invites: those that were created.
        left: names of the Things that have none.
        error: why they have none; None if all were created.
    """

    invites: Sequence[CreatedInvite]
    left: Sequence[str] = ()
    error: HsmEnrollError | None = None


class Sheets:
    """Keeps sheets in memory until each has been shown."""

    def __init__(self) -> None:
        self._waiting: dict[str, Sheet] = {}
        self._lock = threading.Lock()

    def keep(self, sheet: Sheet) -> str:
        """Keep a sheet, and return the name with which it can be taken once."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._waiting[name] = sheet
        return name

    def take(self, name: str) -> Sheet | None:
        """Return a sheet and forget it; None if it was taken already."""
        with self._lock:
            return self._waiting.pop(name, None)


def qr_code(url: Secret) -> Markup:
    """Return an invite as a QR code (ISO/IEC 18004), as inline SVG; up to a seventh of it may be unreadable."""
    code = segno.make_qr(url.reveal(), error="m")
    return Markup(code.svg_inline(omitsize=True, svgclass=None, lineclass=None))  # noqa: S704 - segno's own markup
