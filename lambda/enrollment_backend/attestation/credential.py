"""TPM2_MakeCredential in software: encrypts a secret that one TPM alone can decrypt, and for one attestation key.

TPM 2.0 Library, Part 1: section 24 (Credential Protection), annex B.10.4 (the secret of an RSA key), annex C.6.4 (that
of an ECC key), 11.4.10 (KDFa, KDFe).
"""

from __future__ import annotations

import struct
from os import urandom
from typing import NamedTuple

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from enrollment_backend.attestation.errors import EkUnsuitableError
from enrollment_backend.attestation.structures import Hash, Public

_LABEL = b"IDENTITY\0"
_AES_BLOCK = 16


class Challenge(NamedTuple):
    """What the device passes to TPM2_ActivateCredential.

    Attributes:
        credential_blob: TPM2B_ID_OBJECT.
        encrypted_secret: TPM2B_ENCRYPTED_SECRET.
    """

    credential_blob: bytes
    encrypted_secret: bytes


def make_credential(ek: Public, ak_name: bytes, secret: bytes) -> Challenge:
    """Encrypt a secret to an endorsement key, with the algorithms of the key's own template.

    Args:
        ek: an endorsement key, as `endorsement.read_endorsement` accepts it.
        ak_name: the Name of the attestation key. The TPM decrypts the secret only if it has that key.
        secret: no longer than a digest of the endorsement key's nameAlg.

    Raises:
        EkUnsuitableError: the key protects nothing with AES.
    """
    if ek.aes_bits is None:
        raise EkUnsuitableError("no symmetric algorithm")
    hash_ = ek.name_hash
    seed, encrypted_seed = _rsa_seed(ek.key, hash_) if isinstance(ek.key, rsa.RSAPublicKey) else _ec_seed(ek.key, hash_)
    key = _kdfa(hash_, seed, b"STORAGE", ak_name, ek.aes_bits)
    encryptor = Cipher(AES(key), CFB(bytes(_AES_BLOCK))).encryptor()
    encrypted = encryptor.update(_sized(secret)) + encryptor.finalize()
    mac = HMAC(_kdfa(hash_, seed, b"INTEGRITY", b"", hash_.digest_size * 8), hash_)
    mac.update(encrypted + ak_name)
    return Challenge(_sized(_sized(mac.finalize()) + encrypted), _sized(encrypted_seed))


def _rsa_seed(key: rsa.RSAPublicKey, hash_: Hash) -> tuple[bytes, bytes]:
    seed = urandom(hash_.digest_size)
    return seed, key.encrypt(seed, padding.OAEP(padding.MGF1(hash_), hash_, _LABEL))


def _ec_seed(key: ec.EllipticCurvePublicKey, hash_: Hash) -> tuple[bytes, bytes]:
    ephemeral = ec.generate_private_key(key.curve)
    (x, y), (ek_x, _) = _coordinates(ephemeral.public_key()), _coordinates(key)
    shared = ephemeral.exchange(ec.ECDH(), key)
    seed = ConcatKDFHash(hash_, hash_.digest_size, _LABEL + x + ek_x).derive(shared)  # KDFe
    return seed, _sized(x) + _sized(y)


def _coordinates(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    numbers, size = key.public_numbers(), (key.key_size + 7) // 8
    return numbers.x.to_bytes(size), numbers.y.to_bytes(size)


def _kdfa(hash_: Hash, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa: SP 800-108 in counter mode, with numbers of four octets."""
    before = CounterLocation.BeforeFixed
    return KBKDFHMAC(hash_, Mode.CounterMode, bits // 8, 4, 4, before, label, context, None).derive(key)


def _sized(content: bytes) -> bytes:
    """Write a TPM2B."""
    return struct.pack(">H", len(content)) + content
