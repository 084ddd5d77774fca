"""The TPM's own word about itself and about keys, from a process of its own: a TPM may hang, and its library crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hsm_enroll.errors import ModuleUnusableError, PinWrongError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import child, login
from hsm_enroll.token.tpm2 import access
from hsm_enroll.token.tpm2.attestation import missing_library
from hsm_enroll.token.tpm2.attestation.values import Certified, Presented, Timing, TpmInfo
from hsm_enroll.token.worker import Process

# A physical TPM takes half a minute for an RSA endorsement key, and an RSA key that is generated at the same time goes
# first.
TIME_LIMIT_SECONDS = 180.0
"""The time after which a call gives up."""


def _serve(descriptor: int) -> None:
    from hsm_enroll.token.tpm2.attestation import serving

    serving.serve(descriptor)


_TPM = child.Job("the TPM", _serve, "hsm_enroll.token.tpm2.attestation.serving")


class Attestor:
    """This machine's TPM, as tpm2-pkcs11 reaches it; as a context manager it ends the process that talks to it.

    Between two calls nothing of ours is in the TPM, and it is not held open.

    Args:
        attestation_key: handle of a persistent attestation key; None is a primary key that the TPM derives each time.

    Attributes:
        timings: the TPM commands of all calls so far, in their order.
    """

    def __init__(self, attestation_key: int | None = None) -> None:
        self._attestation_key = attestation_key
        self._process: Process | None = None
        self._loaded = False
        self.timings: list[Timing] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.end()

    def start(self) -> None:
        """Start the process, which loads its library while this one goes on; without this, the first call does.

        Raises:
            MachineLimitError: no process can be started.
        """
        if self._process is None:
            self._process = Process(_TPM.subject, child.start(_TPM))
            self._process.send("load")

    def endorsement(self, rank: int = 0) -> Presented:
        """Return the keys by which the TPM presents itself.

        Args:
            rank: which endorsement key: 0 is the preferred one, 1 the next one.

        Returns:
            The keys. Those with a certificate come first, and P-384 before P-256 before RSA-2048.

        Raises:
            ModuleUnusableError: the TPM cannot be reached, hangs, or its library is missing or crashes.
            TokenRefusedError: the TPM refuses a command, or has no endorsement key of this rank.
        """
        return Presented.from_json(self._request("endorsement", rank=rank, attestation_key=self._attestation_key))

    def activate(self, credential_blob: bytes, encrypted_secret: bytes) -> bytes:
        """Decrypt a secret that was encrypted to the keys that :meth:`endorsement` returned last.

        Args:
            credential_blob: TPM2B_ID_OBJECT.
            encrypted_secret: TPM2B_ENCRYPTED_SECRET.

        Returns:
            The secret.

        Raises:
            ModuleUnusableError: as for :meth:`endorsement`.
            TokenRefusedError: the TPM refuses it: it is for other keys, or malformed.
        """
        blobs = {"credential_blob": credential_blob.hex(), "encrypted_secret": encrypted_secret.hex()}
        return bytes.fromhex(self._request("activate", **blobs))

    def certify(
        self, token: TokenName, *, key_label: str, key_id: bytes, pin: Secret | None, qualifying_data: bytes
    ) -> Certified:
        """Have the TPM certify a key of a tpm2-pkcs11 token, with one try of its PIN.

        Args:
            token: the key's token.
            key_label: CKA_LABEL.
            key_id: CKA_ID.
            pin: the token's PIN; None for a token that has none.
            qualifying_data: what the statement is to repeat, up to 32 bytes.

        Raises:
            ModuleUnusableError: as for :meth:`endorsement`; or tpm2-pkcs11's store cannot be read.
            PinWrongError, PinLockedError, PinFinalTryError: the TPM refuses the PIN, or it was not tried.
            TokenNotFoundError, TokenAmbiguousError, KeyMissingError, KeyAmbiguousError: the store does not have one
                such token, or one such key in it.
            TokenRefusedError: the TPM refuses a command.
        """
        process = self._loaded_process()
        origin = login.origin_of(pin) if pin is not None else login.Origin()
        arguments = {
            "token": [str(token.module), *token[1:]],
            "key_label": key_label,
            "key_id": key_id.hex(),
            "pin": "" if pin is None else pin.reveal(),
            "pin_is_certain": origin.is_certain,
            "qualifying_data": qualifying_data.hex(),
            "attestation_key": self._attestation_key,
        }
        process.send("certify", limit=TIME_LIMIT_SECONDS, **arguments)
        del pin, arguments  # no variable may hold the PIN when something is raised
        try:
            return Certified.from_json(self._received(process))
        except PinWrongError as error:
            raise login.wrong_pin(error, token, origin) from error

    def info(self) -> TpmInfo:
        """Return what the TPM says about itself; no PIN is tried.

        Raises:
            ModuleUnusableError: as for :meth:`endorsement`.
            TokenRefusedError: the TPM refuses a command.
        """
        return TpmInfo.from_json(self._request("info"))

    def _request(self, operation: str, **arguments: Any) -> Any:
        process = self._loaded_process()
        process.send(operation, limit=TIME_LIMIT_SECONDS, **arguments)
        return self._received(process)

    def _loaded_process(self) -> Process:
        if (missing := missing_library()) is not None:
            raise ModuleUnusableError(missing.message, hint=missing.hint)
        self.start()
        assert self._process is not None  # noqa: S101 - it was started
        if not self._loaded:
            self._process.receive()
            self._loaded = True
        return self._process

    def _received(self, process: Process) -> Any:
        with _explained():
            response = process.receive()
        self.timings += [Timing(*timing) for timing in response["timings"]]
        return response["result"]


@contextmanager
def _explained() -> Iterator[None]:
    """Have the error of a TPM that cannot be reached say why, as far as that can be found out.

    Raises:
        ModuleUnusableError: the error of the block, with more to say.
    """
    try:
        yield
    except ModuleUnusableError as error:
        found = access.fault(os.environ, Path("/"))
        if found is None:
            raise
        raise ModuleUnusableError(found.message, hint=found.hint) from error
