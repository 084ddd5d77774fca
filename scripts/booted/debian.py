"""Debian with systemd, made once by debootstrap and kept in a cache folder; each run works on a copy."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

# systemd, and what the tests' own cloud needs besides Python. Python is not here: the package has to bring it.
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "mosquitto", "mosquitto-clients")
_HOST = "gateway"
_SOURCES = Path("/etc/apt")
_MIRROR_LINE = re.compile(r"^(?:URIs:|deb (?:\[[^]]*\] )?) *(http\S*/debian/?)(?: |$)", re.MULTILINE)


def image(cache: Path, suite: str) -> Path:
    """Return the folder with a system, which is made if the cache does not have it as this file describes it.

    Args:
        cache: the folder that systems are kept in.
        suite: the release's code name.
    """
    folder = cache / f"{suite}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    for older in cache.glob(f"{suite}-*"):
        shutil.rmtree(older)
    unfinished = cache / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    options = ("--variant=minbase", f"--include={','.join(_PACKAGES)}")
    # What it mounts is gone with its namespace, however it ends.
    _checked("unshare", "--mount", "debootstrap", *options, suite, str(unfinished), _mirror())
    # What this machine's apt is told of proxies. The broker that Debian starts is not the cloud's.
    settings = _checked("apt-config", "dump", "Acquire::http", "Acquire::https")
    (unfinished / "etc/apt/apt.conf.d/90this-machine").write_text(settings)
    (unfinished / "etc/systemd/system/mosquitto.service").symlink_to("/dev/null")
    return unfinished.rename(folder)


def copy(system: Path, folder: Path) -> None:
    """Copy a system to a folder, which must not exist; the copy is another machine."""
    _checked("cp", "--archive", "--reflink=auto", str(system), str(folder))
    (folder / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (folder / "etc/hostname").write_text(f"{_HOST}\n")
    (folder / "etc/hosts").write_text(f"127.0.0.1 localhost {_HOST}\n::1 localhost\n")


def fetch_dependencies(system: Path, packages: Sequence[str]) -> None:
    """Have apt download what packages depend on and recommend, so that it can install them without a network.

    Args:
        system: the folder of a system that is not running.
        packages: names of packages, or files in that system.
    """
    run(system, "apt-get", "update", "--quiet=2")
    run(system, "apt-get", "install", "--quiet=2", "--yes", "--download-only", *packages)


def run(system: Path, *command: str) -> str:
    """Run a command as root in a system that is not running, with this machine's network; return what it prints."""
    inside = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe", "-D", str(system))
    return _checked(*inside, "--setenv=DEBIAN_FRONTEND=noninteractive", *command)


def _mirror() -> str:
    """Return the mirror that this machine's own apt uses."""
    for file in sorted([*_SOURCES.glob("sources.list"), *_SOURCES.glob("sources.list.d/*")]):
        if found := _MIRROR_LINE.search(file.read_text(encoding="utf-8")):
            return found[1]
    raise RuntimeError(f"{_SOURCES} names no mirror of Debian, which debootstrap needs")


def _checked(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
