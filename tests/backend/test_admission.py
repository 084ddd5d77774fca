"""S12: who may enroll. Codes that are not valid, deployments that are open or not, invites for one TPM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.backend.fleet import Device, iot
from tests.support.csr_factory import THING, pem_of, request
from tests.support.deployment import Answer, Deployment, assert_hidden, assert_problem, deployed, event

CSR = pem_of(request())
DAY = 24 * 3600


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """A deployment that asks for an invite."""
    with deployed({"AUTH_MODE": "invite"}) as deployment:
        yield deployment


def quiet(backend: Deployment) -> Deployment:
    """Forget what has been called and logged."""
    backend.calls.clear()
    backend.log.seek(0)
    backend.log.truncate()
    return backend


def changed_at_the_end(code: str) -> str:
    """Return a code with its last character but one exchanged: one off."""
    return code[:-2] + ("0" if code[-2] != "0" else "1") + code[-1]


def test_s12_no_code_is_refused_before_anything_is_looked_at(backend: Deployment) -> None:
    """S12: the answer to a request without a code asks for one, and names the scheme (RFC 6750)."""
    answer = backend.enroll("not even a CSR", "../x")
    assert backend.refused(answer, 401, "invite-required")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer x", "Basic dTpw", "Bearer 00000-00000-00000-00000-00001", "Bearer \u0660" * 25,
     "Bearer " + "0" * 26, "Bearer " + "0-" * 300, "00000-00000-00000-00000-00000"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["invite", "open"])
def test_s12_what_is_no_code_makes_no_call(mode: str, header: str) -> None:
    """S12: a code whose check character is wrong, and anything else, is refused without a look into the ledger."""
    made = event("POST", "/v1/certificates", '{"csr": "", "thingName": "x"}')
    made["headers"]["Authorization"] = header
    with deployed({"AUTH_MODE": mode}) as backend:
        assert backend.refused(backend.send(made), 401, "invite-invalid")
        assert backend.log_lines()[0]["reason"] == "malformed"


def unknown(backend: Deployment) -> str:
    """Return a code that another deployment has made."""
    backend.invite(THING)
    return "00000-00000-00000-00000-00000"


def expired(backend: Deployment) -> str:
    """Return a code whose time is over, to the second."""
    code = backend.invite(THING)
    backend.clock.ahead = DAY
    return code


def used(backend: Deployment) -> str:
    """Return a code that another device has used."""
    code = backend.invite("*")
    assert Device(backend, "another", code).enroll().status == 201
    return code


def revoked(backend: Deployment) -> str:
    """Return a code that the operator has taken back."""
    code = backend.invite(THING)
    (invite,) = backend.items("invite")
    assert backend.operate("DELETE", "invites", id=invite).status == 204
    return code


def other_thing(backend: Deployment) -> str:
    """Return a code for another Thing."""
    return backend.invite(THING + "0")


INVALID = {"unknown": unknown, "expired": expired, "used": used, "revoked": revoked, "other-thing": other_thing}


def refusal(make: Callable[[Deployment], str]) -> tuple[Answer, str]:
    """Return the answer to a code that is not valid, and what the log says about it."""
    with deployed({"AUTH_MODE": "invite"}) as backend:
        code = make(backend)
        issued = len(iot().certificates)
        quiet(backend)
        answer = backend.enroll(CSR, THING, code)
        assert backend.calls == ["BatchGetItem", *([] if make is unknown else ["TransactGetItems"])]
        assert len(iot().certificates) == issued
        assert backend.items("thing").keys() <= {"another"}
        (line,) = backend.log_lines()
        assert_hidden(backend.log.getvalue() + answer.body, code, code.replace("-", ""), CSR)
        return answer, line["reason"]


@pytest.mark.parametrize("reason", INVALID)
def test_s12_an_invalid_code_is_refused_and_the_log_says_why(reason: str) -> None:
    """S12: a made-up one costs a single read; none takes a turn; nothing is issued; the operator can see the reason."""
    answer, logged = refusal(INVALID[reason])
    assert_problem(answer, 401, "invite-invalid")
    assert (answer.headers["www-authenticate"], logged) == ("Bearer", reason)


def test_s12_all_invalid_codes_are_answered_alike() -> None:
    """S12: to the byte, so that nobody learns which codes exist."""
    answers = [refusal(make)[0] for make in INVALID.values()]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("read", [str.lower, lambda code: code.replace("-", ""), lambda code: code.replace("-", "  ")])
def test_s12_a_code_is_taken_in_another_case_and_grouping(backend: Deployment, read: Callable[[str], str]) -> None:
    """S12: as a person types it."""
    assert backend.enroll(CSR, THING, read(backend.invite(THING))).status == 201


def test_s12_a_code_one_off_is_refused(backend: Deployment) -> None:
    """S12: with one wrong character it is nobody's code, whatever is in the ledger."""
    code = backend.invite(THING)
    quiet(backend)
    assert backend.refused(backend.enroll(CSR, THING, changed_at_the_end(code)), 401, "invite-invalid", code)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("name", ["authorization", "Authorization"])
