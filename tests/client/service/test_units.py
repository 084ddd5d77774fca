"""The units: what systemd reads, and what it thinks of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.cli import signals
from hsm_enroll.errors import (
    BusyError,
    KeyMissingError,
    ModuleMissingError,
    MqttError,
    NotEnrolledError,
    PinExposedError,
    PinFinalTryError,
    PinLockedError,
    PinMissingError,
    PinWrongError,
    ServiceError,
    StateError,
    StateTooNewError,
    TokenNotFoundError,
    TokenRefusedError,
    UsageError,
)
from hsm_enroll.service import units
from hsm_enroll.service.units import FORWARD, RENEW, TIMER, Installation
from tests.support.processes import program

# systemd-analyze counts in tenths of a point.
_MOST_EXPOSURE = 20
_OBSERVED_SECONDS = 5
_NOBODY = 65534
_FINAL = (NotEnrolledError, PinMissingError, PinExposedError, PinWrongError, StateTooNewError)
# A CA file on a disk that is not mounted is a UsageError; power cuts lock a TPM, which unlocks itself after some time.
_PASSING = (
    *(UsageError, ModuleMissingError, TokenNotFoundError, KeyMissingError, TokenRefusedError),
    *(PinLockedError, PinFinalTryError, MqttError, StateError, BusyError),
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can read, as systemd's are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _installation(
    executable: Path = Path("/opt/hsm-enroll/bin/hsm-enroll"),
    *,
    user: str = "root",
    state: Path = Path("/var/lib/hsm-enroll"),
    environment: Mapping[str, str] | None = None,
    pin_file: Path | None = None,
    operation_timeout: float = 20.0,
) -> Installation:
    return Installation(
        executable=executable,
        state=state,
        user=user,
        groups=["tss"],
        environment=environment or {},
        pin_file=pin_file,
        written=[state],
        read=[executable],
        operation_timeout=operation_timeout,
    )


def _settings(text: str) -> dict[str, list[str]]:
    """Return the values of each setting, in order; an empty one takes back those before it (systemd.unit(5))."""
    found = defaultdict[str, list[str]](list)
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = [*found[name], value] if value else []
    return found


def _installed(unit: str, installation: Installation) -> dict[str, list[str]]:
    """Return the settings of a service with its drop-in."""
    return _settings(units.packaged(unit) + _drop_in(unit, installation))


def _drop_in(unit: str, installation: Installation) -> str:
    return units.drop_ins(installation)[f"{unit}.d/hsm-enroll.conf"]


def _write(folder: Path, installation: Installation) -> list[str]:
    contents = {unit: units.written(unit) for unit in units.UNITS} | units.drop_ins(installation)
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return [str(folder / unit) for unit in units.UNITS]


def _as_systemd_reads_them(folder: Path, unit: str) -> str:
    """Return what a systemd that starts nothing has read from a folder of units; as a plain user, as it wants to be."""
    runtime = folder / "run"
    runtime.mkdir()
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        os.chown(runtime, _NOBODY, _NOBODY)
        who = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
    environment = {"PATH": os.defpath, "XDG_RUNTIME_DIR": str(runtime), "SYSTEMD_UNIT_PATH": f"{folder}:"}
    command = ["/lib/systemd/systemd", "--user", "--test", f"--unit={unit}"]
    shown: str = subprocess.check_output(command, env=environment, text=True, timeout=60, **who)
    return shown


@pytest.mark.parametrize(("operation_timeout", "stop"), [(1.0, "60"), (20.0, "60"), (20.5, "61"), (600.0, "640")])
def test_forward_is_given_the_time_that_it_may_need_to_end(operation_timeout: float, stop: str) -> None:
    """systemd waits for the acknowledgements as long as forward does, and does not kill it before."""
    installed = _installation(operation_timeout=operation_timeout)
    assert _installed(FORWARD, installed)["TimeoutStopSec"][-1] == stop
    assert "TimeoutStopSec" not in _drop_in(RENEW, installed)


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """systemd-analyze has nothing to say about the units and their drop-ins."""
    files = _write(tmp_path, _installation(Path(sys.executable)))
    analyze = program("systemd-analyze", package="systemd")
    done = subprocess.run([analyze, "verify", "--man=no", *files], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "hsm-enroll" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("user", ["root", "hsm-enroll"])
@pytest.mark.parametrize("unit", [FORWARD, RENEW])
def test_the_services_are_little_exposed(unit: str, user: str, tmp_path: Path) -> None:
    """By systemd's own measure a service is at 2.0 of 10 at most, even as root."""
    merged = tmp_path / "merged" / unit
    merged.parent.mkdir()
    merged.write_text(units.packaged(unit) + _drop_in(unit, _installation(user=user)))
    analyze = program("systemd-analyze", package="systemd")
    command = [analyze, "security", "--offline=true", f"--threshold={_MOST_EXPOSURE}", "--no-pager", str(merged)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_forward_is_started_again_but_after_what_no_restart_mends() -> None:
    """A wrong PIN is not tried again; a token or file that is there later is found. SIGTERM is no failure."""
    shown = _installed(FORWARD, _installation())
    assert shown["Restart"] == ["on-failure"]
    assert shown["SuccessExitStatus"] == [str(signals.TERMINATED_STATUS)]
    assert shown["StartLimitIntervalSec"] == ["0"]
    [final] = shown["RestartPreventExitStatus"]
    assert {int(status) for status in final.split()} == {error.exit_status for error in _FINAL}
    assert {error.exit_status for error in _PASSING}.isdisjoint(error.exit_status for error in _FINAL)


def test_a_renewal_that_is_stopped_has_not_failed() -> None:
    """Whoever stops it, for example to uninstall the services, leaves no failed unit behind."""
    assert _settings(units.packaged(RENEW))["SuccessExitStatus"] == [str(signals.TERMINATED_STATUS)]


def test_a_hanging_forwarder_is_noticed() -> None:
    """systemd waits for many times what there may be between two signs of progress."""
    shown = _installed(FORWARD, _installation())
    assert shown["Type"] == ["notify"]
    [minutes] = (value.removesuffix("min") for value in shown["WatchdogSec"])
    assert int(minutes) * 60 > 10 * _OBSERVED_SECONDS


def test_devices_renew_at_times_of_their_own() -> None:
    """The timer spreads the devices of a site, and catches up if the device was off."""
    shown = _settings(units.packaged(TIMER))
    assert (shown["OnCalendar"], shown["Persistent"], shown["FixedRandomDelay"]) == (["daily"], ["yes"], ["yes"])
    assert shown["RandomizedDelaySec"] == ["23h"]


@pytest.mark.parametrize("unit", [FORWARD, RENEW])
def test_the_pin_is_encrypted_and_the_tpm_is_there(unit: str) -> None:
    """Both services get the PIN as a credential, and of all devices the TPM alone."""
    shown = _installed(unit, _installation())
    assert shown["LoadCredentialEncrypted"] == ["hsm-enroll.pin"]
    assert (shown["DevicePolicy"], shown["DeviceAllow"]) == (["closed"], ["/dev/tpmrm0 rw"])
    assert shown["CapabilityBoundingSet"] == []


def test_a_package_creates_the_groups_that_its_units_name() -> None:
    """Without such a group systemd would not start the services."""
    shown = _settings(units.packaged(FORWARD))
    created = [line.split()[1] for line in units.packaged("hsm-enroll.sysusers").splitlines() if line.startswith("g ")]
    assert shown["SupplementaryGroups"] == [" ".join(created)]


def test_what_this_machine_has_replaces_what_a_package_has() -> None:
    """Program, user, groups, folders and variables are this machine's, and only they."""
    installation = replace(
        _installation(Path("/opt/bin/hsm-enroll"), user="gateway", pin_file=Path("/mnt/pin")),
        state=Path("/srv/state"),
        groups=[],
        environment={"HSM_ENROLL_HOME": "/srv/state"},
        written=[Path("/srv/state"), Path("/srv/tokens")],
    )
    shown = _installed(FORWARD, installation)
    assert shown["ExecStart"] == ['"/opt/bin/hsm-enroll" forward']
    assert shown["ConditionPathExists"] == ["/srv/state/identity.json"]
    assert shown["RequiresMountsFor"][1:] == ['"/srv/state"', '"/mnt/pin"']
    assert shown["User"] == ["gateway"]
    assert shown["SupplementaryGroups"] == []
    assert shown["ReadWritePaths"] == ['"/srv/state"', '"/srv/tokens"']
    assert shown["Environment"] == ['"HSM_ENROLL_HOME=/srv/state"']
    assert (shown["ProtectHome"], shown["PrivateTmp"]) == (["tmpfs"], ["yes"])
    assert _installed(RENEW, installation)["ExecStart"] == ['"/opt/bin/hsm-enroll" renew --if-due']


def test_odd_names_are_read_as_they_are(open_folder: Path) -> None:
    """systemd itself reads blanks, percent and dollar signs, quotation marks and backslashes as these characters."""
    executable = open_folder / "a $b 100%h" / "hsm-enroll"
    executable.parent.mkdir()
    executable.symlink_to("/bin/true")
    state = Path('/srv/a "b" c\\d \'e $HOME 5%n')
    installation = _installation(
        executable, state=state, environment={"HSM_ENROLL_SUBJECT": 'O="x" y\\z, OU=$PATH 5%i'}
    )
    _write(open_folder, installation)
    shown = _as_systemd_reads_them(open_folder, FORWARD)
    assert f"ReadWritePaths: {state}\n" in shown
    assert f"ConditionPathExists: {state}/identity.json untested\n" in shown
    assert f"RequiresMountsFor: {state} (" in shown
    assert 'Environment: HSM_ENROLL_SUBJECT=O="x" y\\z, OU=$PATH 5%i\n' in shown
    analyze = program("systemd-analyze", package="systemd")
    command = [analyze, "verify", "--man=no", str(open_folder / FORWARD)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "hsm-enroll" in done.stderr) == (0, False), done.stderr  # it looks for the program


@pytest.mark.parametrize(
    "odd",
    [
        {"state": Path("/srv/a\nExecStart=/bin/sh")},
        {"state": Path("/srv/a\x7f")},
        {"state": Path(os.fsdecode(b"/srv/\xff"))},
        {"environment": {"HSM_ENROLL_SUBJECT": "O=a\tb"}},
        {"pin_file": Path("/srv/\x1b[1m")},
        {"executable": Path('/opt/"quoted"/hsm-enroll')},
        {"executable": Path("/opt/back\\slash/hsm-enroll")},
    ],
)
def test_what_no_unit_can_name_is_refused(odd: dict[str, Any]) -> None:
    """The error shows the name, its control characters escaped, before anything is written."""
    with pytest.raises(ServiceError) as raised:
        units.drop_ins(_installation(**odd))
    assert raised.value.message.isprintable()


@pytest.mark.parametrize(
    ("path", "home", "temporary"),
    [("/home/you/state", "read-only", "yes"), ("/run/user/7/x", "read-only", "yes"), ("/var/tmp/x", "tmpfs", "no")],  # noqa: S108
)
def test_what_a_service_needs_is_not_hidden_from_it(path: str, home: str, temporary: str) -> None:
    """Homes and temporary folders are hidden only if nothing that it uses is in them."""
    installation = _installation(executable=Path(path) / "hsm-enroll")
    shown = _installed(FORWARD, installation)
    assert (shown["ProtectHome"][-1], shown["PrivateTmp"][-1]) == (home, temporary)
