"""The commands and their workers: one load of the module each, their own exit status, and Ctrl-C at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import documents
from tests.support.devices import Device, Observer
from tests.support.fault_device import THING, FaultyDevice
from tests.support.fault_module import FaultModule
from tests.support.processes import program, run, wait_until
from tests.support.softhsm import MODULE
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tpm2 import Tpm2
from tests.support.tpm_device import TpmDevice
from tests.tokens.worker_programs import has_ended

# It is 0.2 s on a machine that has nothing else to do.
_AT_ONCE = 1.0

_INIT = ("init", "--thing", THING, "--no-publish")

# A gateway's program: both in one process, and the key used by both.
_LIBRARY = """
import sys
from hsm_enroll import connect, enroll

identity = enroll(sys.argv[1])
with connect(identity) as connection:
    connection.publish(f"certtest/{identity.thing_name}", b"from one process")
assert enroll(sys.argv[1]) == identity
with connect(identity) as connection:
    connection.publish(f"certtest/{identity.thing_name}", b"and once more")
"""


@pytest.fixture
def counted(device: Device, tmp_path: Path) -> FaultModule:
    """The module of the cloud's device, which notes each call."""
    module = FaultModule(MODULE, tmp_path)
    device.extra["HSM_ENROLL_MODULE"] = str(module.file)
    return module


def _folder(parent: Path) -> Path:
    folder = parent / "softhsm"
    folder.mkdir()
    return folder


def _counts(module: FaultModule) -> dict[str, int]:
    """Count loads, ends and logins since the last time, over all processes."""
    functions = Counter(call.function for call in module.calls("C_Initialize", "C_Finalize", "C_Login"))
    module.forget_calls()
    return dict(functions)


def test_a_command_loads_the_module_once(faulty: FaultyDevice) -> None:
    """What makes no MQTT connection initializes the module once, ends it once, and logs in once where it has to."""
    once, with_login = {"C_Initialize": 1, "C_Finalize": 1}, {"C_Initialize": 1, "C_Finalize": 1, "C_Login": 1}
    faulty.module.forget_calls()
    for command, counts in {
        ("tokens", "--module", str(faulty.module.file)): once,
        ("csr",): with_login,
        _INIT: with_login,
        ("status",): once,
        ("init",): once,
        ("init", "--new-key", "--no-publish"): with_login,
    }.items():
        run_ = faulty.device.run(*command)
        assert run_.returncode == 0, run_.stderr
        assert _counts(faulty.module) == counts, command


def test_a_command_with_mqtt_loads_the_module_twice(device: Device, counted: FaultModule, thing: str) -> None:
    """``init`` and ``publish`` load the module in the worker and in awscrt; whoever uses the key logs in, once each."""
    assert device.run("init", "--thing", thing).returncode == 0
    # awscrt's process ends without a C_Finalize.
    assert _counts(counted) == {"C_Initialize": 2, "C_Finalize": 1, "C_Login": 2}
    assert device.run("publish", f"certtest/{thing}", "hello").returncode == 0
    assert _counts(counted) == {"C_Initialize": 2, "C_Finalize": 1, "C_Login": 1}


