"""The units: what systemd reads, and what it thinks of them."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from hsm_enroll.cli import signals
from hsm_enroll.errors import (
    KeyMissingError,
    NotEnrolledError,
    PinLockedError,
    PinWrongError,
    StateTooNewError,
    UsageError,
)
from hsm_enroll.service import units
from hsm_enroll.service.units import FORWARD, RENEW, TIMER, Installation
from tests.support.processes import program

# systemd-analyze counts in tenths of a point.
_MOST_EXPOSURE = 20
_OBSERVED_SECONDS = 5


def _installation(executable: Path = Path("/opt/hsm-enroll/bin/hsm-enroll"), user: str = "root") -> Installation:
    return Installation(
        executable=executable,
        state=Path("/var/lib/hsm-enroll"),
        user=user,
        groups=["tss"],
        environment={},
        written=[Path("/var/lib/hsm-enroll")],
        read=[],
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
    contents = units.files(installation)
    return _settings(contents[unit] + contents[f"{unit}.d/hsm-enroll.conf"])


def _write(folder: Path, installation: Installation) -> list[str]:
    for name, content in units.files(installation).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return [str(folder / unit) for unit in units.UNITS]


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
    _write(tmp_path, _installation(user=user))
    merged = tmp_path / "merged" / unit
    merged.parent.mkdir()
    merged.write_text((tmp_path / unit).read_text() + (tmp_path / f"{unit}.d" / "hsm-enroll.conf").read_text())
    analyze = program("systemd-analyze", package="systemd")
    command = [analyze, "security", "--offline=true", f"--threshold={_MOST_EXPOSURE}", "--no-pager", str(merged)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_forward_is_started_again_but_after_what_a_person_has_to_correct() -> None:
    """A wrong PIN above all is not tried again and again; SIGTERM is no failure."""
    shown = _installed(FORWARD, _installation())
    errors = (UsageError, NotEnrolledError, PinWrongError, PinLockedError, KeyMissingError, StateTooNewError)
    assert shown["Restart"] == ["on-failure"]
    assert shown["RestartPreventExitStatus"] == [" ".join(str(error.exit_status) for error in errors)]
    assert shown["SuccessExitStatus"] == [str(signals.TERMINATED_STATUS)]
    assert shown["StartLimitIntervalSec"] == ["0"]


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
    installation = Installation(
        executable=Path("/opt/odd $name/100%/hsm-enroll"),
        state=Path("/srv/state"),
        user="gateway",
        groups=[],
        environment={"HSM_ENROLL_CA_FILE": '/srv/a "b" 5%.pem', "HSM_ENROLL_HOME": "/srv/state"},
        written=[Path("/srv/state"), Path("/srv/tokens")],
        read=[],
    )
    shown = _installed(FORWARD, installation)
    assert shown["ExecStart"] == ['"/opt/odd $$name/100%%/hsm-enroll" forward']
    assert shown["ConditionPathExists"] == ["/srv/state/identity.json"]
    assert shown["User"] == ["gateway"]
    assert shown["SupplementaryGroups"] == []
    assert shown["ReadWritePaths"] == ['"/srv/state"', '"/srv/tokens"']
    assert shown["Environment"] == [r'"HSM_ENROLL_CA_FILE=/srv/a \"b\" 5%%.pem"', '"HSM_ENROLL_HOME=/srv/state"']
    assert (shown["ProtectHome"], shown["PrivateTmp"]) == (["tmpfs"], ["yes"])
    assert _installed(RENEW, installation)["ExecStart"] == ['"/opt/odd $$name/100%%/hsm-enroll" renew --if-due']


@pytest.mark.parametrize(
    ("path", "home", "temporary"),
    [("/home/you/state", "read-only", "yes"), ("/run/user/7/x", "read-only", "yes"), ("/var/tmp/x", "tmpfs", "no")],  # noqa: S108
)
def test_what_a_service_needs_is_not_hidden_from_it(path: str, home: str, temporary: str) -> None:
    """Homes and temporary folders are hidden only if nothing that it uses is in them."""
    installation = _installation(executable=Path(path) / "hsm-enroll")
    shown = _installed(FORWARD, installation)
    assert (shown["ProtectHome"][-1], shown["PrivateTmp"][-1]) == (home, temporary)
