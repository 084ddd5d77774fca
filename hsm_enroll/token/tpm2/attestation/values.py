"""What a TPM says about itself and about keys, as values that pass between the two processes."""

from __future__ import annotations

from typing import Any, NamedTuple

from hsm_enroll.token.tpm2.lockout import FailedTries


class Timing(NamedTuple):
    """How long a command took.

    Attributes:
        command: the command's name in TPM 2.0 Library Part 3, without "TPM2_".
        seconds: how long the TPM and the way to it took.
    """

    command: str
    seconds: float

    def __str__(self) -> str:
        return f"TPM2_{self.command:<18} {self.seconds * 1000:8.1f} ms"


class Presented(NamedTuple):
    """The keys by which a TPM presents itself.

    Attributes:
        ek_certificate: the endorsement key's certificate, and the vendor's intermediate ones if the TPM has them: PEM,
            the endorsement key's own first; None if the TPM has none for this key.
        ek_public: the endorsement key, TPM2B_PUBLIC.
        ak_public: the attestation key, TPM2B_PUBLIC.
        ek_type: "rsa-2048", "ec-p256" or "ec-p384".
        others: how many endorsement keys of a lower rank the TPM has.
    """

    ek_certificate: str | None
    ek_public: bytes
    ak_public: bytes
    ek_type: str
    others: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**self._asdict(), "ek_public": self.ek_public.hex(), "ak_public": self.ak_public.hex()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Presented:
        """Return what :meth:`to_json` was given."""
        blobs = {name: bytes.fromhex(document[name]) for name in ("ek_public", "ak_public")}
        return cls(**{**document, **blobs})


class Certified(NamedTuple):
    """A TPM's statement about a key.

    Attributes:
        key_public: the key, TPM2B_PUBLIC.
        certify_info: the statement, TPMS_ATTEST, without a size in front.
        signature: the attestation key's signature over it, TPMT_SIGNATURE.
    """

    key_public: bytes
    certify_info: bytes
    signature: bytes

    def to_json(self) -> list[str]:
        """Return it as JSON."""
        return [member.hex() for member in self]

    @classmethod
    def from_json(cls, document: list[str]) -> Certified:
        """Return what :meth:`to_json` was given."""
        return cls(*map(bytes.fromhex, document))


class EndorsementKey(NamedTuple):
    """An endorsement key, for people and for lists of chips.

    Attributes:
        key_type: "rsa-2048", "ec-p256" or "ec-p384".
        sha256: SHA-256 of the public key's DER SubjectPublicKeyInfo, hexadecimal.
        certificate: its certificate, PEM; None if the TPM has none.
    """

    key_type: str
    sha256: str
    certificate: str | None


class TpmInfo(NamedTuple):
    """What a TPM says about itself.

    Attributes:
        manufacturer: TPM_PT_MANUFACTURER, for example "IFX"; eight hexadecimal digits where it is not text.
        vendor: TPM_PT_VENDOR_STRING_1 to 4.
        firmware: TPM_PT_FIRMWARE_VERSION, four decimal numbers joined by dots.
        endorsement_keys: the keys by which a backend may know this TPM, the preferred one first.
        tries: how close it is to its lockout; None if it does not count.
        endorsement_password: whether the endorsement hierarchy has a password, so that nothing can be attested.
    """

    manufacturer: str
    vendor: str
    firmware: str
    endorsement_keys: tuple[EndorsementKey, ...]
    tries: FailedTries | None
    endorsement_password: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return self._asdict()

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TpmInfo:
        """Return what :meth:`to_json` was given."""
        keys = tuple(EndorsementKey(*key) for key in document["endorsement_keys"])
        tries = None if document["tries"] is None else FailedTries(*document["tries"])
        return cls(**{**document, "endorsement_keys": keys, "tries": tries})
