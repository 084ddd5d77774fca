"""The TPM's endorsement keys (TCG EK Credential Profile for TPM Family 2.0): certificates in NV, templates, handles."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from asn1crypto import keys, parser, x509
from tpm2_pytss.constants import ESYS_TR, TPM2_PT_NV, TPM2_SE, TPMA_NV, TPMA_OBJECT
from tpm2_pytss.types import TPM2B_PUBLIC, TPMT_SYM_DEF
from tpm2_pytss.utils import NoSuchIndex, create_ek_template

from hsm_enroll.errors import TokenRefusedError
from hsm_enroll.token.tpm2.attestation.tpm import Tpm
from hsm_enroll.token.tpm2.attestation.values import EndorsementKey

# The profile's names of the templates, the preferred one first, and our names of the key types. A physical TPM derives
# an elliptic key in a fraction of a second, and an RSA key in up to half a minute.
_TEMPLATES = {
    "EK-HIGH-ECC384": "ec-p384",
    "EK-ECC256": "ec-p256",
    "EK-HIGH-ECC256": "ec-p256",
    "EK-RSA2048": "rsa-2048",
    "EK-HIGH-RSA2048": "rsa-2048",
}
# Those which the profile has TPMs support, whether they have a certificate or not.
_WITHOUT_CERTIFICATE = ("EK-ECC256", "EK-RSA2048")
_NV = range(0x01C00000, 0x01C00100)
# "EK Certificate Chain": certificates one after another, a certificate may go on in the next index.
_CHAIN = range(0x01C00100, 0x01C00200)
# TCG Registry of Reserved TPM 2.0 Handles and Localities: the endorsement hierarchy's keys.
_PERSISTENT = range(0x81010000, 0x81020000)
# Part 2, TPM_PT_NV_BUFFER_MAX: where the TPM does not say.
_NV_BUFFER = 512


class Candidate(NamedTuple):
    """An endorsement key that the TPM can derive, or has.

    Attributes:
        key_type: "rsa-2048", "ec-p256" or "ec-p384".
        certificate: its certificate, DER; None if there is none.
        template: from which the TPM derives it.
    """

    key_type: str
    certificate: bytes | None
    template: TPM2B_PUBLIC


class Nv:
    """What the TPM's manufacturer has left in its NV memory."""

    def __init__(self, tpm: Tpm) -> None:
        self._tpm = tpm
        self._indices = set(tpm.handles(_NV.start))
        self._buffer = 0

    def read(self, index: int) -> bytes:
        """Return what an index holds.

        Raises:
            NoSuchIndex: there is no such index, or nothing was ever written to it.
        """
        if index not in self._indices:
            raise NoSuchIndex(index)
        tpm, esapi = self._tpm, self._tpm.esapi
        self._buffer = self._buffer or self._largest_read()
        handle = tpm.run("NV_ReadPublic", esapi.tr_from_tpmpublic, index)
        public, _ = tpm.run("NV_ReadPublic", esapi.nv_read_public, handle)
        size, attributes = int(public.nvPublic.dataSize), int(public.nvPublic.attributes)
        if not attributes & TPMA_NV.WRITTEN:
            raise NoSuchIndex(index)
        reader = handle if attributes & TPMA_NV.AUTHREAD else ESYS_TR.OWNER
        content = b""
        while len(content) < size:
            wanted = min(self._buffer, size - len(content))
            content += bytes(tpm.run("NV_Read", esapi.nv_read, handle, wanted, len(content), auth_handle=reader))
        return content

    def intermediates(self) -> list[bytes]:
        """Return the certificates of the vendor's authorities that the TPM has, DER."""
        chain = b""
        for index in sorted(self._indices & set(_CHAIN)):
            with suppress(NoSuchIndex):
                chain += self.read(index)
        return list(_each(chain))

    def _largest_read(self) -> int:
        properties = self._tpm.properties(TPM2_PT_NV.BUFFER_MAX, 1)
        return properties.get(int(TPM2_PT_NV.BUFFER_MAX), _NV_BUFFER)


def candidates(nv: Nv) -> list[Candidate]:
    """Return the endorsement keys that have a certificate, or else those that the profile has every TPM support.

    The order depends only on what the manufacturer has left, so that a TPM is known by the same key each time.

    Raises:
        TokenRefusedError: the NV memory cannot be read.
    """
    found = [_candidate(nv, name) for name in _TEMPLATES]
    certified = [candidate for candidate in found if candidate is not None and candidate.certificate is not None]
    if certified:
        return certified
    return [candidate for name in _WITHOUT_CERTIFICATE if (candidate := _candidate(nv, name)) is not None]


def _candidate(nv: Nv, name: str) -> Candidate | None:
    try:
        blob, template = create_ek_template(name, nv.read)
    except ValueError:
        return None  # only the low range goes without a certificate
    certificate = None if blob is None else next(_each(bytes(blob)), None)
    return Candidate(_TEMPLATES[name], certificate, template)


