"""The processes of a command that connects: what a module may do in them, and what they must not show."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hsm_enroll.key import KeyType
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from tests.client.iot.conftest import ROOT
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.softhsm import PIN, SoftHsm

_TIME_LIMIT = 30.0
_COMMANDS = {
    "init": ("init",),
    "publish": ("publish", "device/press-ec-p256/x", "x"),
    "doctor": ("doctor", "--login"),
}


class Module:
    """Has the module run Python of ours, in one of its functions, before its own, in every process of a command."""

    def __init__(self, folder: Path, device: EnrolledDevice) -> None:
        self._folder = folder
        self.device = device.with_environment(PYTHONPATH=os.pathsep.join((str(folder), str(ROOT))))

    def does(self, function: str, statement: str) -> None:
        """Say what, with ``ctypes`` and ``os`` at hand."""
        # Imported by every interpreter at its start (the site module's documentation).
        (self._folder / "sitecustomize.py").write_text(
            "import ctypes, os\n"
            "from tests.client.iot import cryptoki\n"
            "def replaced(original, arguments):\n"
            f"    {statement}\n"
            "    return original(*arguments)\n"
            f"cryptoki.replace({function!r}, replaced)\n"
        )


@pytest.fixture
def device(
    identity: Identity, broker: Broker, authority: Authority, softhsm: SoftHsm, tmp_path: Path
) -> EnrolledDevice:
    """A device that has its certificate, and whose first message is still to be sent; its PIN is in a file."""
    device = enrolled_device(identity, broker.port, authority, softhsm, tmp_path)
    identity = device.identity
    Attempt(identity.token, KeyType.EC_P256, identity.key_label, identity.key_id, new_key=False).save(device.home)
    pin_file = tmp_path / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(PIN.reveal())
    del device.extra["HSM_ENROLL_PIN"]
    return device.with_environment(HSM_ENROLL_PIN_FILE=str(pin_file), PYTHONPATH=str(ROOT))


@pytest.fixture
def module(tmp_path: Path, device: EnrolledDevice) -> Module:
    """The device's module, which does as the test says."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Module(folder, device)


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_module_that_prints_does_not_disturb(command: str, module: Module) -> None:
    """D5: what a module writes to stdout goes to stderr, and stdout has the one document of ``--json``."""
    module.does("C_Initialize", "ctypes.CDLL(None).puts(b'{\"error\": 1}'); ctypes.CDLL(None).fflush(None)")
    run = module.device.run(*_COMMANDS[command], "--json")
    assert (run.returncode, run.stderr) == (0, '{"error": 1}\n')
    assert "error" not in json.loads(run.stdout)


@pytest.mark.parametrize("command", [*_COMMANDS, "csr"])
def test_the_pin_is_not_in_sight(command: str, module: Module, tmp_path: Path) -> None:
    """D4: while a command logs in, the PIN is in the arguments and the environment of none of its processes."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    os.mkfifo(ready)
    os.mkfifo(go)
    module.does("C_Login", f"open({str(ready)!r}, 'w').write(f'{{os.getpid()}}\\n'); open({str(go)!r}).read()")
    ours = ("--token", str(module.device.identity.token.uri))
    with ready.open("rb+", buffering=0) as told, module.device.start(*_COMMANDS.get(command, ("csr", *ours))) as run:
        assert select.select([told], [], [], _TIME_LIMIT)[0], run.communicate(timeout=_TIME_LIMIT)
        logging_in = told.readline().decode().strip()
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        seen = {
            process: (Path("/proc") / process / "cmdline").read_bytes()
            + (Path("/proc") / process / "environ").read_bytes()
            for process in {str(run.pid), *children}
        }
        go.write_text("")
        run.communicate(timeout=_TIME_LIMIT)
    assert logging_in in seen
    assert run.returncode == 0
    assert all(b"HSM_ENROLL_PIN_FILE=" in shown for shown in seen.values())
    assert not any(PIN.reveal().encode() in shown for shown in seen.values())


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_module_in_the_current_folder_is_not_run(command: str, device: EnrolledDevice, tmp_path: Path) -> None:
    """D4: the processes that get the PIN do not take their code from the folder the command is run in."""
    trap = tmp_path / "trap"
    for room in ("", "token", "mqtt"):
        (trap / "hsm_enroll" / room).mkdir(parents=True, exist_ok=True)
        (trap / "hsm_enroll" / room / "__init__.py").write_text("raise SystemExit('taken from the current folder')\n")
    run = subprocess.run(
        [sys.executable, "-P", "-m", "hsm_enroll", *_COMMANDS[command]],
        cwd=trap,
        env=device.environment,
        # Where the kernel takes a child's status, the worker is no fork but an interpreter that imports anew.
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        capture_output=True,
        text=True,
        timeout=_TIME_LIMIT,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_importing_the_room_loads_no_library() -> None:
    """The package costs nothing before one of its names is used: neither awscrt nor python-pkcs11 is loaded."""
    program = (
        "import sys; import hsm_enroll.iot\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert loaded.isdisjoint({'awscrt', 'awsiot', '_awscrt', 'pkcs11', 'asn1crypto'}), loaded\n"
        "from hsm_enroll.iot import keep\n"
        "assert 'awscrt' in sys.modules and keep.__module__ == 'hsm_enroll.iot.connection'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=_TIME_LIMIT)
