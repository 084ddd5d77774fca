"""Where it was measured: the machine, and the versions of what took part."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PYTHON_PACKAGES = (
    "hsm-enroll", "asn1crypto", "awscrt", "awsiotsdk", "AWSIoTPythonSDK", "boto3", "click", "cryptography", "moto",
    "python-pkcs11", "requests", "tpm2-pytss",
)  # fmt: skip
_SYSTEM_PACKAGES = (
    "curl", "libengine-pkcs11-openssl", "libtpm2-pkcs11-1", "mosquitto", "opensc", "openssl", "softhsm2", "swtpm",
    "tpm2-abrmd",
)  # fmt: skip


def described() -> dict[str, Any]:
    """Describe this machine; ``load`` is the load average of the last minute, 0 on a machine that does nothing else."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memoryGb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the version of each package that takes part, by its name: Python's, and Debian's."""
    python = {name: metadata.version(name) for name in _PYTHON_PACKAGES}
    query = ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *_SYSTEM_PACKAGES]
    # Another release of Debian may call one of them something else; then it is left out, and the status is 1.
    listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    system = dict(line.split() for line in listed.splitlines())
    return {**python, "sqlite": sqlite3.sqlite_version, **system}


def _processor() -> str:
    """Return the processor's name, as the kernel has it; some architectures have none."""
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return names[0] if names else platform.machine()
