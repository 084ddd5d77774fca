"""The peer of ``hsm-enroll csr``: the same key and request, by python-pkcs11 and asn1crypto, and nothing else.

With ``verify`` as its argument it checks the request with ``cryptography`` too, as the command does.
"""

import hashlib
import os
import sys

import pkcs11
from asn1crypto import csr, keys, pem, x509
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.util.ec import encode_ec_public_key, encode_ecdsa_signature, encode_named_curve_parameters

token = pkcs11.lib(os.environ["MODULE"]).get_token(token_label="gateway")  # noqa: S106 - no password
with token.open(rw=True, user_pin=os.environ["PIN"]) as session:
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    parameters = session.create_domain_parameters(KeyType.EC, curve, local=True)
    public, private = parameters.generate_keypair(label="csr", id=b"csr", store=True)
    information = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": x509.Name.build({"common_name": "gateway-17"}),
            "subject_pk_info": keys.PublicKeyInfo.load(encode_ec_public_key(public)),
            "attributes": csr.CRIAttributes([]),
        }
    )
    digest = hashlib.sha256(information.dump()).digest()
    signature = encode_ecdsa_signature(private.sign(digest, mechanism=Mechanism.ECDSA))  # type: ignore[attr-defined]
request = csr.CertificationRequest(
    {
        "certification_request_info": information,
        "signature_algorithm": {"algorithm": "sha256_ecdsa"},
        "signature": signature,
    }
)
if sys.argv[1:] == ["verify"]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key = load_der_public_key(information["subject_pk_info"].dump())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError(key)
    key.verify(signature, information.dump(), ec.ECDSA(hashes.SHA256()))
sys.stdout.write(pem.armor("CERTIFICATE REQUEST", request.dump()).decode())
