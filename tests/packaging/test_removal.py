"""What the packages say to whoever removes them from a device that is enrolled."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.identities import identity
from tests.support.mounts import with_own_mounts
from tests.support.pages import ROOT

_THING = "line:3_gateway-17"
_PURGE = ["deb/postrm", "purge"]


def _state(folder: Path) -> Path:
    """Return a state folder in the place of this machine's, with an enrolled device's identity."""
    state = folder / "lib/hsm-enroll"
    state.mkdir(parents=True)
    identity(thing_name=_THING).save(state)
    return state


def _removed(folder: Path, *command: str) -> str:
    """Run a script where these folders are the machine's, and return what it says."""
    lib, etc, run, programs = folder / "lib", folder / "etc", folder / "run", folder / "bin"
    for each in (etc, run, programs):
        each.mkdir()
    # It looks for the package's own folder, and for tokens.
    (programs / "find").symlink_to("/bin/true")
    mounting = 'mount --bind "$1" /var/lib && mount --bind "$2" /etc && mount --bind "$3" /run && shift 3 && exec "$@"'
    script = str(ROOT / "packaging" / command[0])
    done = subprocess.run(
        with_own_mounts("sh", "-c", mounting, "sh", *map(str, (lib, etc, run)), "sh", script, *command[1:]),
        env={"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


@pytest.mark.parametrize("command", [_PURGE, ["rpm/preun", "0"]], ids=["deb", "rpm"])
def test_a_certificate_that_stays_active_is_told(command: list[str], tmp_path: Path) -> None:
    """Whoever removes the package of an enrolled device learns which Thing an operator should revoke, and how."""
    state = _state(tmp_path)
    told = _removed(tmp_path, *command)
    assert f"was not retired: the certificate of the Thing {_THING} is still active" in told
    assert told.endswith(f": hsm-enroll fleet revoke {_THING}\n")
    assert state.exists() is (command != _PURGE)


@pytest.mark.parametrize("content", [None, "", "{}"])
@pytest.mark.parametrize("command", [_PURGE, ["rpm/preun", "0"]], ids=["deb", "rpm"])
def test_without_an_identity_nothing_is_said(command: list[str], content: str | None, tmp_path: Path) -> None:
    """Nor is the removal stopped by a damaged file."""
    file = _state(tmp_path) / "identity.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    assert _removed(tmp_path, *command) == ""


@pytest.mark.parametrize("command", [["deb/postrm", "remove"], ["rpm/preun", "1"]], ids=["deb", "rpm"])
def test_what_keeps_the_device_is_silent(command: list[str], tmp_path: Path) -> None:
    """An upgrade, or a removal after which Debian keeps all that is configured, is no end of the device."""
    state = _state(tmp_path)
    assert _removed(tmp_path, *command) == ""
    assert (state / "identity.json").exists()
