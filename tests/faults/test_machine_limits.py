"""A machine at its limits: each has an exit code of its own, names what ran out, and leaves nothing half done."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from tests.support import documents
from tests.support.devices import Device
from tests.support.failing_calls import failing
from tests.support.fault_device import THING, FaultyDevice
from tests.support.softhsm import MODULE

_INIT = ("init", "--thing", THING, "--no-publish")
_LIMIT = (50, "machine-limit")


@pytest.fixture
def gateway(faulty: FaultyDevice) -> FaultyDevice:
    """A device with SoftHSM's own module, and an API that issues."""
    faulty.device.extra["HSM_ENROLL_MODULE"] = str(MODULE)
    return faulty


def _with(device: Device, environment: dict[str, str], *arguments: str) -> dict[str, object]:
    """Run a command that fails in this environment, and return its error."""
    device.extra.update(environment)
    error = device.error(*arguments)
    for name in environment:
        del device.extra[name]
    return error


def _limited(device: Device, options: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with limits, as prlimit(1) takes them."""
    return subprocess.run(
        ["prlimit", *options.split(), sys.executable, "-m", "hsm_enroll", *arguments],
        env=device.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def _until_it_works(device: Device, *arguments: str) -> list[tuple[int, str]]:
    """Run a command with more and more open files until it works; return each failure's exit status and code."""
    failures: list[tuple[int, str]] = []
    for limit in range(5, 40):  # with four, Python does not start
        run = _limited(device, f"--nofile={limit}", *arguments, "--json")
        assert "Traceback" not in run.stderr, run.stderr
        document = documents.read(arguments, run.stdout)
        if run.returncode == 0:
            return failures
        error = document["error"]
        assert error["exitStatus"] == run.returncode
        failures.append((run.returncode, error["code"]))
        assert f"this process may have {limit}" in error["message"]
        assert "ulimit -n" in error["hint"]
        assert error["retryable"]
    pytest.fail(f"{arguments} did not work with 40 open files: {failures}")


def test_too_few_open_files(gateway: FaultyDevice) -> None:
    """Whatever cannot be opened, each command says that files ran out; then it works, with one key and one request."""
    device = gateway.device
    assert set(_until_it_works(device, *_INIT)) == {_LIMIT}
    (enrolled,) = device.key_ids()
    assert json.loads((device.home / "identity.json").read_text())["key_id"] == enrolled
    assert not (device.home / "journal.json").exists()
    assert len(set(gateway.api.requests)) == 1
    assert set(_until_it_works(device, "status")) == {_LIMIT}
    assert set(_until_it_works(device, "tokens", "--module", str(MODULE))) == {_LIMIT}
    assert set(_until_it_works(device, "csr")) == {_LIMIT}
    assert set(_until_it_works(device, "token", "prune", "--yes")) == {_LIMIT}
    assert device.key_ids() == [enrolled]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EAGAIN, "too many processes or threads"), (errno.ENOMEM, "out of memory"), (errno.EPERM, "not permitted")],
    ids=errno.errorcode.get,
)
def test_no_process_can_be_started(gateway: FaultyDevice, number: int, said: str) -> None:
    """Where no process can be started, every command that needs one says so, and why; nothing has been done."""
    device = gateway.device
    del device.extra["HSM_ENROLL_MODULE"]  # several modules, none of which is at fault
    for command in (_INIT, ("csr",), ("tokens",), ("token", "create", "--label", "other")):
        error = _with(device, failing(fork=number), *command)
        assert (error["exitStatus"], error["code"], error["retryable"]) == (*_LIMIT, True)
        assert "cannot start a process for the PKCS#11 module" in str(error["message"])
        assert said in str(error["message"])
    assert gateway.device.key_ids() == []
    assert gateway.init().returncode == 0