def test_the_scheme_and_the_header_are_read_without_regard_to_case(backend: Deployment, scheme: str, name: str) -> None:
    """RFC 9110 §5.1 and §11.1."""
    made = event("POST", "/getCertificate", CSR)
    made["headers"][name] = f"{scheme} {backend.invite(THING)}"
    assert backend.send(made).status == 200


def test_an_invite_for_many_is_good_for_so_many(backend: Deployment) -> None:
    """S12: a prefix with three uses enrolls three devices, and the fourth one is refused like any other code."""
    code = backend.invite("line3-*", uses=3)
    devices = [Device(backend, f"line3-{number}", code) for number in range(4)]
    assert [device.enroll().status for device in devices] == [201, 201, 201, 401]
    assert [device.enroll().status for device in devices] == [200, 200, 200, 401]
    assert Device(backend, "line4-1", backend.invite("line3-*")).enroll().status == 401
    assert len(iot().certificates) == 3


def test_the_last_use_goes_to_one_of_those_who_come_at_once(backend: Deployment) -> None:
    """S12: five devices at the same moment, two uses: two certificates."""
    backend.clock.waits = True
    code = backend.invite("line3-*", uses=2)
    devices = [Device(backend, f"line3-{number}", code) for number in range(5)]
    with ThreadPoolExecutor(len(devices)) as pool:
        statuses = sorted(pool.map(lambda device: device.enroll().status, devices))
    assert statuses == [201, 201, 401, 401, 401]
    assert (len(iot().certificates), len(backend.items("thing"))) == (2, 2)


def test_an_invite_for_one_tpm_asks_for_proof_and_keeps_its_use(backend: Deployment) -> None:
    """403 without a call to AWS IoT; nothing is claimed; with a wrong Thing it is as invalid as any other."""
    code = backend.invite(THING, ekSha256="ab" * 32)
    quiet(backend)
    assert_problem(backend.enroll(CSR, THING, code), 403, "attestation-required")
    assert backend.calls == ["BatchGetItem"]
    assert [entry["uses_left"] for entry in backend.items("invite").values()] == ["1"]
    assert backend.items("thing") == {}
    assert_problem(Device(backend, "another", code).enroll(), 401, "invite-invalid")


@pytest.mark.parametrize("path", ["/v1/certificates", "/getCertificate"])
@pytest.mark.parametrize("mode", [None, "", "invite", "OPEN", "open ", "opened", "true"])
def test_only_an_open_deployment_lets_anyone_in(mode: str | None, path: str) -> None:
    """Anything but AUTH_MODE=open is 401 before the CSR or the name is looked at."""
    with deployed({"AUTH_MODE": mode}) as backend:
        answer = backend.post(path, {"csr": "not even a CSR", "thingName": "../x"})
        assert backend.refused(answer, 401, "invite-required")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_an_open_deployment_takes_invites_and_refuses_invalid_ones() -> None:
    """Where nobody needs a code, one that is given has to be valid all the same."""
    with deployed({"AUTH_MODE": "open"}) as backend:
        assert Device(backend, "without").enroll().status == 201
        assert Device(backend, "with", backend.invite("with")).enroll().status == 201
        assert Device(backend, "other", backend.invite("with")).enroll().status == 401
