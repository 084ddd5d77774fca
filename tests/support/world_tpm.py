"""A TPM in memory, and the API's side of an attestation: what it challenges, and whether evidence adds up."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from typing import NamedTuple, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_enroll.backend_api.attestation import Challenge, Evidence, Presented
from hsm_enroll.errors import BackendRefusedError, HsmEnrollError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.fault import Fault

NO_TPM = Fault("token 'gateway' is not in a TPM", "Use a token in a TPM.")
CREDENTIAL, ENCRYPTED = b"credential", b"encrypted"
_SECRET = b"\x07" * 32


class Shown(NamedTuple):
    """A TPM as it presents itself by one of its endorsement keys."""

    ek_public: bytes
    others: int
    ek_certificate: str | None = None
    ak_public: bytes = b"ak"


class Stated(NamedTuple):
    """What the TPM states of a key."""

    key_public: bytes
    certify_info: bytes
    signature: bytes = b"signature"


@dataclass
class FakeTpm:
    """A TPM in memory, behind the use cases' port, that attests the keys of a token.

    Attributes:
        public_key: returns a key of the token by label and id, DER SubjectPublicKeyInfo.
        fault: why the token's keys cannot be attested.
        eks: its endorsement keys, the preferred one first.
        error: what it fails with when it is to certify a key; None is nothing.
        starts: how often what talks to it was started.
        running: how many of those have not ended.
        pins: the PINs that it was given.
    """

    public_key: Callable[[str, bytes], bytes]
    fault: Fault | None = NO_TPM
    eks: list[bytes] = field(default_factory=lambda: [b"ek"])
    error: HsmEnrollError | None = None
    starts: int = 0
    running: int = 0
    pins: list[Secret | None] = field(default_factory=list)

    def obstacle(self, token: TokenName) -> Fault | None:
        """Return why the keys cannot be attested."""
        del token
        return self.fault

    @contextmanager
    def attestor(self) -> Iterator[FakeTpm]:
        """Start what talks to it."""
        self.starts += 1
        self.running += 1
        try:
            yield self
        finally:
            self.running -= 1

    def endorsement(self, rank: int) -> Shown:
        """Present the TPM."""
        return Shown(self.eks[rank], len(self.eks) - rank - 1)

    def activate(self, credential_blob: bytes, encrypted_secret: bytes) -> bytes:
        """Decrypt a secret."""
        assert (credential_blob, encrypted_secret) == (CREDENTIAL, ENCRYPTED)
        return _SECRET

    def certify(
        self, token: TokenName, *, key_label: str, key_id: bytes, pin: Secret | None, qualifying_data: bytes
    ) -> Stated:
        """State what a key is."""
        del token
        self.pins.append(pin)
        if self.error is not None:
            raise self.error
        return Stated(self.public_key(key_label, key_id), qualifying_data)


def no_tpm(_: object) -> NoReturn:
    """Stand in for an enrollment by a TPM where there is none."""
    raise AssertionError("there is no TPM")


@dataclass
class Attestations:
    """What the API knows of TPMs.

    Attributes:
        listed: the Things that the operator has listed TPMs for, by endorsement key.
        refused: the problem codes with which challenges are refused, by endorsement key.
        asked: the endorsement keys and Things for which challenges were asked for, in order.
        evidence: the problem codes with which the next requests' evidence is refused, in order.
        attested: the keys of accepted evidence, DER SubjectPublicKeyInfo.
    """

    listed: dict[bytes, str] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)
    asked: list[tuple[bytes, str | None]] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    attested: set[bytes] = field(default_factory=set)
    _sessions: dict[str, bytes] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def challenge(self, tpm: Presented, thing_name: str | None) -> Challenge:
        """Challenge a TPM, or refuse it."""
        self.asked.append((tpm.ek_public, thing_name))
        if code := self.refused.get(tpm.ek_public):
            raise BackendRefusedError(f"refused ({code})", problem_code=code, hint="Ask.")
        thing = self.listed.get(tpm.ek_public) if thing_name is None else thing_name
        if thing is None:
            raise BackendRefusedError("unknown TPM (ek-unknown)", problem_code="ek-unknown", hint="Ask.")
        session_id = f"session-{next(self._numbers)}"
        self._sessions[session_id] = session_id.encode().ljust(32)
        return Challenge(session_id, CREDENTIAL, ENCRYPTED, self._sessions[session_id], thing)

    def check(self, evidence: Evidence | None, csr: str, *, is_required: bool) -> None:
        """Check what is to prove that a request's key is in a TPM."""
        if evidence is None:
            if is_required:
                raise BackendRefusedError("refused", problem_code="attestation-required")
            return
        if self.evidence:
            raise BackendRefusedError("refused", problem_code=self.evidence.pop(0))
        request = x509.load_pem_x509_csr(csr.encode())
        nonce = self._sessions.pop(evidence.session_id)
        stated = sha256(b"hsm-enroll-v1" + nonce + sha256(request.public_bytes(Encoding.DER)).digest()).digest()
        key = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert base64.b64decode(evidence.secret.reveal()) == _SECRET
        assert (evidence.certified.certify_info, evidence.certified.key_public) == (stated, key)
        self.attested.add(key)
