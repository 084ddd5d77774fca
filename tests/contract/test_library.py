"""What the package promises to programs: the names it exports, and what it costs to import it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import hsm_enroll
from hsm_enroll import aio, errors

_KEPT = {
    "Connection", "ConnectionEvent", "ConnectionState", "Identity", "Message", "Properties", "Publisher", "Secret",
    "Subscription", "TokenName", "Will", "__version__", "connect", "enroll", "renew",
}  # fmt: skip


def test_the_package_exports_the_library_and_every_error() -> None:
    """The names are the library's, and each class of the error tree; a new error is exported too."""
    tree = {name for name, _ in inspect.getmembers(errors, inspect.isclass) if name.endswith("Error")}
    assert len(hsm_enroll.__all__) == len(set(hsm_enroll.__all__))
    assert set(hsm_enroll.__all__) == _KEPT | tree


@pytest.mark.parametrize("name", sorted(set(hsm_enroll.__all__) - {"__version__"}))
def test_every_name_is_there_and_documented(name: str) -> None:
    """A name leads to the class or function that bears it, which has a docstring."""
    exported = getattr(hsm_enroll, name)
    assert exported.__name__ == name
    assert exported.__doc__


def test_the_front_for_asyncio_has_the_same_names() -> None:
    """``hsm_enroll.aio`` exports what differs, each documented; ``connect`` takes what the other ``connect`` takes."""
    assert aio.__all__ == ["Connection", "Subscription", "connect"]
    assert all(getattr(aio, name).__doc__ for name in aio.__all__)
    assert inspect.signature(aio.connect).parameters == inspect.signature(hsm_enroll.connect).parameters
    for kind in ("Connection", "Subscription"):
        for name, method in inspect.getmembers(getattr(aio, kind), inspect.iscoroutinefunction):
            if not name.startswith("_"):
                assert (
                    inspect.signature(method).parameters
                    == inspect.signature(getattr(getattr(hsm_enroll, kind), name)).parameters
                )


def test_another_name_is_an_attribute_error() -> None:
    """What the package does not export is not there, as in any module."""
    with pytest.raises(AttributeError, match="module 'hsm_enroll' has no attribute 'Unknown'"):
        _ = getattr(hsm_enroll, "Unknown")  # noqa: B009 - mypy would refuse the plain form


def test_importing_the_package_loads_nothing_else() -> None:
    """Beside the version, no module of ours is loaded, and none of another library."""
    program = "import sys; before = set(sys.modules); import hsm_enroll; print(*(set(sys.modules) - before))"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(child.stdout.split())
    assert {"hsm_enroll", "hsm_enroll.version"} <= loaded
    assert {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names} <= {
        "hsm_enroll", "hsm_enroll.version",
    }  # fmt: skip


def test_using_an_error_loads_no_library() -> None:
    """A program that catches errors pays for neither PKCS#11 nor MQTT."""
    program = "import sys; from hsm_enroll import PinWrongError; print(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"awscrt", "pkcs11", "asn1crypto", "requests", "cryptography"} & set(child.stdout.split()) == set()
