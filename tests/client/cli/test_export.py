"""``hsm-enroll export``: where the files go, and what they do not replace; an identity without a token will do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.support.devices import Machine
from tests.support.identities import identity
from tests.support.self_signed import pem, self_signed


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with an identity, whose token is not there."""
    made = Machine(tmp_path, {"HSM_ENROLL_CA_FILE": str(tmp_path / "ca.pem")})
    made.home.mkdir(mode=0o700)
    (tmp_path / "ca.pem").write_text(pem(self_signed()))
    identity().save(made.home)
    return made


def test_one_file_is_printed_as_it_is(machine: Machine) -> None:
    """stdout can be redirected into the file, and stderr says that the program will ask for the PIN."""
    run = machine.run("export", "curl")
    document = machine.json("export", "curl")
    assert run.stdout == document["files"][0]["text"]
    assert document["folder"] is None
    assert run.stderr.startswith("warning: the PIN is in no file, so the program will ask for it")


def test_several_files_are_printed_with_their_names(machine: Machine) -> None:
    """A line above each has the name that it takes with --output."""
    lines = machine.run("export", "stunnel").stdout.splitlines()
    assert [line for line in lines if line.startswith("# ----")] == ["# ---- stunnel.conf", "# ---- bridge.conf"]


def test_files_are_written_to_a_folder_and_replaced(machine: Machine) -> None:
    """--output creates the folder; a second export replaces what a first one has written, also if it has changed."""
    folder = machine.folder / "a" / "b"
    first = machine.run("export", "mosquitto", "--output", str(folder))
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [str(folder / name) for name in ("mosquitto.sh", _uri(folder))]
    assert stat.S_IMODE((folder / "mosquitto.sh").stat().st_mode) == 0o755
    machine.extra["HSM_ENROLL_MQTT_ENDPOINT"] = "other.example"
    assert machine.json("export", "mosquitto", "--output", str(folder))["folder"] == str(folder)
    assert "-h other.example " in (folder / "mosquitto.sh").read_text()


def _uri(folder: Path) -> str:
    (empty,) = (file.name for file in folder.iterdir() if not file.stat().st_size)
    return empty


@pytest.mark.parametrize("there", ["file", "folder", "dangling link"])
def test_what_others_have_written_stays(machine: Machine, there: str) -> None:
    """A file that export has not written is refused before any file is written."""
    folder = machine.folder / "out"
    folder.mkdir()
    foreign = folder / "bridge.conf"
    if there == "file":
        foreign.write_text("listener 1883\n")
    elif there == "folder":
        foreign.mkdir()
    else:
        foreign.symlink_to("nowhere")
    assert machine.refused("export", "stunnel", "--output", str(folder)) == (50, "state-unusable")
    assert [file.name for file in folder.iterdir()] == ["bridge.conf"]


def test_a_folder_that_cannot_be_used_is_named(machine: Machine) -> None:
    """A file in its place is an error of its own."""
    error = machine.error("export", "curl", "--output", "/dev/null/x")
    assert (error["code"], error["message"]) == ("state-unusable", "/dev/null/x cannot be used: Not a directory")


def test_without_an_identity_there_is_nothing_to_export(machine: Machine) -> None:
    """Both commands say that the device is not enrolled."""
    (machine.home / "identity.json").unlink()
    assert machine.refused("export", "curl") == (3, "not-enrolled")
    assert machine.refused("run", "--json", "true")[0] == 3


def test_a_profile_takes_a_role_alias(machine: Machine) -> None:
    """Without one, the profile would give no credentials: the error says so before it is written."""
    assert machine.refused("export", "aws")[1] == "role-alias-missing"
    machine.extra.update(HSM_ENROLL_ROLE_ALIAS="gateways", HSM_ENROLL_CREDENTIALS_ENDPOINT="c.example")
    assert "aws-credentials" in machine.json("export", "aws")["files"][0]["text"]
