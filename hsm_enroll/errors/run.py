"""Errors of a run as such: how it was called, the machine it runs on, and how it ended."""

from __future__ import annotations

from typing import Any

from hsm_enroll.errors.base import HsmEnrollError


class UsageError(HsmEnrollError):
    """The command line or the configuration is invalid.

    The message names the option, the variable or the line of ``config.toml`` that the value came from. An option or
    an invite that contradicts what is in place on an enrolled device is an error too: only ``--new-key`` replaces
    that.

    Attributes:
        reason: stable kebab-case name of what is invalid, by which it can be explained in another language; may be "".
    """

    code = "usage"
    exit_status = 2
    default_hint = "Run the command with --help to see its options."

    def __init__(self, message: str, *, hint: str | None = None, reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class ClockError(HsmEnrollError):
    """This machine's clock cannot be right, so nothing was done that depends on it.

    It says a date before 2026 or after 2048, or one before the device's own certificate, or it differs from the
    API's clock by more than five minutes. A gateway without a battery for its clock starts in the past.
    """

    code = "clock-wrong"
    exit_status = 1
    retryable = True
    default_hint = "Set the clock, or start NTP, then run the same command again."


class MachineLimitError(HsmEnrollError):
    """This machine, or a limit of this process, has no open file, process or memory left.

    The message says which. A shell's ``ulimit``, a service's ``LimitNOFILE=``, ``TasksMax=`` and ``MemoryMax=``,
    and a container's limits decide how much there is.
    """

    code = "machine-limit"
    exit_status = 50
    retryable = True
    default_hint = "Stop other programs, then run the same command again."


class OutputError(HsmEnrollError):
    """Standard output cannot be written, for example because its disk is full."""

    code = "output-unwritable"
    exit_status = 53
    default_hint = (
        "What the command did stands; only its output is lost. Check the free space where standard output goes."
    )


class ServiceError(HsmEnrollError):
    """The services of systemd cannot be installed, removed or looked at.

    ``hsm-enroll service status`` says which one does not run.
    """

    code = "service-failed"
    default_hint = "Run systemctl status and journalctl, which say more."


class InterruptedRunError(HsmEnrollError):
    """The user stopped the run; what was done is in the journal, and the next run resumes.

    Exit status 130 is Ctrl-C (SIGINT), 143 is SIGTERM.

    Attributes:
        declined: whether the user answered no to a question, so that nothing was begun.
        signal: the signal that has stopped it, by which the process's exit status is 128 and more.
    """

    code = "interrupted"
    exit_status = 130
    retryable = True
    default_hint = "Run the same command again: it resumes."

    def __init__(self, message: str, *, hint: str | None = None, declined: bool = False) -> None:
        super().__init__(message, hint="" if declined else hint)
        self.declined = declined
        self.signal = 2  # SIGINT; importing signal takes longer than all of this module

    @property
    def document(self) -> dict[str, Any]:
        """As for any error, with the exit status that belongs to the signal."""
        return {**super().document, "exitStatus": 128 + self.signal}
