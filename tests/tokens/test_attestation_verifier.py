"""The backend's checks and a TPM's own word, from swtpm: they open each other's challenges and believe each other."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tpm2_pytss import ESAPI, TCTILdr
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
)
from tpm2_pytss.utils import credential_to_tools

from enrollment_backend.attestation.certificates import read_pem
from enrollment_backend.attestation.credential import Challenge, make_credential
from enrollment_backend.attestation.endorsement import Endorsement, read_endorsement
from enrollment_backend.attestation.errors import AttestationRefusedError
from enrollment_backend.attestation.evidence import (
    Evidence,
    Statement,
    qualifying_data,
    read_attestation_key,
    verify,
)
from enrollment_backend.attestation.structures import read_public
from tests.support import tpm2
from tests.support.processes import program, run
from tests.support.tpm2 import Tpm2

SECRET, NONCE, CSR = bytes(range(32)), bytes(32), b"the request, in DER"
AK = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign|noda"
KEY = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|decrypt"


class Ek(NamedTuple):
    """Where a TPM from the factory has an endorsement key, and its certificate."""

    handle: int
    certificate: int
    needs_policy: bool  # TCG's templates L-1 and L-2 know no password


EKS = {"rsa-2048": Ek(0x81010001, 0x01C00002, True), "ec-p384": Ek(0x81010016, 0x01C00016, False)}


@pytest.fixture(scope="module")
def tpm(shared_tpm: Tpm2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm2]:
    """Provide a TPM that nobody else uses."""
    with tpm2.cloned_without_resource_manager(shared_tpm, tmp_path_factory.mktemp("own") / "tpm") as own:
        yield own


@pytest.fixture
def esapi(tpm: Tpm2) -> Iterator[ESAPI]:
    """Provide a connection to it."""
    name, _, configuration = tpm.connection["TPM2_PKCS11_TCTI"].partition(":")
    with TCTILdr(name, configuration) as tcti, ESAPI(tcti) as connected:
        yield connected


def endorsement_of(esapi: ESAPI, ek: Ek) -> Endorsement:
    """Read an endorsement key and its certificate from the TPM."""
    public, _, _ = esapi.read_public(esapi.tr_from_tpmpublic(ek.handle))
    index = esapi.tr_from_tpmpublic(ek.certificate)
    size = esapi.nv_read_public(index)[0].nvPublic.dataSize
    pieces = [esapi.nv_read(index, min(512, size - at), at, auth_handle=index) for at in range(0, size, 512)]
    certificate = x509.load_der_x509_certificate(b"".join(bytes(piece) for piece in pieces))
    return read_endorsement(public.marshal(), certificate.public_bytes(Encoding.PEM).decode())


def activated(esapi: ESAPI, ek: Ek, ak: ESYS_TR, challenge: Challenge) -> bytes:
    """Carry out TPM2_ActivateCredential; every session it opens is closed."""
    blob, _ = TPM2B_ID_OBJECT.unmarshal(challenge.credential_blob)
    secret, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(challenge.encrypted_secret)
    key = esapi.tr_from_tpmpublic(ek.handle)
    if not ek.needs_policy:
        return bytes(esapi.activate_credential(ak, key, blob, secret))
    none = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
    policy = esapi.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, none, TPM2_ALG.SHA256)
    try:
        esapi.policy_secret(ESYS_TR.ENDORSEMENT, policy, b"", b"", b"", 0)
        return bytes(esapi.activate_credential(ak, key, blob, secret, session2=policy))
    finally:
        esapi.flush_context(policy)


@pytest.mark.parametrize("ek", EKS)
@pytest.mark.parametrize(
    "ak_type", ["ecc256:ecdsa-sha256:null", "rsa2048:rsassa-sha256:null", "rsa2048:rsapss-sha384:null"]
)
def test_what_a_tpm_says_is_believed(esapi: ESAPI, tpm: Tpm2, ek: str, ak_type: str) -> None:
    """The whole protocol on a TPM: its EK's chain, a challenge that it opens, and the certified key."""
    endorsement = endorsement_of(esapi, EKS[ek])
    authorities = "".join(file.read_text() for file in tpm.ek_authorities)
    endorsement.check_chain(read_pem(authorities), dt.datetime.now(dt.UTC))
    ak, ak_public, *_ = esapi.create_primary(
        TPM2B_SENSITIVE_CREATE(), TPM2B_PUBLIC.parse(ak_type, objectAttributes=AK), ESYS_TR.ENDORSEMENT
    )
    key, key_public, *_ = esapi.create_primary(
        TPM2B_SENSITIVE_CREATE(), TPM2B_PUBLIC.parse("ecc256:null:null", objectAttributes=KEY), ESYS_TR.OWNER
    )
    try:
        read = read_attestation_key(ak_public.marshal())
        assert read.name == bytes(esapi.tr_get_name(ak))
        secret = activated(esapi, EKS[ek], ak, make_credential(endorsement.public, read.name, SECRET))
        said, signature = esapi.certify(key, ak, qualifying_data(NONCE, CSR), TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL))
    finally:
        esapi.flush_context(key)
        esapi.flush_context(ak)
    evidence = Evidence(secret, key_public.marshal(), bytes(said), signature.marshal())
    statement = Statement(NONCE, hashlib.sha256(SECRET).digest(), read.public)
    certified = verify(evidence, statement, CSR, read_public(key_public.marshal()).spki)
    assert [int(number) >= 0 for number in certified.firmware.split(".")] == [True] * 4
    assert endorsement.manufacturer == "00001014"  # libtpms' id is no letters
    with pytest.raises(AttestationRefusedError) as refused:
        verify(evidence, statement, CSR + b"another", read_public(key_public.marshal()).spki)
    assert refused.value.code == "attestation-other-request"


