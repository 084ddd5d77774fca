"""What a TPM says for us: which chip it is, and that it has the key; read by the backend's own verifier."""

from __future__ import annotations

import hashlib
import re
import secrets
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import asn1crypto.x509
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enrollment_backend.attestation import evidence
from enrollment_backend.attestation.credential import make_credential
from enrollment_backend.attestation.endorsement import read_endorsement
from enrollment_backend.attestation.evidence import Evidence, Statement, read_attestation_key
from enrollment_backend.attestation.structures import read_public
from hsm_enroll.errors import TokenRefusedError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2.attestation import endorsement_key
from hsm_enroll.token.tpm2.attestation.attestor import Attestor
from hsm_enroll.token.tpm2.attestation.values import Certified, Presented
from tests.support import tpm2
from tests.support.processes import program, run
from tests.support.tpm2 import Tpm2
from tests.support.under_test import KeyName

# The ranks of a TPM that was manufactured with both certificates.
_P384, _RSA = 0, 1
_REQUEST = b"the DER of a certificate request"


class Made(NamedTuple):
    """A key that the token has, and its public half."""

    token: TokenName
    name: KeyName
    public_key_info: bytes


@pytest.fixture(scope="module")
def bare(shared_tpm: Tpm2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm2]:
    """Provide a copy of the TPM that no resource manager cleans up, and that these tests may change."""
    with tpm2.cloned_without_resource_manager(shared_tpm, tmp_path_factory.mktemp("bare") / "tpm") as copy:
        yield copy


@pytest.fixture
def alone(bare: Tpm2, monkeypatch: pytest.MonkeyPatch) -> Tpm2:
    """Provide that copy as the machine's TPM; nothing else has it open."""
    for name, value in bare.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TPM2TOOLS_TCTI", bare.environment["TPM2_PKCS11_TCTI"])
    return bare


@pytest.fixture
def attestor() -> Iterator[Attestor]:
    """Provide what talks to the TPM of the test."""
    with Attestor() as one:
        yield one


def _made(tpm: Tpm2, key: KeyName, key_type: KeyType) -> Made:
    with Tokens() as tokens:
        [token] = [one for one in tokens.listed(tpm.module) if one.initialized]
        with tokens.session(token, lambda _: tpm.pin, lambda _: None, writable=True) as opened:
            made = opened.generate(key_type, label=key.label, key_id=key.id)
    return Made(token.name, key, made.public_key_info)


def _activated(attestor: Attestor, presented: Presented) -> tuple[bytes, bytes]:
    """Answer a challenge of the backend; give its secret, and the TPM's word for it."""
    secret = secrets.token_bytes(32)
    ek = read_endorsement(presented.ek_public, presented.ek_certificate).public
    challenge = make_credential(ek, read_attestation_key(presented.ak_public).name, secret)
    return secret, attestor.activate(challenge.credential_blob, challenge.encrypted_secret)


def _certified(attestor: Attestor, tpm: Tpm2, made: Made, qualifying_data: bytes) -> Certified:
    label, key_id = made.name
    return attestor.certify(made.token, key_label=label, key_id=key_id, pin=tpm.pin, qualifying_data=qualifying_data)


def _verified(attestor: Attestor, tpm: Tpm2, made: Made, presented: Presented) -> str:
    """Have a key attested, and the backend verify it; give the firmware's version."""
    secret, answer = _activated(attestor, presented)
    nonce = secrets.token_bytes(32)
    said = _certified(attestor, tpm, made, evidence.qualifying_data(nonce, _REQUEST))
    statement = Statement(nonce, hashlib.sha256(secret).digest(), presented.ak_public)
    return evidence.verify(Evidence(answer, *said), statement, _REQUEST, made.public_key_info).firmware


def _tool(name: str, *arguments: str) -> str:
    return run([program(name, package="tpm2-tools"), *arguments])


