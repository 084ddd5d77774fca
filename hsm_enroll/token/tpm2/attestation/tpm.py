"""A connection with the TPM (TCG TSS 2.0 Enhanced System API), in which whatever is loaded is flushed at its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from tpm2_pytss.constants import TPM2_CAP, TPM2_PT
from tpm2_pytss.ESAPI import ESAPI
from tpm2_pytss.TCTILdr import TCTILdr
from tpm2_pytss.TSS2_Exception import TSS2_Exception

from hsm_enroll.errors import ModuleUnusableError, TokenRefusedError
from hsm_enroll.token.tpm2 import access
from hsm_enroll.token.tpm2.attestation.values import Timing

_T = TypeVar("_T")
_MANAGED_DEVICE = "device:/dev/tpmrm0"
# TCG TSS 2.0 Overview and Common Structures, "Response Code Layers": bits 16 to 23 say who refuses.
_LAYER_SHIFT = 16
_TPM_LAYERS = {0, 11, 12}  # the TPM itself; its resource managers, in its name and in their own
_UNREACHABLE_HINT = (
    "Check that the TPM is there and that this user may use it: hsm-enroll doctor. Without a resource manager "
    "(/dev/tpmrm0, tpm2-abrmd) only one program at a time can use it."
)
# TPM 2.0 Library Part 2, "Response Codes"; format-one codes without the number of the handle or parameter.
RC_AUTH_FAIL, RC_BAD_AUTH, RC_LOCKOUT = 0x08E, 0x0A2, 0x921
RC_FORMAT_ONE = 0x080  # it is about a handle, a parameter or a session
_MEMORY = {0x902, 0x903, 0x904}  # TPM_RC_OBJECT_MEMORY, _SESSION_MEMORY, _MEMORY


class TpmRefusedError(TokenRefusedError):
    """The TPM refused a command.

    Attributes:
        response: TPM_RC, without the number of a handle, session or parameter.
    """

    def __init__(self, message: str, *, response: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.response = response


class Tpm:
    """An open connection; see :func:`opened`.

    Args:
        esapi: the connection.
        timings: where each command's time is added.
        leaving: flushes what was loaded, in the end.
    """

    def __init__(self, esapi: ESAPI, timings: list[Timing], leaving: ExitStack) -> None:
        self.esapi = esapi
        self._timings = timings
        self._leaving = leaving

    def run(self, command: str, function: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        """Carry out a command, and note its time.

        Args:
            command: its name in TPM 2.0 Library Part 3, without "TPM2_".
            function: the method of ``esapi``.
            arguments: the method's.
            options: the method's.

        Raises:
            TpmRefusedError: the TPM refuses it.
            ModuleUnusableError: the TPM cannot be reached any more.
        """
        begin = time.monotonic()
        try:
            return function(*arguments, **options)
        except TSS2_Exception as error:
            raise _refused(command, error) from error
        finally:
            self._timings.append(Timing(command, time.monotonic() - begin))

    def until_the_end(self, handle: Any) -> Any:
        """Have a transient object or a session flushed in the end, and return it."""
        self._leaving.callback(self._flush, handle)
        return handle

    @contextmanager
    def meanwhile(self, handle: Any) -> Iterator[Any]:
        """Have it flushed at the end of the block: a TPM may have room for no more than three objects."""
        try:
            yield handle
        finally:
            self._flush(handle)

    def _flush(self, handle: Any) -> None:
        # A TPM that has stopped responding is not asked again whether it has flushed.
        with suppress(TSS2_Exception):
            self.esapi.flush_context(handle)

    def properties(self, first: int, count: int) -> dict[int, int]:
        """Return TPM properties (TPM_CAP_TPM_PROPERTIES) by their numbers."""
        get = self.esapi.get_capability
        _, found = self.run("GetCapability", get, TPM2_CAP.TPM_PROPERTIES, first, count)
        return {int(one.property): int(one.value) for one in found.data.tpmProperties}

    def handles(self, first: int) -> list[int]:
        """Return the handles of a range that are in use, from the first one on (TPM_CAP_HANDLES)."""
        found: list[int] = []
        more, begin = True, first
        while more:
            more, page = self.run("GetCapability", self.esapi.get_capability, TPM2_CAP.HANDLES, begin, 254)
            handles = [int(handle) for handle in page.data.handles]
            found += handles
            more = bool(more) and bool(handles)
            begin = found[-1] + 1 if found else first
        return found

    @property
    def has_endorsement_password(self) -> bool:
        """Whether the endorsement hierarchy has a password (TPMA_PERMANENT, endorsementAuthSet)."""
        return bool(self.properties(TPM2_PT.PERMANENT, 1)[TPM2_PT.PERMANENT] & 0b10)


@contextmanager
def opened(timings: list[Timing]) -> Iterator[Tpm]:
    """Connect with the TPM that tpm2-pkcs11 uses; without its variable, with ``/dev/tpmrm0``.

    Args:
        timings: where each command's time is added.

    Raises:
        ModuleUnusableError: it cannot be reached.
        TpmRefusedError: the block has given the library something that is malformed.
    """
    kind, _, place = os.environ.get(access.VARIABLE, "").partition(":")
    with ExitStack() as stack:
        try:
            tcti = stack.enter_context(TCTILdr(kind, place or None) if kind else TCTILdr.parse(_MANAGED_DEVICE))
            esapi = stack.enter_context(ESAPI(tcti))
        except TSS2_Exception as error:
            raise ModuleUnusableError(f"the TPM cannot be reached: {error}", hint=_UNREACHABLE_HINT) from error
        try:
            yield Tpm(esapi, timings, stack.enter_context(ExitStack()))
        except TSS2_Exception as error:
            # Not of a command: what the library was given is no structure of TPM 2.0.
            raise TpmRefusedError(f"tpm2-tss cannot use what is to be given to the TPM: {error}") from error


def _refused(command: str, error: TSS2_Exception) -> TpmRefusedError | ModuleUnusableError:
    code = int(error.rc)
    if code >> _LAYER_SHIFT not in _TPM_LAYERS:
        message = f"the TPM did not carry out TPM2_{command}: {error}"
        return ModuleUnusableError(message, hint=_UNREACHABLE_HINT)
    response = int(error.error) & 0xFFF
    message = f"the TPM refused TPM2_{command}: {error} (0x{code:x})"
    if response == RC_LOCKOUT:
        return TpmRefusedError(message, response=response, hint="It unlocks after some time: leave it powered.")
    if response in _MEMORY:
        hint = (
            "Other programs have filled its memory. Use a resource manager (/dev/tpmrm0 or tpm2-abrmd), or restart the "
            "machine."
        )
        return TpmRefusedError(message, response=response, hint=hint)
    return TpmRefusedError(message, response=response)
