"""Find the PKCS#11 modules installed on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hsm_enroll.errors import ModuleUnusableError

# Where vendors and distributions install their modules; the star is the multiarch triplet.
_KNOWN = (
    "usr/lib/softhsm/libsofthsm2.so",
    "usr/lib/*/softhsm/libsofthsm2.so",
    "usr/local/lib/softhsm/libsofthsm2.so",
    "usr/lib/*/pkcs11/libtpm2_pkcs11.so",
    "usr/lib/*/libtpm2_pkcs11.so.1",
    "usr/lib/*/pkcs11/yubihsm_pkcs11.so",
    "usr/lib/*/libykcs11.so",
    "usr/lib/*/opensc-pkcs11.so",
    "opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
)

PROXY = "/usr/lib/TRIPLET/p11-kit-proxy.so"
"""Where Debian installs p11-kit's proxy, which puts a Cryptoki 2.40 of its own before other modules."""

_PROXIES = ("usr/lib/*/p11-kit-proxy.so", "usr/lib64/p11-kit-proxy.so", "usr/lib/p11-kit-proxy.so")

# The module that p11-kit's server is reached by; Debian has it in p11-kit-modules.
_CLIENTS = ("usr/lib/*/pkcs11/p11-kit-client.so", "usr/lib64/pkcs11/p11-kit-client.so")


def discover(root: Path = Path("/")) -> list[Path]:
    """Return the modules with known names below ``root``, each file once, in a stable order.

    Does *not* load them.

    Raises:
        ModuleUnusableError: a folder cannot be read, so that a module may be missing from the list.
    """
    found: dict[Path, Path] = {}
    try:
        for path in _installed(root, _KNOWN):
            found.setdefault(path.resolve(), path)
    except OSError as error:
        raise ModuleUnusableError(
            f"cannot look for PKCS#11 modules in {error.filename}: {error.strerror}",
            hint="Check the disk, or name the module with --module.",
        ) from error
    return list(found.values())


def proxy(root: Path = Path("/")) -> Path | None:
    """Return p11-kit's proxy, or None if it is not installed; :func:`discover` leaves it out, since it shows others."""
    return next(_installed(root, _PROXIES), None)


def client(root: Path = Path("/")) -> Path | None:
    """Return p11-kit's client, which makes the tokens of p11-kit's server its own; or None if it is not installed."""
    return next(_installed(root, _CLIENTS), None)


def _installed(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files that exist; ``Path.glob`` would leave out a folder that it cannot read, from Python 3.13 on."""
    for pattern in patterns:
        above, star, below = pattern.partition("*/")
        folders = _folders(root / above) if star else [root]
        yield from (path for folder in folders if os.access(path := folder / (below or pattern), os.F_OK))


def _folders(above: Path) -> list[Path]:
    try:
        return sorted(above.iterdir())
    except FileNotFoundError:
        return []