@pytest.mark.usefixtures("tpm")
@pytest.mark.parametrize(("rank", "ek_type"), [(_P384, "ec-p384"), (_RSA, "rsa-2048")])
def test_a_tpm_presents_itself_and_answers_a_challenge(attestor: Attestor, rank: int, ek_type: str) -> None:
    """The EKs have the certificates of the TPM's manufacturer, P-384 first, and decrypt what was encrypted to them."""
    presented = attestor.endorsement(rank)
    assert (presented.ek_type, presented.others) == (ek_type, 1 - rank)
    assert presented.ek_certificate is not None
    certificate = x509.load_pem_x509_certificate(presented.ek_certificate.encode())
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert read_endorsement(presented.ek_public, None).ek_sha256 == hashlib.sha256(spki).hexdigest()
    secret, answer = _activated(attestor, presented)
    assert answer == secret


@pytest.mark.usefixtures("tpm")
def test_there_is_no_third_ek(attestor: Attestor) -> None:
    """A rank that the TPM does not have is refused."""
    with pytest.raises(TokenRefusedError, match="no other endorsement key"):
        attestor.endorsement(2)


@pytest.mark.usefixtures("tpm")
def test_a_secret_for_another_ak_is_refused(attestor: Attestor) -> None:
    """A challenge for another attestation key does not decrypt, which is an error of the token's."""
    presented = attestor.endorsement()
    ek = read_endorsement(presented.ek_public, presented.ek_certificate).public
    name = read_attestation_key(presented.ak_public).name
    challenge = make_credential(ek, name[:-1] + bytes([name[-1] ^ 1]), bytes(32))
    with pytest.raises(TokenRefusedError, match="TPM2_ActivateCredential"):
        attestor.activate(challenge.credential_blob, challenge.encrypted_secret)


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048])
def test_a_key_of_the_token_is_attested(tpm: Tpm2, attestor: Attestor, key: KeyName, key_type: KeyType) -> None:
    """The backend believes what the TPM says of a key that tpm2-pkcs11 made, whatever its type."""
    made = _made(tpm, key, key_type)
    assert _verified(attestor, tpm, made, attestor.endorsement()) == attestor.info().firmware


def test_a_key_of_tpm2_ptool_is_attested(tpm: Tpm2, attestor: Attestor) -> None:
    """So it does of a key that tpm2-pkcs11's own tool made."""
    named = ["--key-label", "of-ptool", "--id", "of-ptool", "--algorithm", "ecc256"]
    tool = program("tpm2_ptool", package="libtpm2-pkcs11-tools")
    folder = str(tpm.home / "store")
    run([tool, "addkey", "--path", folder, "--label", tpm.label, "--userpin", tpm.pin.reveal(), *named])
    with Tokens() as tokens:
        [token] = [one.name for one in tokens.listed(tpm.module) if one.initialized]
        info = tokens.public_key(token, label="of-ptool", key_id=b"of-ptool")
    _verified(attestor, tpm, Made(token, KeyName("of-ptool", b"of-ptool"), info), attestor.endorsement())


@pytest.mark.usefixtures("tpm")
def test_the_ak_is_the_same_each_time() -> None:
    """The attestation key, on P-256, has a fixed template: each process gets the same one, and none is stored."""
    with Attestor() as first, Attestor() as second:
        ak_public = first.endorsement().ak_public
        assert ak_public == second.endorsement(_RSA).ak_public
    key = read_public(ak_public).key
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_an_ak_can_be_kept_by_handle(alone: Tpm2, tmp_path: Path, key: KeyName) -> None:
    """A persistent attestation key, here one that tpm2-tools made, is used instead where its handle is named."""
    contexts = [str(tmp_path / name) for name in ("ek.ctx", "ak.ctx")]
    _tool("tpm2_createek", "-c", contexts[0], "-G", "rsa")
    _tool("tpm2_createak", "-C", contexts[0], "-c", contexts[1], "-G", "ecc", "-g", "sha256", "-s", "ecdsa")
    for kind in ("-t", "-s"):
        _tool("tpm2_flushcontext", kind)
    _tool("tpm2_evictcontrol", "-C", "o", "-c", contexts[1], "0x81010099")
    _tool("tpm2_flushcontext", "-t")
    made = _made(alone, key, KeyType.EC_P256)
    with Attestor(0x81010099) as kept, Attestor() as derived:
        presented = kept.endorsement()
        _verified(kept, alone, made, presented)
        assert presented.ak_public != derived.endorsement().ak_public
    _tool("tpm2_evictcontrol", "-C", "o", "-c", "0x81010099")
    with Attestor(0x81010099) as kept, pytest.raises(TokenRefusedError, match="TPM2_ReadPublic"):
        kept.endorsement()


