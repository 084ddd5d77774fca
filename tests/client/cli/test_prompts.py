"""What a person on a terminal is asked for, and what nobody is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.devices import Device, Machine
from tests.support.screen import Screen

_INVITE = "https://localhost:9/#FQ18Y-B6CQX-NH07M-ZC77S-TCKYE"
_API = {"HSM_ENROLL_API_URL": "https://localhost:9"}


@pytest.fixture
def gateway(fresh_device: Device, tmp_path: Path) -> Device:
    """A device that has a token and an API in its environment, and no name."""
    made = Device(tmp_path / "gateway", _API)
    made.take_token_of(fresh_device)
    return made


def test_an_invite_is_asked_for_where_an_api_is_configured(gateway: Device) -> None:
    """A bare ``init`` asks for the invite although the environment names an API, and shows nothing of what is typed."""
    with Screen(gateway, "init") as screen:
        screen.expect("Invite (input is hidden; press Enter if you have none): ")
        screen.type(f"{_INVITE}\n")
        assert screen.end() == 30
    assert "FQ18Y" not in screen.raw
    assert "Name of the Thing" not in screen.text


def test_without_an_invite_the_name_is_asked_for(gateway: Device) -> None:
    """Enter in place of an invite means an open deployment, which needs the Thing's name."""
    with Screen(gateway, "init") as screen:
        screen.expect("press Enter if you have none): ")
        screen.type("\n")
        screen.expect("Name of the Thing: ")
        screen.type("gateway 17\n")
        assert screen.end() == 2
    assert "'gateway 17' is not a valid Thing name" in screen.text


def test_an_invite_is_asked_for_where_nothing_is_configured(gateway: Device) -> None:
    """Without an API there is no open deployment to choose."""
    with Screen(gateway, "init", HSM_ENROLL_API_URL="") as screen:
        screen.expect("Invite (input is hidden): ")
        screen.type("\n")
        assert screen.end() == 2
    assert "not a valid invite" in screen.text


@pytest.mark.parametrize("arguments", [("--thing", "gateway-17"), (_INVITE,)], ids=["name", "invite"])
def test_who_says_all_is_not_asked(gateway: Device, arguments: tuple[str, ...]) -> None:
    """With an API and a name, or with an invite, ``init`` asks for nothing."""
    with Screen(gateway, "init", *arguments) as screen:
        assert screen.end() == 30
    assert "input is hidden" not in screen.text


def test_scripts_are_not_asked(gateway: Device) -> None:
    """With ``--json``, and without a terminal, what is missing is an error."""
    with Screen(gateway, "init", "--json") as screen:
        assert screen.end() == 2
    assert "no Thing name given" in screen.text
    assert gateway.refused("init") == (2, "usage")


def test_an_enrolled_device_is_not_asked(device: Device, thing: str) -> None:
    """A bare ``init`` on an enrolled device asks for nothing, also where an API is configured."""
    device.json("init", "--thing", thing, "--no-publish")
    with Screen(device, "init") as screen:
        assert screen.end() == 0
    assert "already enrolled" in screen.text
    assert "input is hidden" not in screen.text


def test_a_home_folder_in_an_invites_file_is_expanded(gateway: Device) -> None:
    """``@~/invite`` is a file in the home folder, which the shell does not expand behind the ``@``."""
    (gateway.folder / "invite").write_text(f"{_INVITE}\n")
    assert gateway.refused("init", "@~/invite") == (30, "backend-unreachable")
    assert "~nobody-here/invite cannot be read" in gateway.error("init", "@~nobody-here/invite")["message"]


def test_publish_says_that_it_waits_for_a_message(tmp_path: Path) -> None:
    """Without MESSAGE on a terminal, ``publish`` says how to end it, and reads it."""
    with Screen(Machine(tmp_path, {}), "publish", "device/a/b") as screen:
        screen.expect("Type the message, and end it with Ctrl-D on a line of its own.")
        screen.type("21.5\n\x04")
        assert screen.end() == 3


def test_a_message_that_was_typed_is_published(device: Device, thing: str) -> None:
    """What was typed up to Ctrl-D is the message, and its size is said in English."""
    device.json("init", "--thing", thing, "--no-publish")
    with Screen(device, "publish", f"device/{thing}/x") as screen:
        screen.expect("Type the message")
        screen.type("x\x04\x04")
        assert screen.end() == 0
    assert f"published 1 byte to device/{thing}/x\n" in screen.text
