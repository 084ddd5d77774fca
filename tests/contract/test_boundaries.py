"""The rules of the house about imports, read from the import graph itself."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import grimp
import pytest

# Rule 2: one owner per library; "local" and "operator" reach AWS, and "cli" owns the terminal.
_OWNERS = {
    "pkcs11": ("hsm_enroll.token",),
    "awscrt": ("hsm_enroll.mqtt",),
    "awsiot": ("hsm_enroll.mqtt",),
    "requests": ("hsm_enroll.api",),
    "boto3": ("hsm_enroll.local", "hsm_enroll.operator", "enrollment_backend.aws"),
    "botocore": ("hsm_enroll.local", "hsm_enroll.operator", "enrollment_backend.aws"),
    "moto": ("hsm_enroll.local",),
    "werkzeug": ("hsm_enroll.local",),
    "click": ("hsm_enroll.cli",),
    "rich": ("hsm_enroll.cli",),
    "segno": ("hsm_enroll.cli",),
}

# awsiotsdk brings awscrt; its own builders cannot set the TLS floor.
_NOT_YET_IN_USE = {"awsiot"}

# Rule 1: dependencies point one way; a room may use what stands to its right and nothing else.
_MAY_USE = {
    "cli": None,  # the top: anything
    "local": {"backend_folder", "errors", "iot_policy"},
    "operator": {"backend_folder", "deadline", "errors", "iot_policy", "secret", "version"},
    "backend_folder": {"errors"},
    "doctor": {
        "api",
        "certificate",
        "device_token",
        "device_topics",
        "errors",
        "identity",
        "key",
        "mqtt",
        "pin",
        "settings",
        "token",
        "uri",
    },
    "enrollment": {"api", "certificate", "csr", "errors", "identity", "journal", "key", "secret", "state", "token"},
    "device_token": {"errors", "key", "pin", "secret", "settings", "token", "uri"},
    "mqtt": {"certificate", "device_topics", "errors", "identity", "key", "secret", "uri"},
    "token": {"errors", "key", "secret", "uri"},
    "assembly": {
        "api",
        "device_token",
        "enrollment",
        "errors",
        "identity",
        "invite",
        "key",
        "mqtt",
        "pin",
        "secret",
        "settings",
        "token",
    },
    "api": {"deadline", "errors", "secret", "version"},
    "identity": {"certificate", "errors", "key", "settings", "state", "uri"},
    "journal": {"errors", "key", "state"},
    "pin": {"errors", "key", "secret", "state"},
    "csr": {"errors", "key"},
    "certificate": {"errors"},
    "invite": {"errors", "secret"},
    "settings": {"errors", "key", "uri"},
    "state": {"errors"},
    "key": {"uri"},
    "uri": {"errors"},
    "device_topics": set[str](),
    "iot_policy": set[str](),
    "secret": set[str](),
    "errors": set[str](),
    "deadline": set[str](),
    "version": set[str](),
}
_BACKEND_MAY_USE = {
    "device_api": {"errors", "http", "service", "strict_json"},
    "operator_api": {"errors", "http", "operator"},
    "http": {"errors", "log", "strict_json"},
    "service": {"claims", "csr_policy", "errors", "invites", "log"},
    "operator": {"claims", "errors", "invites", "issuer", "ledger", "log", "recovery", "table"},
    "sweep": {"errors", "issuer", "ledger", "log", "table"},
    "recovery": {"claims", "issuer", "ledger"},
    "ledger": {"claims", "errors", "invites", "table"},
    "table": {"aws", "errors"},
    "issuer": {"aws", "claims", "errors", "log"},
    "aws": {"errors", "log"},
    "claims": {"errors", "invites"},
    "invites": set[str](),
    "csr_policy": {"algorithms", "csr_attributes", "csr_key", "der", "errors", "pem_block"},
    "csr_attributes": {"der", "errors"},
    "csr_key": {"algorithms", "der", "errors", "weak_keys"},
    "algorithms": {"der"},
    "pem_block": {"errors"},
    "settings": {"errors"},
    "strict_json": {"errors"},
    "weak_keys": set[str](),
    "der": set[str](),
    "log": set[str](),
    "errors": set[str](),
}


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "hsm_enroll", "enrollment_backend", include_external_packages=True, exclude_type_checking_imports=True
    )


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("library", _OWNERS)
def test_a_library_is_imported_by_its_owner_alone(library: str) -> None:
    """Rule 2: nobody but the owner of a library imports it."""
    graph = _graph()
    importers = graph.find_modules_that_directly_import(library) if library in graph.modules else set()
    assert {module for module in importers if not module.startswith(_OWNERS[library])} == set()


def test_the_owned_libraries_are_in_use() -> None:
    """The table of owners names no library that nobody imports, so that it cannot rot."""
    assert {library for library in _OWNERS if library not in _graph().modules} == _NOT_YET_IN_USE


_LOADING = {"pkcs11", "awscrt", "_awscrt"}
_IN_THE_WORKER = {
    "hsm_enroll.token.capabilities",
    "hsm_enroll.token.inventory",
    "hsm_enroll.token.keypair",
    "hsm_enroll.token.modules",
    "hsm_enroll.token.provision",
    "hsm_enroll.token.public_key",
    "hsm_enroll.token.session",
    "hsm_enroll.token.translation",
}


def test_the_worker_alone_imports_what_loads_modules() -> None:
    """Beside what a worker runs nothing imports ``pkcs11``, directly or not, and only a fork of it begins to."""
    graph = grimp.build_graph("hsm_enroll", include_external_packages=True, exclude_type_checking_imports=True)
    assert graph.find_modules_that_directly_import("pkcs11") == _IN_THE_WORKER
    # The fork goes on as the worker.
    assert graph.find_modules_that_directly_import("hsm_enroll.token.serving") == {"hsm_enroll.token.worker"}
    graph.remove_import(importer="hsm_enroll.token.worker", imported="hsm_enroll.token.serving")
    loading = graph.find_downstream_modules("pkcs11")
    assert loading <= {*_IN_THE_WORKER, "hsm_enroll.token.serving", "hsm_enroll.token.function_list"}


@pytest.mark.parametrize(
    ("modules", "libraries"),
    [
        ("token.tokens token.worker token.selection token.login token.discovery token.reports", _LOADING),
        ("token.tpm2 token.tpm2.lockout token.tpm2.provision device_token enrollment assembly", _LOADING),
        ("cli.csr cli.status cli.tokens cli.enroll cli.doctor cli.mqtt mqtt", _LOADING),
        ("mqtt.connection", {"pkcs11"}),
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
    assert rooms - {"__main__"} == set(_MAY_USE)


@pytest.mark.parametrize("room", [room for room, uses in _MAY_USE.items() if uses is not None])
def test_a_room_uses_only_what_it_may(room: str) -> None:
    """Rule 1: dependencies of the client point one way."""
    allowed = _MAY_USE[room]
    assert allowed is not None
    used = {
        _room(imported)
        for module in _graph().modules
        if module.startswith("hsm_enroll.") and _room(module) == room
        for imported in _graph().find_modules_directly_imported_by(module)
        if imported.startswith("hsm_enroll.") and _room(imported) != room
    }
    assert used <= allowed


@pytest.mark.parametrize("room", _BACKEND_MAY_USE)
def test_a_backend_module_uses_only_what_it_may(room: str) -> None:
    """Rule 1: dependencies of the backend point one way."""
    used = {
        _room(imported)
        for imported in _graph().find_modules_directly_imported_by(f"enrollment_backend.{room}")
        if imported.startswith("enrollment_backend.")
    }
    assert used <= _BACKEND_MAY_USE[room]


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
        (["publish", "--help"], {"boto3", "rich", "requests", "moto"}),
    ],
)
def test_a_command_imports_only_what_it_uses(
    arguments: list[str], heavy: set[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 4: a command does not pay for a library that it does not use."""
    monkeypatch.setenv("HSM_ENROLL_HOME", str(tmp_path))
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
