"""``hsm-enroll service`` where systemd records what it is told."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.errors import ServiceError
from hsm_enroll.service import systemd, units
from hsm_enroll.version import __version__
from tests.support import documents
from tests.support.devices import Device
from tests.support.mounts import with_own_mounts
from tests.support.nobody import as_nobody

_FORWARD, _TIMER = "hsm-enroll-forward.service", "hsm-enroll-renew.timer"
_FILES = {
    *(_FORWARD, "hsm-enroll-renew.service", _TIMER),
    *(f"{_FORWARD}.d/hsm-enroll.conf", "hsm-enroll-renew.service.d/hsm-enroll.conf"),
}
_DROP_INS = {name for name in _FILES if name.endswith(".conf")}
_SYSTEMCTL = """#!/bin/sh
shift
[ "$1" = show ] || echo "$*${HSM_ENROLL_PIN:+, with the PIN}" >>"${0%/*}/../calls"
[ "$1" != "$(cat "${0%/*}/../fails" 2>/dev/null)" ] || { echo "Access denied" >&2; exit 4; }
[ "$1" != show ] || cat "${0%/*}/../shown" 2>/dev/null || true
"""
_SHOWN = """Result=success
ExecMainStatus=0
Id=hsm-enroll-forward.service
LoadState=loaded
FragmentPath=/usr/lib/systemd/system/hsm-enroll-forward.service
DropInPaths=/etc/systemd/system/hsm-enroll-forward.service.d/hsm-enroll.conf /etc/systemd/system/x.d/y.conf
ActiveState=active
UnitFileState=enabled
StatusText=connected since 2026-11-26T14:02:11Z = now

Result=exit-code
ExecMainStatus=30
Id=hsm-enroll-renew.service
LoadState=loaded
ActiveState=failed
UnitFileState=static

Result=success
Id=hsm-enroll-renew.timer
LoadState=loaded
ActiveState=active
UnitFileState=enabled
"""


class _Machine:
    """A machine with a folder of units, and a systemctl that writes its arguments down.

    Attributes:
        units: ``/etc/systemd/system``.
        packaged: ``/usr/lib/systemd/system``.
        run_folder: ``/run``.
        shown: what ``systemctl show`` prints.
        fails: the verb with which systemctl fails.
    """

    def __init__(self, device: Device) -> None:
        root = device.folder / "systemd"
        self.units, self.shown, self.fails = root / "units", root / "shown", root / "fails"
        self.packaged, self.run_folder = root / "packaged", root / "run"
        self._device, self._calls, self._bin = device, root / "calls", root / "bin"
        for folder in (self.units, self.packaged, self.run_folder / "systemd/system", self._bin):
            folder.mkdir(parents=True)
        (self._bin / "systemctl").write_text(_SYSTEMCTL)
        (self._bin / "systemctl").chmod(0o755)

    def run(self, *command: str, of: Sequence[str] = ("service",)) -> subprocess.CompletedProcess[str]:
        """Run ``hsm-enroll service``, or a command of another group, as this machine's root."""
        mounting = 'mount --bind "$1" /etc/systemd/system && mount --bind "$2" /usr/lib/systemd/system && '
        mounting += 'mount --bind "$3" /run && shift 3 && exec "$@"'
        ours = [sys.executable, "-m", "hsm_enroll", *of, *command]
        folders = self.units, self.packaged, self.run_folder
        environment = self._device.environment
        environment["PATH"] = f"{self._bin}:{environment['PATH']}"
        return subprocess.run(
            with_own_mounts("sh", "-c", mounting, "sh", *map(str, folders), *ours),
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def json(self, command: str, status: int = 0) -> dict[str, Any]:
        """Run it with ``--json``, and return its document."""
        done = self.run(command, "--json")
        assert done.returncode == status, done.stdout + done.stderr
        document: dict[str, Any] = documents.read(["service", command], done.stdout)
        return document

    def files(self) -> set[str]:
        """Return the files in the folder of units."""
        return {str(file.relative_to(self.units)) for file in self.units.rglob("*") if not file.is_dir()}

    def calls(self) -> list[str]:
        """Return what systemctl was asked since the last time."""
        calls = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return calls

    def has_no_systemd(self) -> None:
        """Be a machine that was not started by systemd."""
        (self.run_folder / "systemd/system").rmdir()

    def has_a_package(self) -> None:
        """Be a machine on which a package has brought the units."""
        for unit in units.UNITS:
            (self.packaged / unit).write_text(units.packaged(unit))


@pytest.fixture
def machine(sender: Device) -> _Machine:
    """The machine of an enrolled device, without a service."""
    return _Machine(sender)


@pytest.fixture
def sender(device: Device, thing: str) -> Device:
    """An enrolled device."""
    device.json("init", "--thing", thing)
    device.extra["PYTHONPATH"] = str(Path(__file__).parents[2])
    return device


def test_the_services_are_installed_for_this_device(machine: _Machine, sender: Device) -> None:
    """The units run this hsm-enroll as the state folder's owner, with its settings and without a PIN from them.

    Nor does systemctl get the PIN.
    """
    sender.extra["HSM_ENROLL_PIN"] = "not for a file"
    document = machine.json("install")
    assert document["units"] == [_FORWARD, _TIMER]
    assert document["user"] == pwd.getpwuid(0).pw_name
    assert {each["file"] for each in document["files"]} == {f"/etc/systemd/system/{name}" for name in _FILES}
    assert machine.files() == _FILES
    assert machine.calls() == ["daemon-reload", f"enable {_FORWARD} {_TIMER}", f"restart {_FORWARD} {_TIMER}"]
    written = {name: (machine.units / name).read_text() for name in _FILES}
    drop_in = written[f"{_FORWARD}.d/hsm-enroll.conf"].splitlines()
    program = Path(sys.executable).with_name("hsm-enroll")
    assert f'ExecStart="{program}" forward' in drop_in
    assert f"ConditionPathExists={sender.home}/identity.json" in drop_in
    assert f'Environment="HSM_ENROLL_HOME={sender.home}"' in drop_in
    assert f'Environment="SOFTHSM2_CONF={sender.environment["SOFTHSM2_CONF"]}"' in drop_in
    assert f'ReadWritePaths="{sender.softhsm.tokens}"' in drop_in
    assert not any("not for a file" in text for text in written.values())
    assert {(machine.units / name).stat().st_mode & 0o777 for name in _FILES} == {0o644}


def test_installing_again_changes_what_is_different(machine: _Machine, sender: Device) -> None:
    """The same again starts what does not run and no more; other settings are written, and started with."""
    machine.json("install")
    machine.calls()
    assert not any(each["changed"] for each in machine.json("install")["files"])
    assert machine.calls()[-1] == f"start {_FORWARD} {_TIMER}"
    sender.extra["HSM_ENROLL_DRAINING_RATE"] = "10"
    changed = {each["file"] for each in machine.json("install")["files"] if each["changed"]}
    assert changed == {f"/etc/systemd/system/{name}" for name in _DROP_INS}
    assert machine.calls()[-1] == f"restart {_FORWARD} {_TIMER}"


def test_another_version_is_started(machine: _Machine) -> None:
    """After an update of hsm-enroll, installing again has the services run the new one."""
    machine.json("install")
    machine.calls()
    drop_in = machine.units / f"{_FORWARD}.d/hsm-enroll.conf"
    drop_in.write_text(drop_in.read_text().replace(__version__, "0.0.1", 1))
    machine.json("install")
    assert machine.calls()[-1] == f"restart {_FORWARD} {_TIMER}"


@pytest.mark.parametrize("verb", ["daemon-reload", "enable", "restart"])
def test_an_installation_that_was_interrupted_is_completed(verb: str, machine: _Machine) -> None:
    """The files of an interrupted run are in place, but the services do not run with them: the next run starts them."""
    machine.fails.write_text(verb)
    machine.json("install", status=1)
    machine.fails.unlink()
    machine.calls()
    assert not any(each["changed"] for each in machine.json("install")["files"])
    assert machine.calls() == ["daemon-reload", f"enable {_FORWARD} {_TIMER}", f"restart {_FORWARD} {_TIMER}"]
    assert list(machine.run_folder.iterdir()) == [machine.run_folder / "systemd"]


def test_a_file_that_is_empty_is_written_again(machine: _Machine) -> None:
    """A power cut during the installation may leave such a file, and one that was not finished."""
    machine.json("install")
    empty = machine.units / _TIMER
    empty.write_text("")
    (machine.units / f".{_TIMER}.new").write_text("[Tim")
    [changed] = (each["file"] for each in machine.json("install")["files"] if each["changed"])
    assert changed == f"/etc/systemd/system/{_TIMER}"
    assert machine.files() == _FILES
    (machine.units / f".{_TIMER}.new").write_text("[Tim")
    machine.json("uninstall")
    assert machine.files() == set()


def test_a_packages_units_are_used(machine: _Machine) -> None:
    """Beside a package only drop-ins are written; units of an earlier installation would hide its, and are removed."""
    machine.json("install")
    machine.has_a_package()
    machine.calls()
    document = machine.json("install")
    assert {each["file"] for each in document["files"]} == {f"/etc/systemd/system/{name}" for name in _DROP_INS}
    assert set(document["removed"]) == {f"/etc/systemd/system/{name}" for name in units.UNITS}
    assert machine.files() == _DROP_INS
    assert machine.calls() == ["daemon-reload", f"enable {_FORWARD} {_TIMER}", f"restart {_FORWARD} {_TIMER}"]
    assert machine.json("install")["removed"] == []


def test_a_packages_units_stay(machine: _Machine) -> None:
    """Uninstalling stops and disables them, and removes the drop-ins; an administrator's own copy of a unit stays."""
    machine.has_a_package()
    own = machine.units / _FORWARD
    own.write_text(units.packaged(_FORWARD))
    machine.json("install")
    machine.calls()
    machine.shown.write_text(_SHOWN)
    document = machine.json("uninstall")
    assert set(document["removed"]) == {f"/etc/systemd/system/{name}" for name in _DROP_INS}
    assert document["disabled"] == [_FORWARD, _TIMER]
    assert machine.files() == {_FORWARD}
    assert {file.name for file in machine.packaged.iterdir()} == set(units.UNITS)
    assert machine.calls() == [f"disable --now {_FORWARD} {_TIMER}", "stop hsm-enroll-renew.service", "daemon-reload"]
    machine.shown.write_text(_SHOWN.replace("=active", "=inactive").replace("=enabled", "=disabled"))
    assert machine.json("uninstall") == {"removed": [], "disabled": []}
    assert machine.run("uninstall").stdout.startswith("the services were not installed")


def test_a_pin_that_services_would_not_find_is_noticed(machine: _Machine, sender: Device) -> None:
    """A PIN file that only config.toml names counts, and is not there: the services would fail with this error."""
    (sender.home / "config.toml").write_text('pin_file = "/nonexistent/pin"\n')
    assert machine.json("install", status=12)["error"]["code"] == "pin-missing"
    assert machine.files() == set()


def test_uninstalling_removes_what_was_installed(machine: _Machine) -> None:
    """The files are gone, an administrator's own drop-in stays; a renewal that is running is stopped."""
    assert machine.run("install").stdout.endswith("\nTo see how they are: hsm-enroll service status\n")
    own = machine.units / f"{_FORWARD}.d" / "override.conf"
    own.write_text("[Service]\n")
    machine.calls()
    removed = machine.json("uninstall")["removed"]
    assert set(removed) == {f"/etc/systemd/system/{name}" for name in _FILES}
    assert list(machine.units.rglob("*")) == [own.parent, own]
    assert machine.calls() == [f"disable --now {_FORWARD} {_TIMER}", "stop hsm-enroll-renew.service", "daemon-reload"]
    assert machine.json("uninstall") == {"removed": [], "disabled": []}
    assert machine.calls() == ["daemon-reload"]


def test_a_file_that_cannot_be_removed_is_an_error(machine: _Machine) -> None:
    """D11: also of what an interrupted installation has left; the error names it."""
    (machine.units / f".{_TIMER}.new").mkdir()
    error = machine.json("uninstall", status=1)["error"]
    assert error["code"] == "service-failed"
    assert error["message"].startswith(f"/etc/systemd/system/.{_TIMER}.new cannot be removed: ")


def test_another_units_file_is_not_replaced(machine: _Machine) -> None:
    """A unit that somebody has written by hand stays as it is; nothing is installed beside it, nor removed."""
    own = machine.units / _TIMER
    own.write_text("[Timer]\nOnCalendar=weekly\n")
    error = machine.json("install", status=1)["error"]
    assert error["code"] == "service-failed"
    assert f"/etc/systemd/system/{_TIMER}" in error["message"]
    assert machine.json("uninstall") == {"removed": [], "disabled": []}
    assert (machine.files(), machine.calls()) == ({_TIMER}, ["daemon-reload"])


def test_what_systemd_refuses_is_an_error(machine: _Machine) -> None:
    """systemctl's own words are in the message, and the same command again goes on."""
    machine.fails.write_text("enable")
    error = machine.json("install", status=1)["error"]
    assert error["message"] == f"systemctl enable {_FORWARD} {_TIMER} failed: Access denied"
    machine.fails.unlink()
    machine.json("install")
    assert f"enable {_FORWARD} {_TIMER}" in machine.calls()


def test_without_an_identity_there_is_nothing_to_serve(device: Device) -> None:
    """Exit 3, and no file is written: with sudo the state folder is often another one."""
    machine = _Machine(device)
    assert machine.json("install", status=3)["error"]["code"] == "not-enrolled"
    assert machine.files() == set()


def test_a_service_without_a_pin_is_warned_of(machine: _Machine, sender: Device) -> None:
    """A PIN in the environment is not written down; the user learns where to put it instead."""
    sender.extra["HSM_ENROLL_PIN"] = sender.pin()
    (sender.home / "pin").unlink()
    done = machine.run("install")
    assert done.returncode == 0
    assert "there is no PIN for the services" in done.stderr
    assert sender.extra["HSM_ENROLL_PIN"] not in done.stderr + done.stdout


def test_status_shows_the_units(machine: _Machine) -> None:
    """Exit 0 while forward runs and the timer is active, whatever the last renewal was; 1 otherwise."""
    machine.shown.write_text(_SHOWN)
    document = machine.json("status")
    forward, renew, timer = document["units"]
    assert document["running"] is True
    assert (forward["enabled"], forward["state"]) == (True, "active")
    assert forward["status"] == "connected since 2026-11-26T14:02:11Z = now"
    assert forward["files"] == [
        f"/usr/lib/systemd/system/{_FORWARD}",
        f"/etc/systemd/system/{_FORWARD}.d/hsm-enroll.conf",
        "/etc/systemd/system/x.d/y.conf",
    ]
    assert (renew["state"], renew["result"], renew["exitStatus"]) == ("failed", "exit-code", 30)
    assert (timer["exitStatus"], timer["status"]) == (None, None)
    assert "hsm-enroll-renew.service: failed, exit status 30\n" in machine.run("status").stdout
    machine.shown.write_text(_SHOWN.replace("=active", "=inactive", 1))
    assert machine.json("status", status=1)["running"] is False


def test_status_says_how_to_go_on_after_a_failure(machine: _Machine) -> None:
    """What is not started again by itself, as after a wrong PIN, has to be started again once that is corrected."""
    machine.shown.write_text(_SHOWN.replace("ActiveState=active", "ActiveState=failed", 1))
    told = machine.run("status").stderr
    assert f"journalctl --unit {_FORWARD}\n" in told
    assert f"sudo systemctl restart {_FORWARD}\n" in told
    assert "renew" not in told


def test_the_doctor_finds_a_service_that_has_failed(machine: _Machine) -> None:
    """It asks systemd, so that a device whose outbox happens to be empty is not called healthy."""
    machine.shown.write_text(
        _SHOWN.replace("Result=success\nExecMainStatus=0", "Result=exit-code\nExecMainStatus=12", 1)
    )
    assert machine.run(of=["doctor"]).returncode == 0
    machine.shown.write_text(machine.shown.read_text().replace("ActiveState=active", "ActiveState=failed", 1))
    done = machine.run(of=["doctor"])
    assert done.returncode == 1
    assert f"failed   forward: {_FORWARD} has failed: exit status 12\n" in done.stdout


def test_units_that_systemd_does_not_know_are_not_installed(machine: _Machine) -> None:
    """Before the installation status says so, and how to install them; an administrator may have masked one."""
    machine.shown.write_text(f"Id={_FORWARD}\nLoadState=masked\nActiveState=inactive\nResult=success\n")
    assert {each["installed"] for each in machine.json("status", status=1)["units"]} == {False}
    done = machine.run("status")
    assert f"{_FORWARD}: masked\n" in done.stdout
    assert f"{_TIMER}: not installed\n" in done.stdout
    assert "hsm-enroll service install" in done.stderr


def test_a_packages_units_that_are_not_enabled(machine: _Machine) -> None:
    """A package's installation alone starts nothing: status says how to."""
    shown = _SHOWN.replace("Result=exit-code\nExecMainStatus=30", "Result=success").replace("=failed", "=inactive")
    machine.shown.write_text(shown.replace("=active", "=inactive").replace("=enabled", "=disabled"))
    assert {each["installed"] for each in machine.json("status", status=1)["units"]} == {True}
    done = machine.run("status")
    assert f"{_TIMER}: inactive, not enabled\n" in done.stdout
    assert "hsm-enroll-renew.service: inactive (the timer starts it)\n" in done.stdout
    assert "hsm-enroll service install" in done.stderr


@pytest.mark.parametrize("command", ["install", "status", "uninstall"])
def test_without_systemd_there_are_no_services(command: str, machine: _Machine) -> None:
    """On a machine of another service manager the error says what that has to run."""
    machine.has_no_systemd()
    error = machine.json(command, status=1)["error"]
    assert error["code"] == "service-failed"
    assert "hsm-enroll forward" in error["hint"]
    assert (machine.files(), machine.calls()) == (set(), [])


def test_only_root_changes_services() -> None:
    """Whoever else tries is told to use sudo."""
    with as_nobody() if os.geteuid() == 0 else nullcontext(), pytest.raises(ServiceError) as raised:
        systemd.require()
    assert "sudo" in raised.value.hint