def load(tpm: Tpm, candidate: Candidate) -> tuple[Any, TPM2B_PUBLIC]:
    """Return an endorsement key's handle until the connection ends, and the key: persistent if it is, else derived.

    Raises:
        TokenRefusedError: the TPM does not have this type of key, or its endorsement hierarchy has a password.
    """
    if candidate.certificate is not None and (certified := spki_sha256(candidate.certificate)) is not None:
        for handle in tpm.handles(_PERSISTENT.start):
            if handle not in _PERSISTENT:
                break
            key = tpm.run("ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
            public, _, _ = tpm.run("ReadPublic", tpm.esapi.read_public, key)
            if sha256_of(public) == certified:
                return key, public
    if tpm.has_endorsement_password:
        raise endorsement_password()
    created = tpm.run(
        "CreatePrimary", tpm.esapi.create_primary, None, candidate.template, primary_handle=ESYS_TR.ENDORSEMENT
    )
    return tpm.until_the_end(created[0]), created[1]


def session_for(tpm: Tpm, key: TPM2B_PUBLIC) -> Any:
    """Return the session by which an endorsement key may be used, from its own attributes.

    The low range's keys take a policy session with the endorsement hierarchy's password (policy A), the high range's
    an empty password.
    """
    if int(key.publicArea.objectAttributes) & TPMA_OBJECT.USERWITHAUTH:
        return ESYS_TR.PASSWORD
    session = tpm.until_the_end(
        tpm.run(
            "StartAuthSession",
            tpm.esapi.start_auth_session,
            ESYS_TR.NONE,
            ESYS_TR.NONE,
            TPM2_SE.POLICY,
            TPMT_SYM_DEF(algorithm=0x0010),
            int(key.publicArea.nameAlg),
        )
    )
    tpm.run("PolicySecret", tpm.esapi.policy_secret, ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
    return session


def endorsement_password() -> TokenRefusedError:
    """Return the error of a TPM whose endorsement hierarchy has a password, which nothing here knows."""
    return TokenRefusedError(
        "the TPM's endorsement hierarchy has a password, so the TPM cannot attest anything",
        hint="Remove the password: tpm2_changeauth --object-context=endorsement --object-auth=PASSWORD",
    )


def chain(certificate: bytes, authorities: list[bytes]) -> list[bytes]:
    """Return a certificate, and those of the authorities above it, without a root, as far as they are there; DER."""
    found, by_subject = [certificate], {_names(one)[0]: one for one in authorities}
    while (above := by_subject.get(_names(found[-1])[1])) is not None and above not in found:
        subject, issuer = _names(above)
        if subject == issuer:
            break
        found.append(above)
    return found


def _names(certificate: bytes) -> tuple[bytes, bytes]:
    """Return the subject and the issuer, DER; both empty where they cannot be read."""
    parts = _parsed(certificate)
    return (b"", b"") if parts is None else (parts.subject.dump(), parts.issuer.dump())


def pem(certificates: list[bytes]) -> str:
    """Return certificates as PEM (RFC 7468)."""
    return "".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in certificates)


def describe(tpm: Tpm, candidate: Candidate) -> EndorsementKey:
    """Return what people and lists of chips know a key by; one with a certificate is not derived for that."""
    certificate = candidate.certificate
    certified = None if certificate is None else spki_sha256(certificate)
    sha256 = certified or sha256_of(load(tpm, candidate)[1])
    return EndorsementKey(candidate.key_type, sha256, None if certificate is None else pem([certificate]))


def sha256_of(public: TPM2B_PUBLIC) -> str:
    """Return the SHA-256 of a key's DER SubjectPublicKeyInfo, hexadecimal."""
    return hashlib.sha256(public.to_der()).hexdigest()


def spki_sha256(certificate: bytes) -> str | None:
    """Return the same of a certificate's key; None where the certificate cannot be read.

    Some vendors name the algorithm of an RSA key id-RSAES-OAEP, which is not in the key's own SubjectPublicKeyInfo.
    """
    parts = _parsed(certificate)
    if parts is None:
        return None
    info = parts.public_key
    if info["algorithm"]["algorithm"].native == "rsaes_oaep":
        info = keys.PublicKeyInfo.wrap(info["public_key"].parsed, "rsa")
    return hashlib.sha256(info.dump()).hexdigest()


def _parsed(certificate: bytes) -> x509.Certificate | None:
    """Return a certificate whose names and key can be read; not all vendors' certificates are valid in all parts."""
    try:
        parsed = x509.Certificate.load(certificate)
        _ = parsed.subject.native, parsed.issuer.native, parsed.public_key.native
    except (ValueError, TypeError, KeyError):
        return None
    return parsed


def _each(content: bytes) -> Iterator[bytes]:
    """Yield the DER SEQUENCEs that stand one after another, up to what is none: an index may be longer."""
    while content[:1] == b"\x30":
        try:
            one = parser.parse(content)
        except ValueError:
            return
        whole = content[: len(one[3]) + len(one[4]) + len(one[5])]
        yield whole
        content = content[len(whole) :]
