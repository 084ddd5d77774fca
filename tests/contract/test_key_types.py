"""All that depends on the type of a key agrees with the rows of ``KeyType``: pages, requests, tokens, the backend."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import get_args

import pytest
from asn1crypto import algos, csr, keys, pem
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ObjectIdentifier

from enrollment_backend import algorithms, csr_key
from hsm_enroll.key import DEFAULT_KEY_TYPE, KeyType, key_type_help
from hsm_enroll.settings import Settings
from hsm_enroll.token import capabilities
from hsm_enroll.x509 import csr as requests
from tests.support.pages import REFERENCE, ROOT, code, page
from tests.support.software_signer import SoftwareSigner

# The mechanisms that sign a hash which was computed outside the token.
_WITHOUT_HASH = {"CKM_ECDSA", "CKM_RSA_PKCS"}


@dataclass(frozen=True)
class Identifiers:
    """The object identifiers in a request, in dotted numbers; the curve's is None for RSA."""

    signature: str
    key: str
    curve: str | None

    @classmethod
    def of(cls, key_type: KeyType) -> Identifiers:
        """Read them from a request for a key of this type."""
        text = requests.build(SoftwareSigner(key_type), requests.subject("gateway-17"))
        request = csr.CertificationRequest.load(pem.unarmor(text.encode("ascii"))[2])
        key = request["certification_request_info"]["subject_pk_info"]["algorithm"]
        curve = key["parameters"].chosen.dotted if key["algorithm"].native == "ec" else None
        return cls(request["signature_algorithm"]["algorithm"].dotted, key["algorithm"].dotted, curve)


@pytest.mark.parametrize("key_type", KeyType)
def test_a_row_is_complete(key_type: KeyType) -> None:
    """Each attribute is set and of its type, and the attributes fit each other and the key type's name."""
    for name, kind in inspect.get_annotations(KeyType, eval_str=True).items():
        kinds = get_args(kind) if kind == str | None else (getattr(kind, "__origin__", kind),)
        assert isinstance(getattr(key_type, name), kinds), name
    assert key_type.value == (f"rsa-{key_type.bits}" if key_type.is_rsa else f"ec-p{key_type.bits}")
    assert (key_type.curve is None) == (key_type.curve_oid is None)
    assert hashlib.new(key_type.digest).name == key_type.digest
    assert key_type.tls_mechanism in key_type.signing_mechanisms
    for mechanism in set(key_type.signing_mechanisms) - _WITHOUT_HASH:
        assert mechanism.startswith(f"CKM_{key_type.digest.upper()}_")


def test_the_default_is_a_row() -> None:
    """What the help text calls the default is what the settings use."""
    assert Settings(state=ROOT).key_type is DEFAULT_KEY_TYPE
    assert f"{DEFAULT_KEY_TYPE} (default)" in key_type_help()


def test_the_module_of_the_rows_is_cheap_to_import() -> None:
    """``hsm_enroll.key`` imports no library: every command imports it."""
    program = "import sys\nbefore = {*sys.modules}\nimport hsm_enroll.key\nprint(*{*sys.modules} - before)\n"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    tops = {name.partition(".")[0] for name in child.stdout.split()}
    assert tops - sys.stdlib_module_names == {"hsm_enroll"}


@pytest.mark.parametrize("key_type", [key_type for key_type in KeyType if not key_type.is_rsa])
def test_a_curves_name_and_identifier_are_those_of_the_libraries(key_type: KeyType) -> None:
    """asn1crypto and cryptography know a curve by the row's name and by the row's object identifier."""
    assert key_type.curve_oid is not None
    curve = ec.get_curve_for_oid(ObjectIdentifier(key_type.curve_oid))()
    assert (curve.name, curve.key_size) == (key_type.curve, key_type.bits)
    assert keys.NamedCurve(key_type.curve).dotted == key_type.curve_oid


@pytest.mark.parametrize("key_type", KeyType)
def test_a_signature_algorithm_fits_the_digest(key_type: KeyType) -> None:
    """asn1crypto's name of the signature algorithm is for the row's digest and kind of key."""
    algorithm = algos.SignedDigestAlgorithm({"algorithm": key_type.signature_algorithm})
    assert algorithm.hash_algo == key_type.digest
    assert algorithm.signature_algo == ("rsassa_pkcs1v15" if key_type.is_rsa else "ecdsa")


@pytest.mark.parametrize("key_type", KeyType)
def test_python_pkcs11_knows_the_mechanisms(key_type: KeyType) -> None:
    """Each mechanism of a row has a constant in python-pkcs11."""
    for name in {key_type.generation_mechanism, key_type.tls_mechanism, *key_type.signing_mechanisms}:
        assert f"CKM_{capabilities.mechanism(name).name}" == name


@pytest.mark.parametrize("command", ["init", "csr"])
def test_the_help_text_lists_the_key_types(command: str) -> None:
    """``--help`` lists every key type, and which one is the default."""
    program = [sys.executable, "-m", "hsm_enroll", command, "--help"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert f"{key_type_help()}." in " ".join(shown.split())


def test_the_pages_list_the_key_types() -> None:
    """docs/reference.md lists the key types as the help text does; docs/tokens.md has each with its mechanisms."""
    (meaning,) = [row[-1] for row in REFERENCE.table("variable") if code(row[0]) == ["HSM_ENROLL_KEY_TYPE"]]
    assert meaning.replace("`", "") == key_type_help()
    rows = {name: code(needs) for names, needs in page("docs/tokens.md").table("for") for name in code(names)}
    needs = {key_type.value: [key_type.generation_mechanism, *key_type.signing_mechanisms] for key_type in KeyType}
    assert rows == needs


def test_the_schema_lists_the_key_types() -> None:
    """The schema of the JSON that commands print has every key type."""
    definitions = json.loads((ROOT / "docs/schema/definitions.json").read_text("utf-8"))["$defs"]
    assert definitions["keyType"]["enum"] == [key_type.value for key_type in KeyType]


@pytest.mark.parametrize("key_type", KeyType)
def test_the_backend_accepts_what_a_request_contains(key_type: KeyType) -> None:
    """The backend's lists have a request's signature algorithm, kind of key and curve, and it accepts the key."""
    found = Identifiers.of(key_type)
    signature = algorithms.SIGNATURES[found.signature]
    assert signature.name in {f"{key_type.digest}WithRSAEncryption", f"ecdsa-with-{key_type.digest.upper()}"}
    assert signature.key == found.key == (algorithms.RSA_KEY if key_type.is_rsa else algorithms.EC_KEY)
    assert found.curve == key_type.curve_oid
    assert csr_key.check(SoftwareSigner(key_type).public_key_info) == found.key


def test_the_backend_accepts_no_other_curve() -> None:
    """Every curve in the backend's list has a row, under the same name."""
    rows = {key_type.curve_oid: f"P-{key_type.bits}" for key_type in KeyType if not key_type.is_rsa}
    assert rows == algorithms.CURVES
