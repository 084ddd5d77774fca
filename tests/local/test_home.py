"""The record of where a local cloud listens: any release's is read, and anything else is an error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_enroll.errors import LocalCloudError, StateTooNewError
from hsm_enroll.local.endpoints import Endpoints
from hsm_enroll.local.home import Home
from tests.support.failing_calls import failing

_EARLIER = Path(__file__).with_name("earlier") / "0.1.0" / "cloud.json"
_FOLDER = Path("/home/gateway/.local/state/hsm-enroll/local")
_ENDPOINTS = Endpoints(
    api_url="https://localhost:40001",
    mqtt_endpoint="localhost",
    mqtt_port=40002,
    ca_file=_FOLDER / "ca.pem",
    aws_endpoint_url="http://127.0.0.1:40003",
    credentials_endpoint="localhost",
    credentials_port=40004,
    est_url="https://localhost:40005",
    region="eu-central-1",
    home=_FOLDER,
    observer_certificate=_FOLDER / "observer.pem",
    observer_key=_FOLDER / "observer.key",
)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Home]:
    """A home that this process holds, as if its cloud were running."""
    home = Home(tmp_path / "home")
    home.prepare()
    with home.locked():
        yield home


def test_a_record_is_read_as_it_was_written(held: Home) -> None:
    """Whoever looks for the cloud finds what its process has written, in a file of version 1."""
    held.write_state(_ENDPOINTS)
    assert held.read_state() == _ENDPOINTS
    assert json.loads(held.state_file.read_text()) == {"version": 1, **_ENDPOINTS.to_json()}


def test_a_record_of_an_earlier_release_is_read(held: Home) -> None:
    """D12: a cloud that an earlier release started is found after an upgrade; its record has no version.

    It has neither a credentials provider nor mutual TLS for EST.
    """
    shutil.copy(_EARLIER, held.state_file)
    assert held.read_state() == replace(_ENDPOINTS, credentials_port=0, est_url="")


def test_a_record_may_have_more_members(held: Home) -> None:
    """D12: members that this version does not know do no harm."""
    held.state_file.write_text(json.dumps({"version": 1, **_ENDPOINTS.to_json(), "consoleUrl": "http://localhost"}))
    assert held.read_state() == _ENDPOINTS


def test_a_record_of_a_newer_version_is_told_apart(held: Home) -> None:
    """D12: a cloud that a newer version started is exit status 52."""
    held.state_file.write_text('{"version": 2}')
    with pytest.raises(StateTooNewError) as caught:
        held.read_state()
    assert caught.value.exit_status == 52


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        json.dumps({**_ENDPOINTS.to_json(), "mqttPort": "many"}),
        json.dumps({**_ENDPOINTS.to_json(), "mqttPort": []}),
    ],
    ids=["empty", "no members", "list", "no number", "other type"],
)
def test_a_damaged_record_is_an_error(held: Home, text: str) -> None:
    """D12: a damaged record is a LocalCloudError that names it."""
    held.state_file.write_text(text)
    with pytest.raises(LocalCloudError, match=str(held.state_file)):
        held.read_state()


def test_a_link_to_nothing_is_an_error(held: Home) -> None:
    """D29: a dangling link in the record's place is a LocalCloudError that names it, and not a cloud that is down."""
    held.state_file.symlink_to("nowhere")
    with pytest.raises(LocalCloudError, match=str(held.state_file)):
        held.read_state()


def test_a_record_that_cannot_be_written_is_an_error(held: Home) -> None:
    """D11: the error of a cloud that cannot say where it listens names the file."""
    held.state_file.mkdir()
    try:
        with pytest.raises(LocalCloudError, match=f"{held.state_file} cannot be written"):
            held.write_state(_ENDPOINTS)
    finally:
        held.state_file.rmdir()


def test_a_record_that_a_killed_cloud_left_is_ignored(tmp_path: Path) -> None:
    """Without a process that holds the home nothing is running, whatever the record says."""
    home = Home(tmp_path)
    home.write_state(_ENDPOINTS)
    assert home.read_state() is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
@pytest.mark.parametrize("command", [("up", "--detach"), ("env",)], ids=" ".join)
def test_a_home_without_locks_is_named(tmp_path: Path, command: tuple[str, ...], number: int) -> None:
    """Where its file system does not support locks, nobody knows whether a cloud runs there, and the error says so."""
    Home(tmp_path).prepare()
    Home(tmp_path).lock_file.touch()
    run = subprocess.run(
        [sys.executable, "-m", "hsm_enroll", "local", *command, "--home", tmp_path, "--json"],
        env={**os.environ, **failing(flock=number)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    error = json.loads(run.stdout)["error"]
    assert (run.returncode, error["code"]) == (LocalCloudError.exit_status, LocalCloudError.code)
    assert f"{tmp_path} cannot be locked: {os.strerror(number)}" in error["message"]


def test_a_command_names_the_home_unless_it_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hint says can be typed as it stands, also where the folder's name has a blank."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Home(tmp_path / "hsm-enroll" / "local").command("down") == "hsm-enroll local down"
    assert Home(tmp_path / "my cloud").command("down") == f"hsm-enroll local down --home '{tmp_path}/my cloud'"
