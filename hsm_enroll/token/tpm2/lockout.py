"""A TPM's own count of failed authorizations, asked before a PIN is tried, since tpm2-pkcs11 reports none of it.

One count stands for the whole TPM: wrong PINs of any token raise it, and so do power cuts while it was in use. At its
limit the TPM refuses every protected object, the right PIN included; it forgets one failed try each interval while it
has power (TPM 2.0 Library Part 1, "Dictionary Attack Protection").
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll.errors import PinFinalTryError, PinLockedError
from hsm_enroll.token.tpm2 import is_tpm2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hsm_enroll.key import TokenName

_TOOL = ("tpm2_getcap", "properties-variable")
# The answer is there within milliseconds; a TPM that another program holds makes the tool wait without an end.
_TIME_LIMIT_SECONDS = 5.0
# TPM 2.0 Library Part 2, TPM_PT: UINT32 each.
_PROPERTY = re.compile(
    rb"^TPM2_PT_(LOCKOUT_COUNTER|MAX_AUTH_FAIL|LOCKOUT_INTERVAL): 0x([0-9A-Fa-f]{1,8})$", re.MULTILINE
)


class FailedTries(NamedTuple):
    """How near a TPM is to its lockout.

    Attributes:
        failed_tries: TPM_PT_LOCKOUT_COUNTER: failed authorizations that it remembers.
        limit: TPM_PT_MAX_AUTH_FAIL: as many lock it; at least 1.
        interval_seconds: TPM_PT_LOCKOUT_INTERVAL: it forgets one failed try in this time, in seconds; at least 1.
    """

    failed_tries: int
    limit: int
    interval_seconds: int

    @property
    def locked(self) -> bool:
        """Whether it refuses every PIN now."""
        return self.failed_tries >= self.limit

    @property
    def one_before_lockout(self) -> bool:
        """Whether one more failed try locks it, and time makes that better: a limit of 1 leaves a fresh TPM none."""
        return 0 < self.failed_tries == self.limit - 1

    @property
    def counted(self) -> str:
        """The count for people to read, the end of a sentence: "2 of the 3 failed tries that lock it"."""
        return f"{self.failed_tries} of the {self.limit} failed tries that lock it"

    @property
    def healing(self) -> str:
        """How it heals, for people to read; a sentence."""
        pace = _duration(self.interval_seconds)
        return (
            f"Power cuts count too. A TPM heals with time: while powered this one forgets one failed try every {pace}."
        )

    @property
    def waiting(self) -> str:
        """When a PIN may be tried again, as of now, for people to read; a sentence."""
        to_forget = self.failed_tries - max(self.limit - 2, 0)
        time = _duration(to_forget * self.interval_seconds)
        return f"A PIN may be tried again in at most {time}, or after: tpm2_dictionarylockout --clear-lockout"


def read(token: TokenName, *, time_limit: float = _TIME_LIMIT_SECONDS) -> FailedTries | None:
    """Ask the TPM of a tpm2-pkcs11 token for its count, with tpm2-tools, in a child process; no login.

    The tool is led to the TPM that ``TPM2_PKCS11_TCTI`` names, as tpm2-pkcs11 is, and else looks for the machine's own.
    Does *not* know a TPM that only the token's own store names, nor what other programs try after the answer.

    Args:
        token: which token.
        time_limit: seconds until the tool is killed.

    Returns:
        None where the token is no tpm2-pkcs11 one, where the tool is missing, fails or hangs, and as :func:`parse`.
    """
    if not is_tpm2(token):
        return None
    import subprocess

    try:
        tool = subprocess.run(
            _TOOL,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=time_limit,
            check=True,
            env=_environment(os.environ),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse(tool.stdout)


def parse(answer: bytes) -> FailedTries | None:
    """Read what ``tpm2_getcap properties-variable`` printed.

    Returns:
        None where a property is missing or there twice, where the limit is 0, which no time heals, and where the
        interval is 0: such a TPM does not count (TPM 2.0 Library Part 3, TPM2_DictionaryAttackParameters).
    """
    found = _PROPERTY.findall(answer)
    properties = {name: int(value, 16) for name, value in found}
    if len(found) != 3 or len(properties) != 3:
        return None
    limit, interval = properties[b"MAX_AUTH_FAIL"], properties[b"LOCKOUT_INTERVAL"]
    if limit == 0 or interval == 0:
        return None
    return FailedTries(properties[b"LOCKOUT_COUNTER"], limit, interval)


def refuse_last_try(token: TokenName) -> None:
    """See that one wrong PIN more would not lock the TPM of a tpm2-pkcs11 token; any other token passes.

    A count that cannot be read passes too: the module refuses a locked TPM itself.

    Raises:
        PinLockedError: the TPM is locked.
        PinFinalTryError: the next failed try would lock it.
    """
    tries = read(token)
    if tries is None:
        return
    hint = f"{tries.healing} {tries.waiting}"
    if tries.locked:
        message = f"token {token.label!r} is locked and accepts no PIN now: its TPM counts {tries.counted}"
        raise PinLockedError(message, hint=hint)
    if tries.one_before_lockout:
        message = f"one more wrong PIN locks token {token.label!r}; it was not tried: its TPM counts {tries.counted}"
        raise PinFinalTryError(message, hint=hint)


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    # A TPM that was chosen for tpm2-tools alone is not the module's; and the tool has no use for our PIN.
    kept = {name: value for name, value in inherited.items() if name not in {"TPM2TOOLS_TCTI", "HSM_ENROLL_PIN"}}
    if "TPM2_PKCS11_TCTI" in inherited:
        kept["TPM2TOOLS_TCTI"] = inherited["TPM2_PKCS11_TCTI"]
    return kept


def _duration(seconds: int) -> str:
    """Write a time in the unit that reads best, rounded up."""
    if seconds < 2 * 60:
        return f"{seconds} s"
    if seconds < 2 * 60 * 60:
        return f"{-(-seconds // 60)} min"
    return f"{-(-seconds // 3600)} h"
