"""The page, every part real: a device is enrolled with a printed label, given another key, and revoked."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.support.devices import Device, Operator
from tests.web import walk
from tests.web.browser import picture


@pytest.fixture
def url(operator: Operator) -> Iterator[str]:
    """The address that ``fleet web`` prints for the local cloud; it ends in order, having written nothing else."""
    with operator.start("fleet", "web") as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (130, "", 1)


def test_a_things_life_in_the_page(chrome: Chrome, url: str, gateway: Device, thing: str, tmp_path: Path) -> None:
    """Invited by a label, enrolled with what a scanner reads from it, listed, its key replaced, revoked and refused."""
    chrome.get(url)
    walk.press(chrome, "New invites")
    walk.one(chrome, "#things").send_keys(thing)
    walk.press(chrome, "Create")
    picture(chrome, tmp_path / "label.png")
    scanned = subprocess.run(
        ["zbarimg", "--quiet", "--raw", str(tmp_path / "label.png")], capture_output=True, text=True, check=True
    )
    first = gateway.json("init", scanned.stdout.strip())
    assert first["thingName"] == thing
    walk.press(chrome, "Invites")
    assert walk.row(chrome, thing)[1:3] == ["used", "1/1"]
    walk.press(chrome, "Things")
    assert walk.row(chrome, thing)[1:5] == ["issued", "-", "0 min", "ec-p256"]
    assert "fleet indexing of connectivity is not enabled" in walk.one(chrome, ".note").text
    walk.press(chrome, thing)
    walk.press(chrome, "Replace its key…")
    walk.press(chrome, "Create the invite")
    (invite,) = walk.texts(chrome, ".labels .invite")
    second = gateway.json("init", "--new-key", invite)
    assert second["certificate"]["id"] != first["certificate"]["id"]
    walk.press(chrome, "Things")
    walk.one(chrome, f"input[value={thing}]").click()
    walk.press(chrome, "Revoke selected Things…")
    walk.press(chrome, f"Revoke {thing}")
    assert walk.heading(chrome) == "1 of 1 Things are revoked"
    walk.press(chrome, "Back to the Things")
    assert walk.row(chrome, thing)[1] == "revoked"
    assert gateway.error("publish", f"device/{thing}/out", "x")["exitStatus"] == 40
