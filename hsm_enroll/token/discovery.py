"""Find the PKCS#11 modules installed on this machine."""

from __future__ import annotations

from pathlib import Path

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


def discover(root: Path = Path("/")) -> list[Path]:
    """Return the modules with known names below ``root``, each file once, in a stable order.

    Does *not* load them.
    """
    found: dict[Path, Path] = {}
    for pattern in _KNOWN:
        for path in sorted(root.glob(pattern)):
            found.setdefault(path.resolve(), path)
    return list(found.values())
