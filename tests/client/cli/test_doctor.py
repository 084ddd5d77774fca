"""How ``doctor`` shows its findings to a person, and what its options mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_enroll.errors import NotEnrolledError
from tests.support.devices import Device
from tests.support.screen import Screen

_INDENT = " " * 9


@pytest.fixture
def gateway(fresh_device: Device, tmp_path: Path) -> Device:
    """A device that has a token and is not enrolled."""
    made = Device(tmp_path / "gateway", {})
    made.take_token_of(fresh_device)
    return made


def _is_folded(check: dict[str, str]) -> bool:
    return check["status"] == "skipped" and not check["hint"]


def _advice(check: dict[str, str]) -> list[str]:
    """What stands below a check: its hint, and for a problem the section that explains it."""
    advice = [check["hint"]] if check["hint"] and check["status"] != "ok" else []
    if check["status"] in {"warning", "failed"}:
        advice.append(f"See docs/troubleshooting.md#{check['id']}")
    return advice


def test_each_check_has_a_line_and_those_without_an_object_share_one(gateway: Device) -> None:
    """The text has every finding but those that were skipped for good: these are one line, by their names."""
    checks = gateway.json("doctor", "--online")["checks"]
    lines = gateway.run("doctor", "--online").stdout.splitlines()
    told = [check for check in checks if not _is_folded(check)]
    heads = [line for line in lines if not line.startswith(_INDENT)]
    assert [head.split()[:2] for head in heads[:-1]] == [[check["status"], f"{check['id']}:"] for check in told]
    folded = ", ".join(check["id"] for check in checks if _is_folded(check))
    assert folded
    assert lines[-1] == f"skipped  {folded} (--verbose says why)"
    below = [line.removeprefix(_INDENT) for line in lines if line.startswith(_INDENT)]
    assert below == [advice for check in told for advice in _advice(check)]


def test_verbose_tells_of_every_check(gateway: Device) -> None:
    """With ``--verbose`` every check has its own line with the reason."""
    checks = gateway.json("doctor")["checks"]
    lines = gateway.run("doctor", "--verbose").stdout.splitlines()
    heads = [line for line in lines if not line.startswith(_INDENT)]
    # The clock's message has the time.
    expected = [f"{check['status']:<9}{check['id']}: {check['message']}" for check in checks]
    assert heads[1:] == expected[1:]


def test_quiet_leaves_what_failed(gateway: Device) -> None:
    """With ``--quiet`` nothing is printed but the failed checks, each with what to do."""
    quiet = gateway.run("doctor", "--quiet", "--login")
    assert quiet.returncode == 1
    assert quiet.stdout.splitlines() == [
        "failed   mqtt.login: there is no certificate to connect with",
        f"{_INDENT}{NotEnrolledError.default_hint}",
        f"{_INDENT}See docs/troubleshooting.md#mqtt.login",
    ]
    assert (gateway.run("doctor", "--quiet").stdout, quiet.stderr) == ("", "")


@pytest.mark.parametrize("columns", [40, 80])
def test_findings_and_hints_hang(gateway: Device, columns: int) -> None:
    """On a terminal whatever belongs to a check stands to the right of its status, and nothing is too wide."""
    with Screen(gateway, "doctor", "--online", columns=columns) as screen:
        assert screen.end() == 0
    lines = screen.text.splitlines()
    paths = [line for line in lines if "/" in line]
    assert all(len(line) <= columns for line in lines if line not in paths)
    begin = next(number for number, line in enumerate(lines) if line.startswith("ok"))
    columns_of_status = ("ok       ", "warning  ", "skipped  ", _INDENT)
    assert all(line.startswith(columns_of_status) for line in lines[begin:] if line not in paths)


def test_a_login_that_is_not_possible_is_a_failed_check(gateway: Device) -> None:
    """On a device that is not enrolled ``--login`` fails with the way out; without it, that is only a warning."""
    [asked] = [check for check in gateway.json("doctor", "--login", status=1)["checks"] if check["id"] == "mqtt.login"]
    assert (asked["status"], asked["hint"]) == ("failed", NotEnrolledError.default_hint)
    [unasked] = [check for check in gateway.json("doctor")["checks"] if check["id"] == "mqtt.login"]
    assert (unasked["status"], unasked["hint"]) == ("skipped", "")


def test_an_enrolled_device_is_told_what_was_not_tried(device: Device, thing: str) -> None:
    """Without ``--login`` a line says that nobody knows whether the certificate is accepted, and how to find out."""
    device.json("init", "--thing", thing, "--no-publish")
    lines = device.run("doctor", "--online").stdout.splitlines()
    position = next(number for number, line in enumerate(lines) if line.startswith("skipped  mqtt.login: "))
    assert "the broker accepts the device's certificate was not tried" in lines[position]
    assert lines[position + 1].strip() == "Run: hsm-enroll doctor --login"


@pytest.mark.parametrize(
    "variables",
    [
        {"HSM_ENROLL_API_URL": "https://api.example:99999"},
        {"HSM_ENROLL_API_URL": "https://[::1"},
        {"HSM_ENROLL_API_URL": "https://api.invalid", "HTTPS_PROXY": "http://localhost:99999"},
    ],
    ids=["port", "address", "proxy"],
)
def test_an_address_that_cannot_be_used_is_a_finding(gateway: Device, variables: dict[str, str]) -> None:
    """An API URL or a proxy with a port that cannot be is a failed check like any other, with what init says of it."""
    gateway.extra.update(variables)
    [check] = [
        check for check in gateway.json("doctor", "--online", status=1)["checks"] if check["id"] == "api.reachable"
    ]
    assert check["status"] == "failed"
    assert gateway.error("init", "--thing", "gateway-17")["message"] == check["message"]
