"""The object identifiers of key types, curves and signature algorithms: those accepted, and the names of the others."""

from __future__ import annotations

from typing import NamedTuple

from enrollment_backend import der

RSA_KEY = "1.2.840.113549.1.1.1"  # rsaEncryption, RFC 3279 §2.3.1
EC_KEY = "1.2.840.10045.2.1"  # id-ecPublicKey, RFC 5480 §2.1.1


class Signature(NamedTuple):
    """A signature algorithm.

    Attributes:
        name: as in its standard.
        key: object identifier of the key type that it is used with.
    """

    name: str
    key: str


SIGNATURES = {
    # RFC 4055 §5, PKCS #1 v1.5
    "1.2.840.113549.1.1.11": Signature("sha256WithRSAEncryption", RSA_KEY),
    "1.2.840.113549.1.1.12": Signature("sha384WithRSAEncryption", RSA_KEY),
    "1.2.840.113549.1.1.13": Signature("sha512WithRSAEncryption", RSA_KEY),
    # RFC 5758 §3.2
    "1.2.840.10045.4.3.2": Signature("ecdsa-with-SHA256", EC_KEY),
    "1.2.840.10045.4.3.3": Signature("ecdsa-with-SHA384", EC_KEY),
    "1.2.840.10045.4.3.4": Signature("ecdsa-with-SHA512", EC_KEY),
}

CURVES = {"1.2.840.10045.3.1.7": "P-256", "1.3.132.0.34": "P-384"}  # RFC 5480 §2.1.1.1

KEYS = {RSA_KEY: "RSA", EC_KEY: "EC"}

REFUSED_SIGNATURES = {
    "1.2.840.113549.1.1.2": "md2WithRSAEncryption (MD2)",
    "1.2.840.113549.1.1.3": "md4WithRSAEncryption (MD4)",
    "1.2.840.113549.1.1.4": "md5WithRSAEncryption (MD5)",
    "1.2.840.113549.1.1.5": "sha1WithRSAEncryption (SHA-1)",
    "1.3.14.3.2.29": "sha1WithRSASignature (SHA-1)",
    "1.2.840.113549.1.1.10": "RSASSA-PSS",
    "1.2.840.113549.1.1.14": "sha224WithRSAEncryption (SHA-224)",
    "1.2.840.113549.1.1.15": "sha512-224WithRSAEncryption (SHA-512/224)",
    "1.2.840.113549.1.1.16": "sha512-256WithRSAEncryption (SHA-512/256)",
    "1.2.840.10045.4.1": "ecdsa-with-SHA1 (SHA-1)",
    "1.2.840.10045.4.3.1": "ecdsa-with-SHA224 (SHA-224)",
    "1.2.840.10040.4.3": "dsa-with-sha1 (SHA-1)",
    "2.16.840.1.101.3.4.3.1": "dsa-with-sha224 (SHA-224)",
    "2.16.840.1.101.3.4.3.2": "dsa-with-sha256",
    "2.16.840.1.101.3.4.3.3": "dsa-with-sha384",
    "2.16.840.1.101.3.4.3.4": "dsa-with-sha512",
    "2.16.840.1.101.3.4.3.9": "ecdsa-with-sha3-224 (SHA3-224)",
    "2.16.840.1.101.3.4.3.10": "ecdsa-with-sha3-256 (SHA3-256)",
    "2.16.840.1.101.3.4.3.11": "ecdsa-with-sha3-384 (SHA3-384)",
    "2.16.840.1.101.3.4.3.12": "ecdsa-with-sha3-512 (SHA3-512)",
    "2.16.840.1.101.3.4.3.13": "rsassa-pkcs1-v1-5-with-sha3-224 (SHA3-224)",
    "2.16.840.1.101.3.4.3.14": "rsassa-pkcs1-v1-5-with-sha3-256 (SHA3-256)",
    "2.16.840.1.101.3.4.3.15": "rsassa-pkcs1-v1-5-with-sha3-384 (SHA3-384)",
    "2.16.840.1.101.3.4.3.16": "rsassa-pkcs1-v1-5-with-sha3-512 (SHA3-512)",
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "1.2.156.10197.1.501": "SM2 with SM3",
    "1.2.643.2.2.3": "GOST R 34.10-2001",
    "1.2.643.7.1.1.3.2": "GOST R 34.10-2012 (256 bits)",
    "1.2.643.7.1.1.3.3": "GOST R 34.10-2012 (512 bits)",
    "1.3.6.1.5.5.7.6.36": "id-alg-unsigned, which is not a signature",
}

REFUSED_KEYS = {
    "1.2.840.113549.1.1.7": "an RSAES-OAEP key",
    "1.2.840.113549.1.1.10": "an RSASSA-PSS key",
    "1.2.840.10040.4.1": "a DSA key",
    "1.2.840.10046.2.1": "a Diffie-Hellman key",
    "1.2.840.113549.1.3.1": "a Diffie-Hellman key",
    "1.3.132.1.12": "an EC key for key agreement only (id-ecDH)",
    "1.3.132.1.13": "an EC key for key agreement only (id-ecMQV)",
    "1.3.101.110": "an X25519 key",
    "1.3.101.111": "an X448 key",
    "1.3.101.112": "an Ed25519 key",
    "1.3.101.113": "an Ed448 key",
    "2.16.840.1.101.3.4.3.17": "an ML-DSA-44 key",
    "2.16.840.1.101.3.4.3.18": "an ML-DSA-65 key",
    "2.16.840.1.101.3.4.3.19": "an ML-DSA-87 key",
    "2.16.840.1.101.3.4.4.1": "an ML-KEM-512 key",
    "2.16.840.1.101.3.4.4.2": "an ML-KEM-768 key",
    "2.16.840.1.101.3.4.4.3": "an ML-KEM-1024 key",
}

REFUSED_CURVES = {
    "1.2.840.10045.3.1.1": "P-192 (secp192r1)",
    "1.3.132.0.33": "P-224 (secp224r1)",
    "1.3.132.0.35": "P-521 (secp521r1)",
    "1.3.132.0.10": "secp256k1",
    "1.3.36.3.3.2.8.1.1.1": "brainpoolP160r1",
    "1.3.36.3.3.2.8.1.1.3": "brainpoolP192r1",
    "1.3.36.3.3.2.8.1.1.5": "brainpoolP224r1",
    "1.3.36.3.3.2.8.1.1.7": "brainpoolP256r1",
    "1.3.36.3.3.2.8.1.1.9": "brainpoolP320r1",
    "1.3.36.3.3.2.8.1.1.11": "brainpoolP384r1",
    "1.3.36.3.3.2.8.1.1.13": "brainpoolP512r1",
    "1.2.156.10197.1.301": "SM2",
}


def identifier(encoded: bytes) -> tuple[bytes, str, bytes]:
    """Split an AlgorithmIdentifier (RFC 5280 §4.1.1.2) into its parts.

    Args:
        encoded: its DER.

    Returns:
        The DER of its object identifier, the object identifier in dotted notation, and the DER of its parameters, empty
        if there are none.

    Raises:
        ValueError: it is not an AlgorithmIdentifier in DER.

    Does not check which algorithm it is, or whether the parameters belong to that algorithm.
    """
    algorithm, *parameters = der.children(encoded)
    if algorithm.tag != der.OBJECT_IDENTIFIER or len(parameters) > 1:
        raise ValueError("not an AlgorithmIdentifier")
    return (
        algorithm.encoding,
        der.object_identifier(algorithm.content),
        b"".join(parameter.encoding for parameter in parameters),
    )
