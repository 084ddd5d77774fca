"""The pytest plugin, as a program's own tests see it: in another folder and process, found by pytest itself."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Run = Callable[..., str]

_PROGRAM = """
import os
import subprocess
import sys

import boto3
import pytest

from hsm_enroll import Identity, Secret, connect
from hsm_enroll.testing import EnrolledDevice, Endpoints, SoftHsmToken

BEFORE = dict(os.environ)
NAMES = []


@pytest.mark.parametrize("number", range(2))
def test_a_device_in_this_process(enrolled_device: EnrolledDevice, number: int) -> None:
    topic = f"device/{enrolled_device.thing_name}/echo"
    with connect(enrolled_device.identity) as connection:
        messages = connection.subscribe(topic)
        connection.publish(topic, b"21.5")
        assert next(messages).payload == b"21.5"
    NAMES.append(enrolled_device.thing_name)


def test_a_device_for_other_programs(enrolled_device: EnrolledDevice, local_cloud: Endpoints) -> None:
    command = [sys.executable, "-m", "hsm_enroll", "status"]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert enrolled_device.thing_name in status
    assert enrolled_device.cloud == local_cloud
    things = [thing["thingName"] for thing in boto3.client("iot").list_things()["things"]]
    assert sorted(things) == sorted([*NAMES, enrolled_device.thing_name])


def test_a_token_alone(softhsm_token: SoftHsmToken) -> None:
    command = [sys.executable, "-m", "hsm_enroll", "tokens"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert listed.count("pkcs11:") == 1
    assert f"token={softhsm_token.label}" in softhsm_token.uri
    assert softhsm_token.module.exists()
    assert isinstance(softhsm_token.pin, Secret)
    assert (softhsm_token.home / "pin").read_text().strip() == softhsm_token.pin.reveal()
    assert "HSM_ENROLL_API_URL" not in os.environ


def test_the_environment_is_as_before() -> None:
    assert {**os.environ, "PYTEST_CURRENT_TEST": ""} == {**BEFORE, "PYTEST_CURRENT_TEST": ""}
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest on a user's files, by name, with arguments, and returns what it prints.

    The plugin is installed as the project's wheel does it: with an entry point and nothing else.
    """
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = tmp_path / "installed" / "installed-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1\n")
    lines = [f"{name} = {module}\n" for name, module in points.items()]
    (installed / "entry_points.txt").write_text("[pytest11]\n" + "".join(lines))

    def run_pytest(files: dict[str, str], *arguments: str) -> str:
        folder = tmp_path / "user"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        environment |= {"PYTHONPATH": f"{ROOT}:{installed.parent}", "HSM_ENROLL_TOKEN": "pkcs11:token=mine"}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments]
        outcome = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        return outcome.stdout + outcome.stderr

    return run_pytest


def test_a_users_tests_have_cloud_token_and_device(run: Run) -> None:
    """D27: each device is a new one, works in this process and in others, and leaves the environment as it was."""
    output = run({"test_program.py": _PROGRAM})
    assert re.search(r"= 5 passed in ", output), output


def test_the_plugin_may_be_named_as_well(run: Run) -> None:
    """D27: who asks for it with ``-p`` has it once."""
    output = run({"test_it.py": "def test_it(softhsm_token): pass"}, "-p", "hsm_enroll.testing")
    assert re.search(r"= 1 passed in ", output), output


_KILLED = """
import os
import signal


def test_it(local_cloud):
    print("cloud", (local_cloud.home / "lock").read_text(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_is_killed_leaves_no_cloud(run: Run) -> None:
    """D27: the cloud ends with pytest, even if that is killed, as by a CI job's time limit."""
    output = run({"test_it.py": _KILLED}, "-s")
    found = re.search(r"cloud (\d+)", output)
    assert found, output
    with suppress(ProcessLookupError), os.fdopen(os.pidfd_open(int(found[1]))) as cloud:
        assert select.select([cloud], [], [], 30.0)[0]


def test_the_fixtures_are_documented(run: Run) -> None:
    """D27: ``pytest --fixtures`` says what each is."""
    output = run({"test_nothing.py": "def test_nothing(): pass"}, "--fixtures")
    for name in ("local_cloud", "softhsm_token", "enrolled_device"):
        assert re.search(rf"^{name}.* -- .*\n    A (new token|cloud|device) .*", output, re.MULTILINE), output


@pytest.mark.parametrize(
    ("fixture", "conftest", "expected"),
    [
        ("local_cloud", "testing.find_spec = lambda name: None", "pip install 'boto3"),
        ("softhsm_token", "discovery.discover = lambda: []", "Install it (Debian: softhsm2)"),
    ],
)
def test_what_is_missing_is_said_without_a_traceback(run: Run, fixture: str, conftest: str, expected: str) -> None:
    """D27: a fixture that cannot be made says what to install."""
    files = {
        "conftest.py": f"from hsm_enroll import testing\nfrom hsm_enroll.token import discovery\n{conftest}\n",
        "test_it.py": f"def test_it({fixture}): pass",
    }
    output = run(files)
    assert expected in output
    assert "Traceback" not in output
    assert "contextmanager" not in output


def test_a_run_that_does_not_use_it_pays_nearly_nothing() -> None:
    """D27: loading the plugin imports no library and nothing of ours but the addresses of a cloud."""
    program = (
        "import sys, pytest; before = set(sys.modules); import hsm_enroll.testing; print(*set(sys.modules) - before)"
    )
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in output.stdout.split() if not name.startswith(("hsm_enroll", "_"))}
    assert loaded & {"boto3", "moto", "requests", "cryptography", "awscrt", "pkcs11", "click", "asn1crypto"} == set()
    assert {name for name in output.stdout.split() if name.startswith("hsm_enroll")} == {
        "hsm_enroll", "hsm_enroll.version", "hsm_enroll.testing", "hsm_enroll.local", "hsm_enroll.local.endpoints",
    }  # fmt: skip