def test_no_thread_can_be_started(gateway: FaultyDevice) -> None:
    """Where no thread can be started, init says so before there is a key, and works later; and so does publish."""
    error = _with(gateway.device, failing(pthread_create=errno.EAGAIN), *_INIT)
    assert gateway.device.key_ids() == []
    assert gateway.init().returncode == 0
    publish = _with(gateway.device, failing(pthread_create=errno.EAGAIN), "publish", f"certtest/{THING}", "hello")
    assert "a thread for a request to the API" in str(error["message"])
    for one in (error, publish):
        assert (one["exitStatus"], one["code"], one["retryable"]) == (*_LIMIT, True)
        assert "too many processes or threads" in str(one["message"])


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_refused(gateway: FaultyDevice, number: int) -> None:
    """Where the state folder cannot be locked, no command that would change it runs; the folder is named."""
    for command in (_INIT, ("token", "prune", "--yes"), ("token", "create", "--label", "other")):
        error = _with(gateway.device, failing(flock=number), *command)
        assert (error["exitStatus"], error["code"], error["retryable"]) == (50, "state-unusable", False)
        assert f"{gateway.device.home} cannot be locked: {os.strerror(number)}" in str(error["message"])
        assert "HSM_ENROLL_HOME" in str(error["hint"])
    assert gateway.device.key_ids() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_takes_nothing(gateway: FaultyDevice, number: int) -> None:
    """A state folder whose disk is full, over quota, read-only or broken is exit 50, and costs no key."""
    for fault in (failing(open=f"+{number}:/home/lock"), failing(fsync=number)):
        error = _with(gateway.device, fault, *_INIT)
        assert (error["exitStatus"], error["code"], error["retryable"]) == (50, "state-unusable", False)
        assert os.strerror(number) in str(error["message"])
    assert gateway.device.key_ids() == []


def test_a_module_that_cannot_be_read(gateway: FaultyDevice) -> None:
    """A module whose file reads with EIO is exit 10, and named."""
    module = gateway.device.folder / "module.so"
    module.symlink_to("/proc/self/mem")  # a regular file that reads with EIO at its beginning
    with pytest.raises(OSError, match="Input/output error"):
        module.read_bytes()
    error = gateway.device.error(*_INIT, "--module", str(module))
    assert (error["exitStatus"], error["code"]) == (10, "module-unusable")
    assert str(module) in error["message"]


@pytest.mark.parametrize(
    ("name", "status"), [("identity.json", 50), ("journal.json", 50), ("pin", 50), ("token.json", 50)]
)
def test_a_state_file_that_cannot_be_read(gateway: FaultyDevice, name: str, status: int) -> None:
    """A file of the state folder that reads with EIO is exit 50, and named; no key is generated."""
    file = gateway.device.home / name
    if not file.exists():
        file.write_text("{}")
    device = gateway.device
    if name == "token.json":
        del device.extra["HSM_ENROLL_MODULE"]
    error = _with(device, failing(open=f"{errno.EIO}:/home/{name}"), *_INIT)
    assert (error["exitStatus"], error["code"]) == (status, "state-unusable")
    assert str(file) in str(error["message"])
    assert device.key_ids() == []


@pytest.mark.parametrize("file", ["cli/__init__.py", "cli/csr.py", "token/keypair.py", "json/encoder.py"])
@pytest.mark.parametrize(
    ("number", "code"), [(errno.EIO, "state-unusable"), (errno.EMFILE, "machine-limit")], ids=["EIO", "EMFILE"]
)
def test_a_part_of_the_program_that_cannot_be_read(gateway: FaultyDevice, file: str, number: int, code: str) -> None:
    """If a file of the program itself cannot be read, even what shows errors, it is exit 50 without a traceback."""
    gateway.device.extra.update(failing(open=f"{number}:{file}"), PYTHONPYCACHEPREFIX="/dev/null")
    run = gateway.device.run("csr")
    assert (run.returncode, run.stdout) == (50, "")
    assert "Traceback" not in run.stderr
    assert run.stderr.startswith("error: ")
    assert (file if code == "state-unusable" else "too many open files") in run.stderr
    if not file.startswith("json"):  # without which there is no JSON
        assert gateway.device.refused("csr") == (50, code)