def _left() -> str:
    """Return the handles of what is loaded in the TPM: objects, and sessions, also saved ones."""
    kinds = ("transient", "loaded-session", "saved-session")
    return "".join(_tool("tpm2_getcap", f"handles-{kind}") for kind in kinds)


def test_a_hundred_attestations_leave_nothing(alone: Tpm2, attestor: Attestor, key: KeyName) -> None:
    """Without a resource manager nothing is left in the TPM, with either EK, also after attestations that fail."""
    made = _made(alone, key, KeyType.EC_P256)
    for number in range(100):
        _activated(attestor, attestor.endorsement(number % 2))
        data = bytes([number]) * 32
        assert data in _certified(attestor, alone, made, data).certify_info
    with pytest.raises(TokenRefusedError):
        attestor.activate(bytes.fromhex("0002ffff"), bytes.fromhex("0002ffff"))
    assert _left() == ""


def test_a_hundred_attestations_behind_a_resource_manager(tpm: Tpm2, attestor: Attestor, key: KeyName) -> None:
    """Behind tpm2-abrmd they neither fail nor leave anything."""
    made = _made(tpm, key, KeyType.EC_P256)
    for number in range(100):
        _activated(attestor, attestor.endorsement(number % 2))
        _certified(attestor, tpm, made, bytes(32))
    assert _left() == ""


