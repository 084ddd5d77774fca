"""What an earlier run did not finish, for whoever asks how this device is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from hsm_enroll.errors import UsageError
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import Retirement

if TYPE_CHECKING:
    from pathlib import Path

    from hsm_enroll.key import KeyType
    from hsm_enroll.store.identity import Identity


class What(StrEnum):
    """What is not finished: the first certificate, another key's, only the first message, a renewal, a retirement."""

    ENROLLMENT = "enrollment"
    REPLACEMENT = "replacement"
    MESSAGE = "message"
    RENEWAL = "renewal"
    RETIREMENT = "retirement"


_SUBJECT = {
    What.ENROLLMENT: "an enrollment",
    What.REPLACEMENT: "the key's replacement",
    What.MESSAGE: "the first message",
    What.RENEWAL: "a renewal",
    What.RETIREMENT: "the retirement",
}
_OF_A_THING = {What.RENEWAL, What.RETIREMENT}
_STATE = {
    What.ENROLLMENT: "is not finished",
    What.REPLACEMENT: "is not finished",
    What.MESSAGE: "was not sent",
    What.RENEWAL: "is not finished",
    What.RETIREMENT: "is not finished",
}
_ADVICE = {
    What.ENROLLMENT: "To finish it, run the same hsm-enroll init command again: it resumes.",
    What.REPLACEMENT: "To finish it: hsm-enroll init --new-key INVITE",
    What.MESSAGE: "To send it: hsm-enroll init",
    What.RENEWAL: "To finish it: hsm-enroll renew",
    What.RETIREMENT: "To finish it: hsm-enroll retire",
}


@dataclass(frozen=True, slots=True)
class Pending:
    """An unfinished enrollment, renewal or retirement.

    Attributes:
        what: what is not finished.
        thing_name: the Thing; None if that is not known before there is a request.
        key_type: type of its key.
        token_label: label of the token that its key is or will be in.
    """

    what: What
    thing_name: str | None
    key_type: KeyType
    token_label: str

    @property
    def message(self) -> str:
        """That it is not finished, for a person."""
        return f"{self._what} {_STATE[self.what]}{self._key}"

    @property
    def subject(self) -> str:
        """What is not finished, for a person who is told that it is not."""
        if self.what is What.MESSAGE:
            return self.message
        return f"{self._what}{self._key}"

    @property
    def _what(self) -> str:
        of = f" of {self.thing_name}" if self.what in _OF_A_THING else ""
        return f"{_SUBJECT[self.what]}{of}"

    @property
    def _key(self) -> str:
        if self.what is What.MESSAGE:
            return ""
        new = "new " if self.what is What.RENEWAL else ""
        thing = f" as {self.thing_name}" if self.thing_name and self.what not in _OF_A_THING else ""
        return f" ({new}{self.key_type} key in token {self.token_label!r}{thing})"

    @property
    def advice(self) -> str:
        """What to do about it."""
        return _ADVICE[self.what]


def pending(folder: Path, identity: Identity | None) -> Pending | None:
    """Return what is not finished; None if everything is.

    Args:
        folder: the state folder.
        identity: the identity in it; None if there is none.

    Raises:
        StateError, StateCorruptError, StateTooNewError: a journal cannot be used.
    """
    retirement = Retirement.load(folder)
    if retirement is not None:
        return Pending(What.RETIREMENT, retirement.thing_name, retirement.key_type, retirement.token.label)
    # Without an identity there is nothing to renew: one that was lost has to be recovered first.
    renewal = None if identity is None else Renewal.load(folder)
    if identity is not None and renewal is not None:
        return Pending(What.RENEWAL, identity.thing_name, renewal.key_type, renewal.token.label)
    attempt = Attempt.load(folder)
    if attempt is None:
        return None
    if identity is not None and identity.key_id == attempt.key_id:
        return Pending(What.MESSAGE, identity.thing_name, identity.key_type, identity.token.label)
    what = What.ENROLLMENT if identity is None else What.REPLACEMENT
    return Pending(what, _thing_name(attempt), attempt.key_type, attempt.token.label)


def refuse_while_retiring(folder: Path) -> None:
    """Check that no retirement is in progress: its identity is about to go.

    Raises:
        UsageError: one is.
        StateError, StateCorruptError, StateTooNewError: its journal cannot be used.
    """
    if Retirement.load(folder) is not None:
        message = "the retirement of this device is not finished"
        raise UsageError(message, hint=f"{_ADVICE[What.RETIREMENT]}. Then the device can be enrolled again.")


def _thing_name(attempt: Attempt) -> str | None:
    if attempt.csr is None:
        return None
    from hsm_enroll.x509 import csr

    return csr.common_name(attempt.csr) or None