def test_a_worker_that_the_system_kills(faulty: FaultyDevice) -> None:
    """Where the process with the module is killed, as the system does if memory runs out, exit 10 names that cause."""
    faulty.module.plan("C_GenerateKeyPair 1 hang 0")
    with faulty.device.start("csr", "--json") as running:
        os.kill(faulty.module.await_call("C_GenerateKeyPair", "hangs").process, signal.SIGKILL)
        output, _ = running.communicate(timeout=60)
    error = documents.read(["csr"], output)["error"]
    assert (error["exitStatus"], error["code"]) == (10, "module-unusable")
    assert "was loaded by a process that was killed" in error["message"]
    assert "memory" in error["hint"]


_WITH_CORE_DUMPS = ["prlimit", "--core=4096:4096", sys.executable]


def test_no_process_leaves_a_core_dump(faulty: FaultyDevice) -> None:
    """Neither the command nor the process with the module, both of which know the PIN, may dump its memory."""
    faulty.module.plan("C_GenerateKeyPair 1 hang 0")
    command = [*_WITH_CORE_DUMPS, "-m", "hsm_enroll", "csr"]
    with subprocess.Popen(command, env=faulty.device.environment) as running:
        processes = running.pid, faulty.module.await_call("C_GenerateKeyPair", "hangs").process
        limits = [resource.prlimit(process, resource.RLIMIT_CORE) for process in processes]
        running.kill()
    assert limits == [(0, 4096), (0, 4096)]


def test_a_program_keeps_its_core_dumps(faulty: FaultyDevice) -> None:
    """A program that uses the library keeps its own limit; the process with the module, which has the PIN, may not."""
    faulty.module.plan("C_GenerateKeyPair 1 hang 0")
    program = [*_WITH_CORE_DUMPS, "-c", f"from hsm_enroll import enroll; enroll({THING!r})"]
    with subprocess.Popen(program, env=faulty.device.environment) as running:
        processes = running.pid, faulty.module.await_call("C_GenerateKeyPair", "hangs").process
        limits = [resource.prlimit(process, resource.RLIMIT_CORE) for process in processes]
        running.kill()
    assert limits == [(4096, 4096), (0, 4096)]


def test_out_of_memory(gateway: FaultyDevice) -> None:
    """With too little memory init says so, and never anything else; with enough it works, with one key."""
    seen = set()
    for megabytes in range(_enough_to_start() + 4, 2000, 4):
        run = _limited(gateway.device, f"--as={megabytes << 20}", *_INIT, "--json")
        if run.returncode == 0:
            break
        if run.returncode < 0 or "Fatal Python error" in run.stderr:
            continue  # libraries in C and Rust, and Python's own start, abort where they get no memory
        assert run.stdout, (run.returncode, run.stderr)
        assert "Traceback" not in run.stderr
        error = documents.read(_INIT, run.stdout)["error"]
        assert "out of memory" in error["message"]
        seen.add((run.returncode, error["code"]))
    assert seen == {_LIMIT}
    assert len(gateway.device.key_ids()) == 1
    assert len(set(gateway.api.requests)) == 1


_FULL_MEMORY = """
import resource, sys
from hsm_enroll.__main__ import main
sys.argv.append("--json")
resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
filling, size = [], 1 << 27
while size:
    try:
        filling.append(bytes(size))
    except MemoryError:
        size //= 2
main()
"""


def test_an_error_is_shown_where_all_memory_is_taken() -> None:
    """With no memory left at all, an error is still written as JSON: some memory is kept for it."""
    run = subprocess.run([sys.executable, "-c", _FULL_MEMORY], capture_output=True, text=True, timeout=60, check=False)
    error = documents.read(_INIT, run.stdout)["error"]
    assert (run.returncode, error["code"], run.stderr) == (*_LIMIT, "")


def _enough_to_start() -> int:
    """Return how many megabytes of memory the program needs to get as far as its first line."""
    command = [sys.executable, "-c", "import hsm_enroll.__main__"]
    return next(
        size
        for size in range(8, 2000, 4)
        if subprocess.run(["prlimit", f"--as={size << 20}", *command], capture_output=True, check=False).returncode == 0
    )
