"""A token that fails under the real command: its own error, nothing lost, nothing left over (D7, D9, D20)."""

from __future__ import annotations

import json
from urllib.parse import unquote_to_bytes

import pytest
from cryptography.x509 import load_pem_x509_csr

from tests.support import documents
from tests.support.fault_codes import CKR
from tests.support.fault_device import THING, FaultyDevice

_INIT = ("init", "--thing", THING, "--no-publish")

# What fails, with what, and the exit status, the code, and what is said of it. One of each kind: which CKR is said to
# be what is the subject of tests/tokens/test_translation.py.
_FAULTS = {
    "full": ("C_GenerateKeyPair 1+ fail", "CKR_DEVICE_MEMORY", 15, "the token is full (CKR_DEVICE_MEMORY)"),
    "write-protected": ("C_OpenSession 1+ fail", "CKR_TOKEN_WRITE_PROTECTED", 15, "the token is write-protected"),
    "key made, answer lost": ("C_GenerateKeyPair 1+ late", "CKR_DEVICE_ERROR", 15, "reported a hardware fault"),
    "removed": ("C_Sign 1+ dead", "CKR_DEVICE_REMOVED", 11, "is no longer present"),
    "reset": ("C_Sign 1+ dead", "CKR_SESSION_HANDLE_INVALID", 15, "the token was reset or removed"),
    "sign refused": ("C_SignInit 1+ fail", "CKR_KEY_FUNCTION_NOT_PERMITTED", 15, "the key does not allow it"),
    "search fails": ("C_FindObjectsInit 1+ fail", "CKR_GENERAL_ERROR", 15, "a general failure"),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_d7_init_goes_on_with_the_same_key(faulty: FaultyDevice, fault: str) -> None:
    """D7: a fault of the token ends init with its own error and hint; once it is gone, init has one key, the same."""
    plan, ckr, status, said = _FAULTS[fault]
    faulty.module.plan(f"{plan} {CKR[ckr]:x}")
    error = faulty.device.error(*_INIT)
    assert (error["exitStatus"], error["code"]) == (status, "token-refused" if status == 15 else "token-not-found")
    assert said in error["message"]
    assert faulty.api.requests == []
    begun = faulty.journalled_id()
    assert set(faulty.key_ids()) <= {begun}
    faulty.module.plan()
    assert faulty.init().returncode == 0
    assert faulty.key_ids() == [begun]
    assert len(faulty.api.requests) == 1


def test_d9_another_key_type_is_taken_where_the_token_lacks_a_curve(faulty: FaultyDevice) -> None:
    """D9: a curve that a token turns out not to have leaves nothing behind, so that the hint's advice works."""
    faulty.module.plan(f"C_GenerateKeyPair 1 fail {CKR['CKR_CURVE_NOT_SUPPORTED']:x}")
    error = faulty.device.error(*_INIT, "--key-type", "ec-p384")
    assert (error["exitStatus"], error["code"]) == (15, "token-refused")
    assert "the token does not support the curve" in error["message"]
    assert "--key-type" in error["hint"]
    assert not (faulty.device.home / "journal.json").exists()
    faulty.module.plan()
    assert faulty.init("--key-type", "ec-p256").returncode == 0
    assert len(faulty.key_ids()) == 1


@pytest.mark.parametrize("function", ["C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo", "C_GetMechanismList"])
def test_d7_whichever_look_at_a_token_fails_it_is_said(faulty: FaultyDevice, function: str) -> None:
    """D7: from whichever call on a function fails while a token is looked at, the error is one of ours."""
    assert faulty.init().returncode == 0
    faulty.module.forget_calls()
    faulty.device.json("csr")
    codes = set()
    for number in range(1, len(faulty.module.calls(function)) + 1):
        faulty.module.plan(f"{function} {number}+ fail {CKR['CKR_DEVICE_ERROR']:x}")
        codes.add(documents.read(["csr"], faulty.device.run("csr", "--json").stdout).get("error", {}).get("code"))
    assert codes & {"module-unusable", "token-refused"}
    assert "unexpected" not in codes
    faulty.module.plan(f"{function} 1 fail {CKR['CKR_DEVICE_ERROR']:x}")
    listed = documents.read(["tokens"], faulty.device.run("tokens", "--json").stdout)
    assert "unexpected" not in str(listed["modules"][0]["error"])


@pytest.mark.parametrize("function", ["C_GetSlotList", "C_GetTokenInfo"])
def test_d28_softhsm_gets_one_more_look(faulty: FaultyDevice, function: str) -> None:
    """D28: a SoftHSM that cannot be read once, as during another program's login, is looked at once more."""
    faulty.module.plan(f"{function} 1 fail {CKR['CKR_GENERAL_ERROR']:x}")
    assert "token=gateway" in faulty.device.json("csr")["key"]["uri"]
    faulty.module.plan(f"{function} 1+ fail {CKR['CKR_GENERAL_ERROR']:x}")
    assert faulty.device.error("csr")["code"] == "module-unusable"


@pytest.mark.parametrize("fault", ["full", "removed", "sign refused"])
def test_d7_csr_says_what_failed(faulty: FaultyDevice, fault: str) -> None:
    """D7: a fault of the token ends csr with its own error and hint, instead of a request; after it, it works."""
    plan, ckr, status, said = _FAULTS[fault]
    faulty.module.plan(f"{plan} {CKR[ckr]:x}")
    error = faulty.device.error("csr")
    assert error["exitStatus"] == status
    assert said in error["message"]
    faulty.module.plan()
    assert load_pem_x509_csr(faulty.device.run("csr").stdout.encode()).is_signature_valid


@pytest.mark.parametrize("ckr", ["CKR_DEVICE_REMOVED", "CKR_DEVICE_ERROR"])
def test_d7_after_a_transport_error_a_session_is_used_no_more(faulty: FaultyDevice, ckr: str) -> None:
    """D7: where every call fails after a fault, as with a TPM that is gone, nothing but ending the session is tried."""
    faulty.module.plan(f"C_Sign 1+ dead {CKR[ckr]:x}")
    faulty.init()
    calls = faulty.module.calls()
    first = next(index for index, call in enumerate(calls) if call.function == "C_Sign")
    after = {call.function for call in calls[first + 1 :]}
    assert after <= {"C_Logout", "C_CloseSession", "C_Finalize"}


def test_d7_of_a_fault_after_the_request_was_made_the_request_is_kept(faulty: FaultyDevice) -> None:
    """D7: a token that goes when its session is closed costs nothing: the request is journalled, and enrolls."""
    faulty.module.plan(f"C_Logout 1+ dead {CKR['CKR_DEVICE_REMOVED']:x}")
    assert faulty.init().returncode == 0
    assert len(faulty.key_ids()) == 1


@pytest.mark.parametrize(
    ("flag", "status", "said"),
    [
        ("set 20000", 13, "one more wrong PIN would lock"),  # CKF_USER_PIN_FINAL_TRY
        ("set 40000", 13, "is locked"),  # CKF_USER_PIN_LOCKED
        ("clear 4", 15, "the token requires a login"),  # CKF_LOGIN_REQUIRED, of a token that wants one all the same
    ],
)
def test_d1_a_token_is_logged_in_to_by_its_flags(faulty: FaultyDevice, flag: str, status: int, said: str) -> None:
    """D1: by what its flags say, init tries no PIN, and says why it got no further; no key is made."""
    faulty.module.plan(f"C_GetTokenInfo 1+ {flag}")
    error = faulty.device.error(*_INIT)
    assert error["exitStatus"] == status
    assert said in error["message"]
    assert faulty.module.calls("C_Login") == []
    assert faulty.key_ids() == []


@pytest.mark.parametrize(("command", "key_type"), [("init", "ec-p256"), ("init", "rsa-2048"), ("csr", "ec-p256")])
def test_d9_a_signature_that_does_not_verify_is_not_sent(faulty: FaultyDevice, key_type: str, command: str) -> None:
    """D9: a request whose signature is a bit off is exit 15, and neither printed, journalled nor sent."""
    faulty.module.plan("C_Sign 1+ flip 0")
    arguments = _INIT if command == "init" else ("csr",)
    error = faulty.device.error(*arguments, "--key-type", key_type)
    assert (error["exitStatus"], error["code"]) == (15, "token-refused")
    assert "does not verify" in error["message"]
    assert faulty.api.requests == []
    if command == "csr":
        return
    begun = faulty.journalled_id()
    assert not json.loads((faulty.device.home / "journal.json").read_text())["csr"]
    faulty.module.plan()
    assert faulty.init("--key-type", key_type).returncode == 0
    assert faulty.key_ids() == [begun]


def test_d9_without_the_combined_mechanism_init_works(faulty: FaultyDevice) -> None:
    """D9: a token that has CKM_RSA_PKCS and no CKM_SHA256_RSA_PKCS is enrolled with an RSA key all the same."""
    ckm_sha256_rsa_pkcs = 0x40
    faulty.module.plan(f"C_GetMechanismList 1+ without {ckm_sha256_rsa_pkcs:x}")
    assert faulty.init("--key-type", "rsa-2048").returncode == 0
    (request,) = faulty.api.requests
    csr = json.loads(request.partition(b"\r\n\r\n")[2])["csr"]
    assert load_pem_x509_csr(csr.encode()).is_signature_valid


def test_d9_without_a_mechanism_that_signs_no_key_is_made(faulty: FaultyDevice) -> None:
    """D9: a token that cannot sign with a key of the type asked for is exit 15 before it makes one."""
    ckm_ecdsa = 0x1041
    faulty.module.plan(f"C_GetMechanismList 1+ without {ckm_ecdsa:x}")
    error = faulty.device.error(*_INIT, "--key-type", "ec-p256")
    assert error["exitStatus"] == 15
    assert faulty.key_ids() == []
    assert faulty.api.requests == []


def _sessions(faulty: FaultyDevice) -> dict[str, int]:
    """How many sessions were opened and not closed, and how many logins were not logged out of."""
    done = [call.function for call in faulty.module.calls() if call.outcome == "0x0"]
    endings = {"C_OpenSession": "C_CloseSession", "C_Login": "C_Logout"}
    return {begin: done.count(begin) - done.count(end) for begin, end in endings.items()}


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("init", "C_FindObjectsInit"),
        ("init", "C_GenerateKeyPair"),
        ("init", "C_GetAttributeValue"),
        ("init", "C_Sign"),
        ("csr", "C_GenerateKeyPair"),
    ],
)
def test_d20_a_failing_command_ends_its_session(faulty: FaultyDevice, command: str, function: str) -> None:
    """D20: whatever fails inside a session, it is logged out of and closed."""
    faulty.module.plan(f"{function} 1+ fail {CKR['CKR_FUNCTION_FAILED']:x}")
    run = faulty.device.run(*(_INIT if command == "init" else ("csr",)))
    assert run.returncode == 15
    assert _sessions(faulty) == {"C_OpenSession": 0, "C_Login": 0}