@pytest.mark.parametrize("options", [("--no-publish",), ()], ids=["without MQTT", "with MQTT"])
def test_a_module_that_crashes_at_the_end_changes_no_exit_status(
    device: Device, thing: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """D5: where a module's destructors crash, every command ends with its own status, good or bad."""
    device.extra["HSM_ENROLL_MODULE"] = str(SoftHsmUnderTest(_folder(tmp_path)).faulty_module(CRASHING_AT_END=1))
    for command, status in {
        ("tokens",): 0,
        ("csr",): 0,
        ("csr", "--key", "pkcs11:object=none"): 14,
        ("init", "--thing", thing, *options): 0,
        ("status",): 0,
        ("publish", f"certtest/{thing}", "hello"): 0,
    }.items():
        done = device.run(*command)
        assert done.returncode == status, (command, done.stderr)


def test_a_module_that_exports_its_function_list_alone(device: Device, thing: str, tmp_path: Path) -> None:
    """A module that exports C_GetFunctionList and nothing else, as p11-kit's proxy does, works everywhere."""
    front = SoftHsmUnderTest(_folder(tmp_path)).other_module()
    symbols = run([program("nm", package="binutils"), "--dynamic", "--defined-only", str(front)])
    assert [line.split()[-1] for line in symbols.splitlines()] == ["C_GetFunctionList"]
    for folder in (device.softhsm.tokens, device.home):
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    device.extra["HSM_ENROLL_MODULE"] = str(front)
    assert device.json("token", "create", "--label", "proxied")["module"] == str(front)
    assert x509.load_pem_x509_csr(device.json("csr")["csr"].encode()).is_signature_valid
    assert device.run("init", "--thing", thing).returncode == 0
    assert device.json("status")["thingName"] == thing
    assert device.run("publish", f"certtest/{thing}", "hello").returncode == 0


@pytest.mark.parametrize("kind", ["softhsm", "tpm2-pkcs11"])
def test_the_library_enrolls_and_connects_in_one_process(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, thing: str, observe: Callable[[str], Observer]
) -> None:
    """``enroll()`` logs nobody out: ``connect()`` in the same process uses the key afterwards, again and again."""
    device: Device = request.getfixturevalue("device" if kind == "softhsm" else "tpm_device")
    observer = observe(f"certtest/{thing}")
    file = tmp_path / "gateway.py"
    file.write_text(_LIBRARY)
    done = subprocess.run(
        [sys.executable, str(file), thing],
        env={**device.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [observer.message()[1] for _ in range(2)] == ["from one process", "and once more"]


@pytest.fixture
def tpm_device(request: pytest.FixtureRequest, tmp_path: Path) -> TpmDevice:
    """A device of the cloud with a token in a TPM."""
    tpm: Tpm2 = request.getfixturevalue("shared_tpm")
    device = TpmDevice(tmp_path / "tpm-device", request.getfixturevalue("cloud").environment, tpm=tpm)
    device.create_token()
    return device


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "function", ["C_Initialize", "C_Login", "C_GenerateKeyPair", "C_Sign", "C_CloseSession", "C_Finalize"]
)
def test_d20_init_is_interrupted_in_any_call(faulty: FaultyDevice, function: str, number: signal.Signals) -> None:
    """D20: Ctrl-C or SIGTERM while a call hangs ends ``init`` at once and its worker too; the next one resumes."""
    when = 2 if function == "C_CloseSession" else 1  # the first one is that of the look
    faulty.module.plan(f"{function} {when}+ hang 0")
    _interrupt(faulty, _INIT, function, "hangs", number)
    faulty.module.plan()
    begun = [] if function == "C_Initialize" else _names(faulty)
    assert faulty.init().returncode == 0
    assert faulty.key_ids() == (begun or _names(faulty))


def _names(faulty: FaultyDevice) -> list[str]:
    """Return the CKA_ID of the enrollment under way, or of the one that is done."""
    if (faulty.device.home / "journal.json").exists():
        return [faulty.journalled_id()]
    return faulty.key_ids()


def test_d20_init_is_interrupted_while_an_rsa_key_is_made(faulty: FaultyDevice) -> None:
    """D20: Ctrl-C while SoftHSM looks for an RSA-4096 key's primes is answered at once; init resumes."""
    faulty.module.plan("C_GenerateKeyPair 1 tell 0")
    _interrupt(faulty, (*_INIT, "--key-type", "rsa-4096"), "C_GenerateKeyPair", "begins", signal.SIGINT)
    begun = faulty.journalled_id()
    assert faulty.init("--key-type", "rsa-4096").returncode == 0
    assert faulty.key_ids() == [begun]


def _interrupt(
    faulty: FaultyDevice, command: tuple[str, ...], function: str, outcome: str, number: signal.Signals
) -> None:
    faulty.module.forget_calls()
    process = faulty.device.start(*command)
    try:
        worker = faulty.module.await_call(function, outcome).process
        begin = time.monotonic()
        process.send_signal(number)
        status = process.wait(60)
        seconds = time.monotonic() - begin
        _, stderr = process.communicate()
    finally:
        process.kill()
    assert status == (130 if number == signal.SIGINT else 143)
    assert seconds < _AT_ONCE
    assert "Traceback" not in stderr
    assert worker != process.pid
    assert has_ended(worker)


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_a_command_with_closed_streams_answers(faulty: FaultyDevice, closed: str) -> None:
    """Where standard streams are closed, no socket to a worker is taken for one of them."""
    command = [sys.executable, "-m", "hsm_enroll", "tokens", "--json"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        env=faulty.device.environment, stdout=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    modules = documents.read(["tokens"], done.stdout.decode())["modules"]
    [module] = [module for module in modules if module["module"] == str(faulty.module.file)]
    assert module["tokens"][0]["label"] == "gateway"


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_without_stdout_does_its_work(faulty: FaultyDevice, closed: str) -> None:
    """With stdout closed ``init`` enrolls all the same, and prints into no socket."""
    command = [sys.executable, "-m", "hsm_enroll", *_INIT]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        env=faulty.device.environment, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert faulty.device.json("status")["thingName"] == THING


def test_a_command_that_needs_no_module_leaves_no_worker(faulty: FaultyDevice) -> None:
    """A worker that was begun early and is not wanted ends with its command, as one does whose command is wrong."""
    for arguments in (("init", "--help"), ("csr", "--no-such-option"), ("status",)):
        # The command's own group: whoever is in it was started by the command.
        process = faulty.device.start(*arguments, start_new_session=True)
        process.communicate(timeout=60)
        group = process.pid
        wait_until(partial(_is_empty, group), "the end of the worker", Path(os.devnull))


def _is_empty(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return False
    return True
