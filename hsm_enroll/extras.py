"""The optional parts of the package, and how to install one that is missing."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from importlib.util import find_spec
from pathlib import Path

import hsm_enroll
from hsm_enroll.errors import UsageError

_PACKAGE = "hsm-enroll"
# What scripts/package writes as the installer.
_PACKAGER = "nfpm"
_PACKAGED_HINT = (
    "This hsm-enroll is a distribution's package, for gateways. Install the release's wheel with its extra {!r} in a "
    "virtual environment."
)
# Where packaging/launcher finds what a package cannot contain: tpm2-pytss is compiled against the machine's tpm2-tss.
_ADDED_TO_A_PACKAGE = "/usr/local/lib/hsm-enroll"
# As metadata writes it: boto3>=1.40; extra == 'operator'
_REQUIREMENT = re.compile(r"(?P<package>[^;]+);.*\bextra == ['\"](?P<extra>[a-z]+)['\"]")


def require(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed.

    Raises:
        UsageError: one of them is missing; the hint is what `hint` returns.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"this command needs the Python packages of the extra {extra!r}; not installed: {', '.join(missing)}",
            hint=hint(extra),
        )


def hint(extra: str) -> str:
    """Return a sentence that says how to install an extra's packages where this program runs."""
    if not _is_packaged():
        return f"Run: {install_command(extra)}"
    if extra == "tpm":
        return f"Run: python3 -m pip install --target {_ADDED_TO_A_PACKAGE} --no-deps {_packages(extra)} packaging"
    return _PACKAGED_HINT.format(extra)


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra's packages where this program runs.

    It names the packages themselves: ``hsm-enroll[extra]`` would have pip look for hsm-enroll in a package index,
    while it was installed from a checkout or a wheel.
    """
    pip = shlex.join([sys.executable, "-m", "pip", "install"])
    try:
        return f"{pip} {_packages(extra)}"
    except PackageNotFoundError:
        # It runs from a checkout, not installed.
        return f"{pip} {shlex.quote(f'{Path(hsm_enroll.__file__).parents[1]}[{extra}]')}"


def _packages(extra: str) -> str:
    found = [_REQUIREMENT.fullmatch(line) for line in requires(_PACKAGE) or []]
    return shlex.join(match["package"].strip() for match in found if match and match["extra"] == extra)


def _is_packaged() -> bool:
    """Whether a distribution's package has installed this, which pip must not change."""
    try:
        return (distribution(_PACKAGE).read_text("INSTALLER") or "").strip() == _PACKAGER
    except PackageNotFoundError:
        return False