def test_d7_csr_leaves_no_key_that_nobody_knows(faulty: FaultyDevice) -> None:
    """D7: where csr cannot sign with the key it made, that key is destroyed, or the hint names it."""
    faulty.module.plan(f"C_SignInit 1+ fail {CKR['CKR_FUNCTION_FAILED']:x}")
    faulty.device.error("csr")
    assert faulty.key_ids() == []
    faulty.module.plan(f"C_Sign 1+ dead {CKR['CKR_DEVICE_REMOVED']:x}")
    hint = faulty.device.error("csr")["hint"]
    (left,) = faulty.key_ids()
    uri = next(word for word in hint.replace("'", " ").split() if word.startswith("pkcs11:"))
    assert bytes.fromhex(left) in unquote_to_bytes(uri)
    faulty.module.plan()
    again = faulty.device.run("csr", "--key", uri)
    assert load_pem_x509_csr(again.stdout.encode()).is_signature_valid
    assert faulty.key_ids() == [left]


_KEY = "pkcs11:token=gateway;object=x"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--token", "pkcs11:token=gateway;object=other"), "--token: PKCS#11 URI: 'object' names an object"),
        (("--token", "pkcs11:token=gateway;type=private"), "--token: PKCS#11 URI: 'type' names an object"),
        (("--token", "pkcs11:token=gateway?module-path=/another.so"), "URI says module-path=/another.so"),
        (("--key", f"{_KEY};type=cert"), "type=cert is not a key pair"),
        (("--key", "pkcs11:token=gateway"), "--key: pkcs11:token=gateway names no key"),
        (("--key", "gateway"), "--key: not a PKCS#11 URI"),
        (("--key", _KEY, "--token-label", "gateway"), "so --token-label has no use"),
        (("--key", _KEY, "--token", "pkcs11:token=gateway"), "so --token has no use"),
        (("--key", _KEY, "--key-type", "ec-p256"), "so --key-type has no use"),
        (("--key", f"{_KEY}?module-path=/m.so", "--module", "/m.so"), "so --module has no use"),
    ],
)
def test_what_names_a_token_or_key_is_never_ignored(
    faulty: FaultyDevice, arguments: tuple[str, ...], said: str
) -> None:
    """A criterion that would have no effect, or contradicts another one, is exit 2, and the token is not opened."""
    error = faulty.device.error("csr", *arguments)
    assert (error["exitStatus"], error["code"]) == (2, "usage")
    assert said in error["message"]
    assert faulty.module.calls("C_OpenSession", "C_Login") == []


