"""Strict readers of a TPM's structures (TPM 2.0 Library, Part 2: Structures). Whatever is left over is an error."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enrollment_backend import weak_keys
from enrollment_backend.attestation.errors import AttestationAlgorithmError, AttestationMalformedError

# TPM_ALG_ID (table 9)
_RSA, _AES, _NULL, _ECC, _CFB = 0x0001, 0x0006, 0x0010, 0x0023, 0x0043
_ECDAA = 0x001A
_WITHOUT_DETAILS = frozenset({_NULL, 0x0015})  # TPM_ALG_RSAES
RSASSA: Final = 0x0014
RSAPSS: Final = 0x0016
ECDSA: Final = 0x0018

# TPMA_OBJECT (§8.3)
FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17
SIGN: Final = 1 << 18

_HASHES: dict[int, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    0x000B: hashes.SHA256(),
    0x000C: hashes.SHA384(),
    0x000D: hashes.SHA512(),
}
_CURVES: dict[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}
_SMALLEST_RSA, _LARGEST_RSA = 2048, 4096  # bits
_DEFAULT_EXPONENT = 65537  # written as 0 (§12.2.3.5)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
T = TypeVar("T")


@dataclass(frozen=True)
class Public:
    """A TPMT_PUBLIC (§12.2.4).

    Attributes:
        encoding: its octets, without the size in front of them.
        name_hash: nameAlg.
        attributes: objectAttributes.
        aes_bits: size of the AES key in CFB mode that protects what is sent to this key; None if there is none.
        key: the public key.
    """

    encoding: bytes
    name_hash: Hash
    attributes: int
    aes_bits: int | None
    key: PublicKey

    @property
    def name(self) -> bytes:
        """The object's Name: nameAlg and the hash of the structure (Part 1, "Names")."""
        return self.encoding[2:4] + hashlib.new(self.name_hash.name, self.encoding).digest()

    @property
    def spki(self) -> bytes:
        """The key as DER SubjectPublicKeyInfo, in the canonical form."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def has(self, attributes: int) -> bool:
        """Whether all these attributes are set."""
        return self.attributes & attributes == attributes


@dataclass(frozen=True)
class Attest:
    """A TPMS_ATTEST of TPM2_Certify (§10.12.12, §10.12.3).

    Attributes:
        magic: TPM_GENERATED; not checked here.
        kind: TPMI_ST_ATTEST; not checked here.
        extra_data: what the caller of TPM2_Certify had it repeat.
        firmware: firmwareVersion, as four numbers.
        name: the Name of the certified object; empty for a statement of another type.
    """

    magic: int
    kind: int
    extra_data: bytes
    firmware: str
    name: bytes


@dataclass(frozen=True)
class Signature:
    """A TPMT_SIGNATURE (§11.3.4).

    Attributes:
        scheme: `ECDSA`, `RSASSA` or `RSAPSS`.
        hash: of what was signed.
        numbers: r and s of ECDSA; one octet string for RSA.
    """

    scheme: int
    hash: Hash
    numbers: tuple[bytes, ...]


ATTEST_CERTIFY: Final = 0x8017  # TPMI_ST_ATTEST


def read_public(octets: bytes) -> Public:
    """Read a TPM2B_PUBLIC.

    Raises:
        AttestationMalformedError: it is not one TPM2B_PUBLIC of a key and nothing else, or its key is impossible.
        AttestationAlgorithmError: its key or its nameAlg is not accepted.
    """
    return _read("TPM2B_PUBLIC", octets, _public)


def read_attest(octets: bytes) -> Attest:
    """Read a TPMS_ATTEST.

    Raises:
        AttestationMalformedError: it is not one and nothing else. For a statement of another type than TPM2_Certify
            only the common part is read.
    """
    return _read("TPMS_ATTEST", octets, _attest)


def read_signature(octets: bytes) -> Signature:
    """Read a TPMT_SIGNATURE.

    Raises:
        AttestationMalformedError: it is not one and nothing else.
        AttestationAlgorithmError: its scheme or hash is not accepted.
    """
    return _read("TPMT_SIGNATURE", octets, _signature)


class _Reader:
    """Takes fields from the front of a structure.

    Raises:
        ValueError: in all its methods, if there are fewer octets than the field has.
    """

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._octets):
            raise ValueError("truncated")
        taken, self._at = self._octets[self._at : end], end
        return taken

    def numbers(self, form: str) -> tuple[int, ...]:
        form = ">" + form
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def number(self) -> int:
        """Take a UINT16."""
        return self.numbers("H")[0]

    def sized(self) -> bytes:
        """Take a TPM2B."""
        return self.take(self.number())

    def rest(self) -> bytes:
        return self.take(len(self._octets) - self._at)


def _read(structure: str, octets: bytes, read: Callable[[_Reader], T]) -> T:
    reader = _Reader(octets)
    try:
        value = read(reader)
    except ValueError as error:
        raise AttestationMalformedError(structure, str(error)) from error
    if reader.rest():
        raise AttestationMalformedError(structure, "leftover octets")
    return value


def _public(outer: _Reader) -> Public:
    encoding = outer.sized()
    reader = _Reader(encoding)
    kind, name_algorithm, attributes = reader.numbers("HHI")
    if kind not in {_RSA, _ECC}:
        raise AttestationAlgorithmError("an object that is no RSA or EC key")
    name_hash = _hash(name_algorithm)
    reader.sized()  # authPolicy
    aes_bits = _symmetric(reader)
    _scheme(reader)
    key = _rsa_key(reader) if kind == _RSA else _ec_key(reader)
    if reader.rest():
        raise ValueError("leftover octets in TPMT_PUBLIC")
    return Public(encoding, name_hash, attributes, aes_bits, key)


def _symmetric(reader: _Reader) -> int | None:
    """Read a TPMT_SYM_DEF_OBJECT (§11.1.7)."""
    algorithm = reader.number()
    if algorithm == _NULL:
        return None
    bits, mode = reader.numbers("HH")
    if algorithm != _AES or bits not in {128, 192, 256} or mode != _CFB:
        raise AttestationAlgorithmError("a symmetric algorithm other than AES in CFB mode")
    return bits


def _scheme(reader: _Reader) -> None:
    """Read a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME (§11.2.4, §11.2.5); what it says is also in every signature."""
    algorithm = reader.number()
    if algorithm in _WITHOUT_DETAILS:
        return
    reader.number()  # hashAlg
    if algorithm == _ECDAA:
        reader.number()  # count


def _rsa_key(reader: _Reader) -> rsa.RSAPublicKey:
    bits, exponent = reader.numbers("HI")
    number = int.from_bytes(reader.sized())
    if not _SMALLEST_RSA <= bits <= _LARGEST_RSA:
        raise AttestationAlgorithmError(f"an RSA key of {bits} bits")
    if number.bit_length() != bits:
        raise ValueError("the modulus does not have the size of the key")
    if weak_keys.weakness_of(number):
        raise AttestationAlgorithmError("an RSA key whose private key can be computed")
    return rsa.RSAPublicNumbers(exponent or _DEFAULT_EXPONENT, number).public_key()


def _ec_key(reader: _Reader) -> ec.EllipticCurvePublicKey:
    curve_id = reader.number()
    if reader.number() != _NULL:  # the kdf, which no key of ours has (§12.2.3.6)
        reader.number()
    x, y = reader.sized(), reader.sized()
    curve = _CURVES.get(curve_id)
    if curve is None:
        raise AttestationAlgorithmError("an EC key on an unknown curve")
    size = (curve.key_size + 7) // 8
    if not (0 < len(x) <= size and 0 < len(y) <= size):  # some TPMs leave leading zeros out
        raise ValueError("the point's coordinates do not have the size of the curve")
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()


def _attest(reader: _Reader) -> Attest:
    magic, kind = reader.numbers("IH")
    reader.sized()  # qualifiedSigner
    extra_data = reader.sized()
    reader.numbers("QIIB")  # clockInfo
    firmware = ".".join(str(number) for number in reader.numbers("HHHH"))
    if kind != ATTEST_CERTIFY:
        reader.rest()
        return Attest(magic, kind, extra_data, firmware, b"")
    name = reader.sized()
    reader.sized()  # qualifiedName
    return Attest(magic, kind, extra_data, firmware, name)


def _signature(reader: _Reader) -> Signature:
    scheme = reader.number()
    if scheme not in {ECDSA, RSASSA, RSAPSS}:
        raise AttestationAlgorithmError("an unknown signature scheme")
    hash_ = _hash(reader.number())
    numbers = (reader.sized(), reader.sized()) if scheme == ECDSA else (reader.sized(),)
    return Signature(scheme, hash_, numbers)


def _hash(algorithm: int) -> Hash:
    if algorithm not in _HASHES:
        raise AttestationAlgorithmError("the hash SHA-1" if algorithm == 0x0004 else "an unknown hash")
    return _HASHES[algorithm]
