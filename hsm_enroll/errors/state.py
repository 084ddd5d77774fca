"""Errors of the state folder, and of the identity that it holds or lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hsm_enroll.errors.base import HsmEnrollError


class NotEnrolledError(HsmEnrollError):
    """This device has no identity.

    The state folder holds no identity. Each user has a folder of their own, unless they can read root's,
    /var/lib/hsm-enroll, or HSM_ENROLL_HOME names one: a device that root has enrolled is not enrolled for another
    user.

    Attributes:
        pending: the enrollment that is not finished, as ``status --json`` shows it; None if there is none.
    """

    code = "not-enrolled"
    exit_status = 3
    default_hint = "Run: hsm-enroll init INVITE. If the state folder was lost, run: hsm-enroll recover"

    def __init__(self, message: str, *, hint: str | None = None, pending: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pending = pending

    @property
    def document(self) -> dict[str, Any]:
        """As for any error; with the pending enrollment, if there is one."""
        return {**super().document, **({"pending": dict(self.pending)} if self.pending else {})}


class RetiredLocallyError(HsmEnrollError):
    """This device is retired, but the cloud may not have been told: its certificate may still be active there.

    The message says what the operator has to do, if anything.
    """

    code = "retired-locally"
    exit_status = 34
    default_hint = "Ask the operator to revoke the Thing with hsm-enroll fleet revoke."


class StateError(HsmEnrollError):
    """A file in the state folder cannot be read or written.

    The message names the file and the system's reason.
    """

    code = "state-unusable"
    exit_status = 50
    default_hint = "Check the folder's owner, its free space and whether it is mounted read-only."


class StateCorruptError(HsmEnrollError):
    """A file in the state folder is damaged, or was written by another program.

    It is left as it is. If the key is still in the token, ``hsm-enroll recover`` replaces a damaged identity.
    """

    code = "state-corrupt"
    exit_status = 50
    default_hint = "Restore the file from a backup, or move it away and run hsm-enroll init again."


class StateTooNewError(HsmEnrollError):
    """A file in the state folder was written by a newer version of this program."""

    code = "state-too-new"
    exit_status = 52
    default_hint = "Install the version of hsm-enroll that wrote it, or a newer one."


class OutboxFullError(HsmEnrollError):
    """The outbox has no room for the message, which was not queued."""

    code = "outbox-full"
    exit_status = 50
    retryable = True
    default_hint = (
        "Messages leave the outbox when they are delivered: check with hsm-enroll status that hsm-enroll forward is "
        "running and connected. HSM_ENROLL_OUTBOX_BYTES sets how much fits."
    )


class BusyError(HsmEnrollError):
    """Another run holds the state folder's lock.

    One command at a time changes the state.
    """

    code = "busy"
    exit_status = 51
    retryable = True
    default_hint = "Wait until the other run has finished."
