"""A TPM's own count of failed authorizations, read before a PIN is tried, since tpm2-pkcs11 does not report it.

There is one count for the whole TPM: a wrong PIN of any token raises it, and so does a power cut while the TPM is in
use. At the limit the TPM refuses even the right PIN; while powered it forgets one failed try per interval (TPM 2.0
Library Part 1, "Dictionary Attack Protection").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll.errors import PinFinalTryError, PinLockedError
from hsm_enroll.token.tpm2 import is_tpm2, tools

if TYPE_CHECKING:
    from hsm_enroll.key import TokenName

# TPM 2.0 Library Part 2, TPM_PT: UINT32 each.
_PROPERTY = re.compile(
    rb"^TPM2_PT_(LOCKOUT_COUNTER|MAX_AUTH_FAIL|LOCKOUT_INTERVAL): 0x([0-9A-Fa-f]{1,8})$", re.MULTILINE
)


class FailedTries(NamedTuple):
    """How close a TPM is to its lockout.

    Attributes:
        failed_tries: TPM_PT_LOCKOUT_COUNTER: the failed authorizations that it remembers.
        limit: TPM_PT_MAX_AUTH_FAIL: the number of failed authorizations that lock it; at least 1.
        interval_seconds: TPM_PT_LOCKOUT_INTERVAL: the time in which it forgets one failed try; at least 1.
    """

    failed_tries: int
    limit: int
    interval_seconds: int

    @property
    def locked(self) -> bool:
        """Whether the TPM refuses every PIN now."""
        return self.failed_tries >= self.limit

    @property
    def one_before_lockout(self) -> bool:
        """Whether one more failed try locks the TPM; not with a limit of 1, where even a new TPM has only one try."""
        return 0 < self.failed_tries == self.limit - 1

    @property
    def summary(self) -> str:
        """The count for people to read, the end of a sentence: "2 of the 3 failed tries that lock it"."""
        return f"{self.failed_tries} of the {self.limit} failed tries that lock it"

    @property
    def recovery(self) -> str:
        """How the count goes down, for people to read; two sentences."""
        pace = _duration(self.interval_seconds)
        return f"Power cuts count as failed tries too. While powered, this TPM forgets one failed try every {pace}."

    @property
    def next_try(self) -> str:
        """When a PIN may be tried again, from now, for people to read; a sentence."""
        to_forget = self.failed_tries - max(self.limit - 2, 0)
        time = _duration(to_forget * self.interval_seconds)
        return f"Try again in {time}, or reset the count: tpm2_dictionarylockout --clear-lockout"


def read(token: TokenName, *, time_limit: float = tools.TIME_LIMIT_SECONDS) -> FailedTries | None:
    """Read the count of a tpm2-pkcs11 token's TPM with tpm2-tools, in a child process; no login.

    Does *not* support a TPM that is named only in the token's store, nor notice what other programs try afterwards.

    Args:
        token: which token.
        time_limit: seconds until the tool is killed.

    Returns:
        The count; None if the token is not a tpm2-pkcs11 one, if the tool is missing, fails or hangs, and if
        :func:`parse` returns None.
    """
    if not is_tpm2(token):
        return None
    tool = tools.run("tpm2_getcap", "properties-variable", time_limit=time_limit)
    return parse(tool.stdout) if tool is not None and tool.succeeded else None


def parse(output: bytes) -> FailedTries | None:
    """Parse the output of ``tpm2_getcap properties-variable``.

    Returns:
        The count; None if a property is missing or occurs twice, if the limit is 0, since waiting does not help then,
        and if the interval is 0: such a TPM does not count (TPM 2.0 Library Part 3, TPM2_DictionaryAttackParameters).
    """
    found = _PROPERTY.findall(output)
    properties = {name: int(value, 16) for name, value in found}
    if len(found) != 3 or len(properties) != 3:
        return None
    limit, interval = properties[b"MAX_AUTH_FAIL"], properties[b"LOCKOUT_INTERVAL"]
    if limit == 0 or interval == 0:
        return None
    return FailedTries(properties[b"LOCKOUT_COUNTER"], limit, interval)


def refuse_last_try(token: TokenName, *, pin_is_certain: bool = False) -> None:
    """Check that one more wrong PIN would not lock the TPM of a tpm2-pkcs11 token; see :func:`refuse`."""
    refuse(token, read(token), pin_is_certain=pin_is_certain)


def refuse(token: TokenName, tries: FailedTries | None, *, pin_is_certain: bool) -> None:
    """Check that a login would not lock a TPM.

    Args:
        token: whose TPM.
        tries: what :func:`read` returned. A count that cannot be read passes: a locked TPM refuses the PIN itself.
        pin_is_certain: whether the PIN is known to be the token's, so that the last try may be used for it.

    Raises:
        PinLockedError: the TPM is locked.
        PinFinalTryError: the next failed try would lock it.
    """
    if tries is None:
        return
    hint = f"{tries.recovery} {tries.next_try}"
    if tries.locked:
        message = f"token {token.label!r} is locked and accepts no PIN now: its TPM counts {tries.summary}"
        raise PinLockedError(message, hint=hint)
    if tries.one_before_lockout and not pin_is_certain:
        message = (
            f"one more wrong PIN would lock token {token.label!r}, so no PIN was tried: its TPM counts {tries.summary}"
        )
        raise PinFinalTryError(message, hint=hint)


def _duration(seconds: int) -> str:
    """Return a time in a convenient unit, rounded up."""
    if seconds < 2 * 60:
        return f"{seconds} s"
    if seconds < 2 * 60 * 60:
        return f"{-(-seconds // 60)} min"
    return f"{-(-seconds // 3600)} h"
