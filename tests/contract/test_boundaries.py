"""The rules of the house about imports, read from the import graph itself."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.support.identities import identity
from tests.support.pages import code, page


def _rows(title: str) -> list[tuple[list[str], tuple[str, ...]]]:
    """Return the names in the first and in the last column of the table whose first column is called so."""
    return [(code(first), tuple(code(last))) for first, *_, last in page("docs/architecture.md").table(title)]


_EVERYTHING = "cli"
_ROOMS = {room: uses for (room,), uses in _rows("room")}
_BACKEND_MODULES = {module: uses for (module,), uses in _rows("module")}
_OWNERS = {library: owners for libraries, owners in _rows("library") for library in libraries}


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "hsm_enroll",
        "enrollment_backend",
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )


@cache
def _typed_graph() -> grimp.ImportGraph:
    return grimp.build_graph("hsm_enroll", "enrollment_backend", cache_dir=None)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("library", _OWNERS)
def test_a_library_is_imported_by_its_owner_alone(library: str) -> None:
    """Rule 2: somebody imports a library of the table, and nobody but its owners."""
    importers = _graph().find_modules_that_directly_import(library)
    assert importers
    assert {module for module in importers if not module.startswith(_OWNERS[library])} == set()


_LOADING = {"pkcs11", "awscrt", "_awscrt"}
_IN_THE_WORKER = {
    "hsm_enroll.token.capabilities",
    "hsm_enroll.token.inventory",
    "hsm_enroll.token.keypair",
    "hsm_enroll.token.modules",
    "hsm_enroll.token.provision",
    "hsm_enroll.token.pruning",
    "hsm_enroll.token.public_key",
    "hsm_enroll.token.session",
    "hsm_enroll.token.translation",
}


def test_the_worker_alone_imports_what_loads_modules() -> None:
    """Beside what a worker runs nothing imports ``pkcs11``, directly or not, and only a fork of it begins to."""
    graph = grimp.build_graph(
        "hsm_enroll", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    assert graph.find_modules_that_directly_import("pkcs11") == _IN_THE_WORKER
    # The fork goes on as the worker.
    assert graph.find_modules_that_directly_import("hsm_enroll.token.serving") == {"hsm_enroll.token.worker"}
    graph.remove_import(importer="hsm_enroll.token.worker", imported="hsm_enroll.token.serving")
    loading = graph.find_downstream_modules("pkcs11")
    others = {
        f"hsm_enroll.token.{module}" for module in ("function_list", "leftovers", "naming", "second_look", "serving")
    }
    assert loading <= _IN_THE_WORKER | others


@pytest.mark.parametrize(
    ("modules", "libraries"),
    [
        ("token.tokens token.worker token.selection token.login token.discovery token.reports", _LOADING),
        ("token.tpm2 token.tpm2.lockout token.tpm2.provision device.enrollment device.wiring library", _LOADING),
        ("cli.csr cli.status cli.tokens cli.enroll cli.doctor cli.mqtt iot", _LOADING),
        ("iot.connection", {"pkcs11"}),
    ],
)
def test_who_has_a_worker_imports_nothing_that_loads_a_module(modules: str, libraries: set[str]) -> None:
    """What the process of a command imports leaves python-pkcs11 to the worker, and awscrt to who connects."""
    program = (
        "import sys\nfrom importlib import import_module\n"
        f"for name in {modules.split()!r}: import_module('hsm_enroll.' + name)\n"
        "print(*sys.modules)\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(child.stdout.split())
    assert "hsm_enroll" in loaded
    assert loaded & libraries == set()


def test_every_room_has_its_row() -> None:
    """Rule 1: a new room has to say what it may use."""
    rooms = {_room(module) for module in _graph().modules if module.startswith("hsm_enroll.")}
    assert rooms - {"__main__"} == set(_ROOMS)
    modules = {_room(module) for module in _graph().modules if module.startswith("enrollment_backend.")}
    assert modules == set(_BACKEND_MODULES)


@pytest.mark.parametrize("room", sorted(_ROOMS.keys() - {_EVERYTHING}))
def test_a_room_uses_what_its_row_says(room: str) -> None:
    """Rule 1: dependencies of the client point one way, as the table says."""
    assert _used("hsm_enroll", room) == set(_ROOMS[room])


@pytest.mark.parametrize("module", sorted(_BACKEND_MODULES))
def test_a_backend_module_uses_what_its_row_says(module: str) -> None:
    """Rule 1: dependencies of the backend point one way, as the table says."""
    assert _used("enrollment_backend", module) == set(_BACKEND_MODULES[module])


def test_proof_of_hardware_is_verified_with_cryptography_alone() -> None:
    """What reads and verifies the statements of TPMs uses no library but that one, directly or not."""
    used = {name.split(".")[0] for name in _graph().find_upstream_modules("enrollment_backend.attestation", True)}
    assert used - {"enrollment_backend", *sys.stdlib_module_names} == {"cryptography"}


@pytest.mark.parametrize("rooms", [_ROOMS, _BACKEND_MODULES], ids=["client", "backend"])
def test_the_tables_have_no_circle(rooms: dict[str, tuple[str, ...]]) -> None:
    """Rule 1: no room stands on one that stands on it."""
    TopologicalSorter(rooms).prepare()


def test_no_module_needs_one_that_needs_it() -> None:
    """So each can be the first that a process loads: a command has loaded less than the fork in which tests run it."""
    graph = _graph()
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()


def _used(side: str, room: str) -> set[str]:
    """The rooms of its side that a room imports, for its types' sake too."""
    graph = _typed_graph()
    return {
        _room(imported)
        for module in graph.modules
        if module.startswith(f"{side}.") and _room(module) == room
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.startswith(f"{side}.") and _room(imported) != room
    }


def test_the_two_sides_share_no_code() -> None:
    """Rule 3: the client never imports the backend, nor the backend the client."""
    graph = _graph()
    crossings = {
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if {importer.split(".")[0], imported.split(".")[0]} == {"hsm_enroll", "enrollment_backend"}
    }
    assert crossings == set()


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["status"], {"boto3", "awscrt", "awsiot", "rich", "requests", "moto", "cryptography"}),
        (["csr", "--module", "missing.so"], {"boto3", "awscrt", "rich", "requests", "cryptography.x509", "ctypes"}),
        (["--help"], {"boto3", "awscrt", "rich", "requests", "pkcs11", "asn1crypto", "moto"}),
        (["renew", "--if-due"], {"boto3", "awscrt", "rich", "requests", "pkcs11", "cryptography", "moto"}),
        (["renew", "--check"], {"boto3", "awscrt", "rich", "requests", "pkcs11", "cryptography", "moto"}),
        (["publish", "--help"], {"boto3", "rich", "requests", "moto"}),
        (["publish", "--queue", "a/b", "x"], {"boto3", "awscrt", "rich", "requests", "pkcs11", "cryptography", "moto"}),
    ],
)
def test_a_command_imports_only_what_it_uses(
    arguments: list[str], heavy: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 4: a command does not pay for a library that it does not use; this device is enrolled."""
    identity().save(tmp_path)
    monkeypatch.setenv("HSM_ENROLL_HOME", str(tmp_path))
    monkeypatch.setenv("HSM_ENROLL_RENEW_AFTER_DAYS", "0")
    monkeypatch.setenv("HSM_ENROLL_RENEW_AT_LIFETIME_SHARE", "1")
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['hsm-enroll', *{arguments!r}]\n"
        "from hsm_enroll.cli import main\n"
        "main()\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    loaded = set(child.stderr.split())
    assert "hsm_enroll.cli" in loaded
    assert loaded & heavy == set()
