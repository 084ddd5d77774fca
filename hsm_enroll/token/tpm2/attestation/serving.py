"""The side of the process that talks to the TPM; ``attestor`` is the other side."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hsm_enroll.errors import ModuleUnusableError, TokenRefusedError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import served
from hsm_enroll.token.served import Server
from hsm_enroll.token.tpm2.attestation import EXTRA
from hsm_enroll.token.tpm2.attestation.values import Presented, Timing

if TYPE_CHECKING:
    from hsm_enroll.token.tpm2.attestation.tpm import Tpm

_CHALLENGE_HINT = (
    "Run the same command again. If it fails again, tell the operator: the challenge is not one for this TPM's keys."
)


def serve(descriptor: int) -> None:
    """Serve requests from a socket until it is closed."""
    served.serve(descriptor, _Server)


class _Server(Server):
    """The saved contexts of the keys that were presented last: they are in this process's memory, not in the TPM."""

    operations: ClassVar[dict[str, str]] = {
        "load": "_load",
        "endorsement": "_endorsement",
        "activate": "_activate",
        "certify": "_certify",
        "info": "_info",
    }

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._saved: dict[str, Any] = {}

    def _load(self) -> None:
        """Load the library, before it is needed.

        Raises:
            ModuleUnusableError: it cannot be loaded.
        """
        try:
            from hsm_enroll.token.tpm2.attestation import certifying, describing, finding  # noqa: F401
        except Exception as error:  # of another release, or with another release of what it uses, it may raise anything
            from hsm_enroll import extras

            raise ModuleUnusableError(
                f"the Python package tpm2-pytss cannot be loaded: {error}",
                hint="Install tpm2-tss's libraries (in Debian libtss2-dev), and tpm2-pytss 3.0 or newer. "
                + extras.hint(EXTRA),
            ) from error

    def _endorsement(self, rank: int, attestation_key: int | None) -> dict[str, Any]:
        from hsm_enroll.token.tpm2.attestation import attestation_key as ak
        from hsm_enroll.token.tpm2.attestation import endorsement_key as ek
        from hsm_enroll.token.tpm2.attestation import tpm

        timings: list[Timing] = []
        with tpm.opened(timings) as opened:
            nv = ek.Nv(opened)
            candidates = ek.candidates(nv)
            if rank >= len(candidates):
                raise TokenRefusedError("the TPM has no other endorsement key")
            chosen = candidates[rank]
            ek_handle, ek_public = ek.load(opened, chosen)
            ak_handle, ak_public = ak.load(opened, attestation_key)
            self._saved = {"ek": _save(opened, ek_handle), "ak": _save(opened, ak_handle), "ek_public": ek_public}
            certificate = None
            if chosen.certificate is not None:
                certificate = ek.pem(ek.chain(chosen.certificate, nv.intermediates()))
        others = len(candidates) - rank - 1
        presented = Presented(certificate, ek_public.marshal(), ak_public.marshal(), chosen.key_type, others)
        return _timed(presented.to_json(), timings)

    def _activate(self, credential_blob: str, encrypted_secret: str) -> dict[str, Any]:
        from tpm2_pytss.constants import ESYS_TR
        from tpm2_pytss.types import TPM2B_ENCRYPTED_SECRET, TPM2B_ID_OBJECT

        from hsm_enroll.token.tpm2.attestation import endorsement_key as ek
        from hsm_enroll.token.tpm2.attestation import tpm

        timings: list[Timing] = []
        with _of_challenge(), tpm.opened(timings) as opened:
            blob = TPM2B_ID_OBJECT.unmarshal(bytes.fromhex(credential_blob))[0]
            encrypted = TPM2B_ENCRYPTED_SECRET.unmarshal(bytes.fromhex(encrypted_secret))[0]
            keys = (_restored(opened, self._saved["ak"]), _restored(opened, self._saved["ek"]))
            sessions = {
                "session1": ESYS_TR.PASSWORD,
                "session2": ek.session_for(opened, self._saved["ek_public"]),
            }
            activate = opened.esapi.activate_credential
            secret = opened.run("ActivateCredential", activate, *keys, blob, encrypted, **sessions)
        return _timed(bytes(secret).hex(), timings)

    def _certify(
        self,
        token: list[str],
        key_label: str,
        key_id: str,
        pin: str,
        *,
        pin_is_certain: bool,
        qualifying_data: str,
        attestation_key: int | None,
    ) -> dict[str, Any]:
        from hsm_enroll.token.tpm2.attestation import attestation_key as ak
        from hsm_enroll.token.tpm2.attestation import certifying, finding, tpm
        from hsm_enroll.token.tpm2.attestation.stored_key import Wanted

        named = TokenName(Path(token[0]), *token[1:])
        stored = finding.find(Wanted(named.label, key_label, bytes.fromhex(key_id)))
        timings: list[Timing] = []
        with tpm.opened(timings) as opened:
            saved = self._saved.get("ak")
            certified = certifying.certify(
                opened,
                lambda: ak.load(opened, attestation_key)[0] if saved is None else _restored(opened, saved),
                named,
                stored,
                key_label=key_label,
                pin=Secret(pin),
                pin_is_certain=pin_is_certain,
                qualifying_data=bytes.fromhex(qualifying_data),
            )
        return _timed(certified.to_json(), timings)

    def _info(self) -> dict[str, Any]:
        from hsm_enroll.token.tpm2.attestation import describing, tpm

        timings: list[Timing] = []
        with tpm.opened(timings) as opened:
            found = describing.describe(opened)
        return _timed(found.to_json(), timings)


def _save(tpm: Tpm, handle: Any) -> Any:
    """Return a key's saved context, or the handle of a persistent one, which needs none."""
    number = int(tpm.esapi.tr_get_tpm_handle(handle))
    if number >> 24 == 0x81:
        return number
    return tpm.run("ContextSave", tpm.esapi.context_save, handle)


def _restored(tpm: Tpm, saved: Any) -> Any:
    """Return the handle of a key that was saved, until the connection ends."""
    if isinstance(saved, int):
        return tpm.run("ReadPublic", tpm.esapi.tr_from_tpmpublic, saved)
    return tpm.until_the_end(tpm.run("ContextLoad", tpm.esapi.context_load, saved))


@contextmanager
def _of_challenge() -> Iterator[None]:
    """Have the error of a TPM that refuses a challenge say what to do."""
    try:
        yield
    except TokenRefusedError as error:
        message = f"the TPM cannot answer the API's challenge: {error.message}"
        raise TokenRefusedError(message, hint=_CHALLENGE_HINT) from error


def _timed(result: Any, timings: list[Timing]) -> dict[str, Any]:
    return {"result": result, "timings": timings}


if __name__ == "__main__":
    served.serve_alone(serve)