def test_a_tpm_refuses_a_credential_for_another_attestation_key(esapi: ESAPI) -> None:
    """The secret stays secret where the TPM has not the key that it is for."""
    ek = EKS["ec-p384"]
    template = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=AK)
    ak, ak_public, *_ = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
    name = read_attestation_key(ak_public.marshal()).name
    other = name[:-1] + bytes([name[-1] ^ 1])
    try:
        with pytest.raises(Exception, match="integrity"):
            activated(esapi, ek, ak, make_credential(endorsement_of(esapi, ek).public, other, SECRET))
    finally:
        esapi.flush_context(ak)


@pytest.mark.parametrize("ek", EKS)
def test_tpm2_activatecredential_opens_the_backends_challenge(tpm: Tpm2, ek: str, tmp_path: Path) -> None:
    """tpm2-tools finds in the challenge the secret that was put into it."""

    def tool(name: str, *arguments: str) -> None:
        environment = {"TPM2TOOLS_TCTI": tpm.connection["TPM2_PKCS11_TCTI"]}
        run([program(name, package="tpm2-tools"), *arguments], environment)
        if name in {"tpm2_createprimary", "tpm2_activatecredential"}:  # nobody else takes objects out of the TPM
            run([program("tpm2_flushcontext", package="tpm2-tools"), "-t"], environment)

    path = {name: str(tmp_path / name) for name in ("ek.pub", "ak.pub", "ak.ctx", "session", "blob", "secret")}
    handle = hex(EKS[ek].handle)
    tool("tpm2_readpublic", "-c", handle, "-o", path["ek.pub"])
    made = ["-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-a", AK, "-c", path["ak.ctx"]]
    tool("tpm2_createprimary", *made)
    tool("tpm2_readpublic", "-c", path["ak.ctx"], "-o", path["ak.pub"])
    read = read_attestation_key(Path(path["ak.pub"]).read_bytes())
    challenge = make_credential(read_public(Path(path["ek.pub"]).read_bytes()), read.name, SECRET)
    blob, _ = TPM2B_ID_OBJECT.unmarshal(challenge.credential_blob)
    secret, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(challenge.encrypted_secret)
    Path(path["blob"]).write_bytes(credential_to_tools(blob, secret))
    opened = ["-c", path["ak.ctx"], "-C", handle, "-i", path["blob"], "-o", path["secret"]]
    if EKS[ek].needs_policy:
        tool("tpm2_startauthsession", "--policy-session", "-S", path["session"])
        tool("tpm2_policysecret", "-S", path["session"], "-c", "e")
        opened += ["-P", f"session:{path['session']}"]
    tool("tpm2_activatecredential", *opened)
    if EKS[ek].needs_policy:
        tool("tpm2_flushcontext", path["session"])
    assert Path(path["secret"]).read_bytes() == SECRET