def test_nobody_on_the_bus_reads_what_protects_the_keys(
    alone: Tpm2, key: KeyName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sealed with the PIN, the key of a cipher in hexadecimal, leaves the TPM encrypted."""
    made, record = _made(alone, key, KeyType.EC_P256), tmp_path / "bus.pcap"
    monkeypatch.setenv("TPM2_PKCS11_TCTI", f"pcap:{alone.environment['TPM2_PKCS11_TCTI']}")
    monkeypatch.setenv("TCTI_PCAP_FILE", str(record))
    with Attestor() as attestor:
        key_public = _certified(attestor, alone, made, bytes(32)).key_public
    recorded = record.read_bytes()
    assert key_public in recorded
    assert re.search(b"[0-9a-f]{64}", recorded) is None


@pytest.mark.usefixtures("alone")
def test_a_persistent_ek_is_not_derived_again() -> None:
    """A physical TPM takes up to half a minute to derive an RSA key; often its manufacturer has made it persistent."""
    with Attestor() as persistent:
        presented = persistent.endorsement(_RSA)
    _tool("tpm2_evictcontrol", "-C", "o", "-c", "0x81010001")
    with Attestor() as derived:
        assert derived.endorsement(_RSA) == presented
    made = [[timing.command for timing in one.timings].count("CreatePrimary") for one in (persistent, derived)]
    assert made == [1, 2]  # one is the attestation key


@pytest.mark.usefixtures("tpm")
def test_what_each_command_took_is_known(attestor: Attestor) -> None:
    """The time of each TPM command can be told, by its name in the specification."""
    _activated(attestor, attestor.endorsement(_RSA))
    taken = {timing.command: timing.seconds for timing in attestor.timings}
    assert {"NV_Read", "CreatePrimary", "PolicySecret", "ActivateCredential"} <= taken.keys()
    assert all(seconds > 0 for seconds in taken.values())


def test_the_intermediate_certificates_are_presented(alone: Tpm2, attestor: Attestor, tmp_path: Path) -> None:
    """Where the TPM has the vendor's intermediate certificates too, they follow the EK's own, without the root."""
    root, intermediate = (x509.load_pem_x509_certificate(file.read_bytes()) for file in alone.ek_authorities)
    chain = b"".join(one.public_bytes(Encoding.DER) for one in (root, intermediate))
    # It goes on in a second index, which is longer than its content.
    parts = {"0x1c00100": chain[:1000], "0x1c00101": chain[1000:] + bytes(20)}
    for index, content in parts.items():
        (tmp_path / index).write_bytes(content)
        _tool("tpm2_nvdefine", index, "-C", "o", "-s", str(len(content)), "-a", "ownerwrite|ownerread|authread")
        _tool("tpm2_nvwrite", index, "-C", "o", "-i", str(tmp_path / index))
    presented = attestor.endorsement()
    assert presented.ek_certificate is not None
    blocks = re.findall(r"-----BEGIN.*?END CERTIFICATE-----\n", presented.ek_certificate, re.DOTALL)
    assert [x509.load_pem_x509_certificate(block.encode()) for block in blocks[1:]] == [intermediate]
    for index in parts:
        _tool("tpm2_nvundefine", index, "-C", "o")


def test_an_ek_without_certificate(shared_tpm: Tpm2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TPM without certificates presents the EKs of the TCG's templates, P-256 first, and answers their challenges.

    An index that was made for a certificate, or for a chain, but never written, is none.
    """
    with tpm2.cloned_without_resource_manager(shared_tpm, tmp_path / "tpm") as copy, Attestor() as attestor:
        for name, value in {**copy.environment, "TPM2TOOLS_TCTI": copy.environment["TPM2_PKCS11_TCTI"]}.items():
            monkeypatch.setenv(name, value)
        for index in ("0x1c00002", "0x1c00016"):
            _tool("tpm2_nvundefine", index, "-C", "p")
        for index in ("0x1c00002", "0x1c00100"):
            _tool("tpm2_nvdefine", index, "-C", "o", "-s", "800", "-a", "ownerwrite|ownerread|authread")
        known = attestor.info().endorsement_keys
        assert [(key.key_type, key.certificate) for key in known] == [("ec-p256", None), ("rsa-2048", None)]
        for rank, key in enumerate(known):
            presented = attestor.endorsement(rank)
            assert (presented.ek_certificate, presented.ek_type) == (None, key.key_type)
            assert read_endorsement(presented.ek_public, None).ek_sha256 == key.sha256
            secret, answer = _activated(attestor, presented)
            assert answer == secret


def test_an_rsa_key_for_oaep_is_the_same_key(shared_tpm: Tpm2) -> None:
    """A certificate that names id-RSAES-OAEP as its key's algorithm, as some vendors' do, is matched with the key."""
    file = next(iter(shared_tpm.ek_authorities))
    certificate = asn1crypto.x509.Certificate.load(ssl.PEM_cert_to_DER_cert(file.read_text()))
    expected = hashlib.sha256(certificate.public_key.dump()).hexdigest()
    assert endorsement_key.spki_sha256(certificate.dump()) == expected
    certificate.public_key["algorithm"] = {"algorithm": "rsaes_oaep"}
    assert endorsement_key.spki_sha256(certificate.dump(force=True)) == expected


def test_a_certificate_that_cannot_be_read_is_passed_on() -> None:
    """What is no certificate to us may be one to the backend: its key is then asked for from the TPM."""
    unreadable = bytes.fromhex("3003020100")
    assert endorsement_key.spki_sha256(unreadable) is None
    assert endorsement_key.chain(unreadable, [unreadable]) == [unreadable]


def test_only_the_other_process_loads_the_library() -> None:
    """A command's own process does not import tpm2-pytss, which takes a tenth of a second and may crash."""
    program_ = (
        "import sys, hsm_enroll.cli.tpm, hsm_enroll.token.tpm2.attestation.attestor\n"
        "print('tpm2_pytss' in sys.modules, 'cryptography' in sys.modules)\n"
    )
    loaded = subprocess.run([sys.executable, "-c", program_], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == ["False", "False"]