def test_a_token_of_the_configuration_names_no_key(faulty: FaultyDevice) -> None:
    """HSM_ENROLL_TOKEN with a key in it is refused in every command, with the variable's name."""
    faulty.device.extra["HSM_ENROLL_TOKEN"] = _KEY
    error = faulty.device.error(*_INIT)
    assert (error["exitStatus"], error["code"]) == (2, "usage")
    assert error["message"].startswith("HSM_ENROLL_TOKEN: ")


def test_d22_csr_finds_a_key_by_the_uri_that_tokens_prints(faulty: FaultyDevice) -> None:
    """D22: the public key's URI, its id alone, and the private key's URI name one key, also after a relabel."""
    made = faulty.device.json("csr")["key"]["uri"]
    (key_id,) = faulty.key_ids()
    half = ("--type", "pubkey", "--id", key_id)
    file = faulty.device.folder / "public.der"
    file.write_bytes(faulty.device.pkcs11_tool("--read-object", *half))
    faulty.device.pkcs11_tool("--delete-object", *half)
    faulty.device.pkcs11_tool("--write-object", str(file), *half, "--label", "other", "--usage-sign")
    ((listed,),) = [
        token["keys"] for token in faulty.device.json("tokens")["modules"][0]["tokens"] if token["label"] == "gateway"
    ]
    assert "object=other;" in listed
    encoded = "".join(f"%{key_id[place : place + 2]}" for place in range(0, len(key_id), 2))
    for uri in (made, listed, f"pkcs11:id={encoded}", f"pkcs11:token=gateway;id={encoded};type=public"):
        assert faulty.device.json("csr", "--key", uri)["key"]["uri"] == made
    error = faulty.device.error("csr", "--key", f"pkcs11:object=none;id={encoded}")
    assert (error["exitStatus"], error["code"]) == (14, "key-missing")
    assert f"labelled 'none' with id {key_id}" in error["message"]


def test_csr_with_a_key_that_aws_iot_does_not_accept(faulty: FaultyDevice) -> None:
    """An Ed25519 key is exit 14 before anything is signed, and the message says which type it is."""
    faulty.device.pkcs11_tool("--keypairgen", "--key-type", "EC:edwards25519", "--label", "ed", "--id", "05")
    error = faulty.device.error("csr", "--key", "pkcs11:object=ed")
    assert (error["exitStatus"], error["code"]) == (14, "key-origin")
    assert "'ed' is of type EC_EDWARDS, which AWS IoT does not accept" in error["message"]
    assert faulty.module.calls("C_Sign") == []
