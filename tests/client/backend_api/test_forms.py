"""The forms of what the API returns."""

from __future__ import annotations

import json

import pytest

from hsm_enroll import forms
from hsm_enroll.backend_api.answer import Answer
from hsm_enroll.backend_api.client import EnrollmentClient, issued
from hsm_enroll.errors import UnexpectedResponseError
from hsm_enroll.role_alias import RoleAlias
from tests.support.authority import Authority
from tests.support.https_server import https_server, response

_ANSWER = {
    "certificatePem": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "certificateId": "0a" * 32,
    "thingName": "gateway-17",
    "mqttEndpoint": "iot.example",
    "mqttPort": 8883,
    "attested": False,
}
_NO_TEXTS: tuple[object, ...] = (None, 5, True, [], {}, "")
_HOSTILE = ("a\x1b[2J", "a\0", "a\n", " a", "a b", "é", "\u202ea", "a" * 5000)


@pytest.mark.parametrize(
    "host",
    ["localhost", "a1b2c3-ats.iot.eu-central-1.amazonaws.com", "3com.example", "127.0.0.1", "::1", "2001:db8::7",
     "a" * 63, ".".join(["a" * 63] * 3 + ["a" * 61])],
)  # fmt: skip
def test_host_names_and_addresses_are_accepted(host: str) -> None:
    """A host name of letters, digits and hyphens up to 253 characters, an IPv4 and an IPv6 address (RFC 1123 §2.1)."""
    assert forms.is_host(host)


@pytest.mark.parametrize(
    "host",
    [*_NO_TEXTS, *_HOSTILE, "-a", "a-", "a..b", ".a", "a.", "a_b", "a/b", "a:1", "[::1]", "u@h", "1.2.3", "1.2.3.256",
     "fe80::1%eth0", "::1%\x1b[2J", "*", "a" * 64, ".".join(["a" * 63] * 3 + ["a" * 62])],
)  # fmt: skip
def test_what_is_neither_is_no_host(host: object) -> None:
    """D31: everything else is refused: it might be shown, stored and connected to."""
    assert not forms.is_host(host)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("certificateId", value) for value in (*_NO_TEXTS, *_HOSTILE, "0a" * 31, "0A" * 32, "0a" * 32 + "\n")),
        *(("thingName", value) for value in (*_NO_TEXTS, *_HOSTILE, "gateway-17\n", "gateway-18")),
        *(("mqttEndpoint", value) for value in (*_NO_TEXTS, *_HOSTILE)),
        *(("mqttPort", value) for value in (None, "8883", True, 8883.0, 0, -1, 65536, 10**4000)),
        *(("certificatePem", value) for value in (*_NO_TEXTS, "a" * (16 * 1024 + 1))),
        *(("attested", value) for value in (None, 0, "false")),
    ],
)
def test_an_answer_with_a_member_of_another_form_is_unexpected(
    member: str, value: object, authority: Authority
) -> None:
    """D31: it is an unexpected response that names the member, and shows no control character of it."""
    with https_server(authority, response("201 Created", json.dumps({**_ANSWER, member: value}))) as server:
        client = EnrollmentClient(server.url, ca_file=authority.certificate)
        with pytest.raises(UnexpectedResponseError) as raised:
            client.enroll("THE-CSR", "gateway-17")
    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 500


_ROLE = {"roleAlias": "gateways", "credentialsEndpoint": "credentials.example", "credentialsPort": 443}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("roleAlias", value) for value in (*_NO_TEXTS, *_HOSTILE, "a/b", "..", "x" * 129)),
        *(("credentialsEndpoint", value) for value in (*_NO_TEXTS, *_HOSTILE)),
        *(("credentialsPort", value) for value in (None, "443", True, 0, 65536)),
    ],
)
def test_an_answer_with_a_senseless_role_alias_is_unexpected(member: str, value: object) -> None:
    """D31: none of it is stored or connected to."""
    with pytest.raises(UnexpectedResponseError, match=member):
        issued(_answer({**_ANSWER, **_ROLE, member: value}), "gateway-17")


def test_a_role_alias_comes_with_its_provider_or_not_at_all() -> None:
    """Deployments without a role for devices, and those of earlier releases, name none."""
    assert issued(_answer(_ANSWER), "gateway-17").role_alias is None
    assert issued(_answer({**_ANSWER, **_ROLE}), "gateway-17").role_alias == RoleAlias(
        "gateways", "credentials.example", 443
    )
    for member in ("credentialsEndpoint", "credentialsPort"):
        partial = {name: value for name, value in _ROLE.items() if name != member}
        with pytest.raises(UnexpectedResponseError, match=f"{member} is missing"):
            issued(_answer({**_ANSWER, **partial}), "gateway-17")


def _answer(members: dict[str, object]) -> Answer:
    return Answer("https://api.example", 201, "application/json", json.dumps(members).encode())


@pytest.mark.parametrize("member", _ANSWER)
def test_an_answer_without_a_member_is_unexpected(member: str, authority: Authority) -> None:
    """D17: the member that is missing is named."""
    answer = {name: value for name, value in _ANSWER.items() if name != member}
    with https_server(authority, response("201 Created", json.dumps(answer))) as server:
        client = EnrollmentClient(server.url, ca_file=authority.certificate)
        with pytest.raises(UnexpectedResponseError, match=f"{member} is missing"):
            client.enroll("THE-CSR", "gateway-17")
