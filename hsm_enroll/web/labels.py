"""New invites as labels to print: each has a code, and is shown once."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import segno
from markupsafe import Markup
from werkzeug.datastructures import MultiDict

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
        replaces: whether the invites replace the keys that their Things have.
    """

    invites: Sequence[CreatedInvite]
    left: Sequence[str] = ()
    error: HsmEnrollError | None = None
    replaces: bool = False

    @property
    def enrolled(self) -> list[str]:
        """Names of the Things for which the invites cannot be used, since these Things keep the keys that they have."""
        return [] if self.replaces else [one.thing for one in self.invites if one.thing_status in {"claimed", "issued"}]


class Sheets:
    """Keeps sheets in memory until each has been shown."""

    def __init__(self) -> None:
        self._waiting: dict[str, Sheet] = {}
        self._named: dict[tuple[tuple[str, str], ...], str] = {}
        self._lock = threading.Lock()

    def of_form(self, form: MultiDict[str, str], make: Callable[[], Sheet]) -> str:
        """Return the name with which the sheet for a form can be taken once.

        A form is sent twice by a double click: the second time it leads to the sheet of the first.

        Args:
            form: as it was sent. It has a number of its own, so that the same wish in a new form is another one.
            make: creates the invites.
        """
        sent = tuple(sorted(form.items(multi=True)))
        with self._lock:
            if sent not in self._named:
                sheet, name = make(), secrets.token_urlsafe(12)
                self._waiting[name] = sheet
                self._named[sent] = name
            return self._named[sent]

    def take(self, name: str) -> Sheet | None:
        """Return a sheet and forget it; None if it was taken already."""
        return self._waiting.pop(name, None)


def qr_code(url: Secret) -> Markup:
    """Return an invite as a QR code (ISO/IEC 18004), as inline SVG; up to a seventh of it may be unreadable."""
    code = segno.make_qr(url.reveal(), error="m")
    return Markup(code.svg_inline(omitsize=True, svgclass=None, lineclass=None))  # noqa: S704 - segno's own markup
