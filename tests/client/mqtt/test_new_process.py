"""The process of its own: what a module may do there, and what it must not show."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

from hsm_enroll.errors import MqttError
from hsm_enroll.identity import Identity
from hsm_enroll.mqtt import new_process, publish_in_new_process
from hsm_enroll.secret import Secret
from tests.client.mqtt.authority import Authority
from tests.client.mqtt.broker import Broker
from tests.client.mqtt.conftest import ROOT
from tests.client.mqtt.softhsm import PIN

_TIME_LIMIT = 30.0


@pytest.fixture
def reachable(identity: Identity, broker: Broker) -> Identity:
    """A device whose broker is there."""
    return dataclasses.replace(identity, mqtt_port=broker.port)


class Module:
    """Has the module of the next process run Python of ours, in C_Initialize, before its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(ROOT))))

    def does(self, statement: str) -> None:
        """Say what, with ``ctypes`` and ``os`` at hand."""
        # Imported by every interpreter at its start (the site module's documentation).
        (self._folder / "sitecustomize.py").write_text(
            "import ctypes, os\n"
            "from tests.client.mqtt import cryptoki\n"
            "def initialize(original, arguments):\n"
            f"    {statement}\n"
            "    return original(*arguments)\n"
            "cryptoki.replace('C_Initialize', initialize)\n"
        )


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """A module that misbehaves as the test says."""
    return Module(tmp_path, monkeypatch)


def _publish(identity: Identity, authority: Authority, timeout: float = 20.0) -> None:
    topic = f"device/{identity.thing_name}/x"
    publish_in_new_process(identity, Secret(PIN), topic, b"x", ca_file=authority.certificate, timeout=timeout)


def test_a_module_that_prints_does_not_disturb(
    reachable: Identity, broker: Broker, authority: Authority, module: Module, capfd: pytest.CaptureFixture[str]
) -> None:
    """D5: what a module writes to stdout goes to stderr and is not taken for the outcome."""
    module.does("ctypes.CDLL(None).puts(b'{\"error\": 1}'); ctypes.CDLL(None).fflush(None)")
    _publish(reachable, authority)
    broker.log.wait_for(f"Received PUBLISH from {reachable.thing_name}")
    output, errors = capfd.readouterr()
    assert (output, errors) == ("", '{"error": 1}\n')


def test_a_module_that_crashes_is_an_error(reachable: Identity, authority: Authority, module: Module) -> None:
    """D5: a module that takes its process with it leaves an error that says so, and this process alive."""
    module.does("ctypes.memset(0, 0, 1)")
    with pytest.raises(MqttError, match="the MQTT process crashed: Segmentation fault"):
        _publish(reachable, authority)


def test_a_module_that_exits_is_an_error(reachable: Identity, authority: Authority, module: Module) -> None:
    """D5: a module that ends its process leaves no outcome, which is not taken for a good one."""
    module.does("os._exit(0)")
    with pytest.raises(MqttError, match="without an outcome, with exit status 0"):
        _publish(reachable, authority)


def test_a_module_that_hangs_is_killed(
    reachable: Identity, authority: Authority, module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5: a module that never returns is given up and its process killed; no error of it holds the PIN."""
    monkeypatch.setattr(new_process, "_MODULE_SECONDS", 4.0)
    pid_file = tmp_path / "pid"
    module.does(f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); __import__('threading').Event().wait()")
    with pytest.raises(MqttError, match="was killed after 6 s") as caught:
        _publish(reachable, authority, timeout=1.0)
    assert not Path(f"/proc/{pid_file.read_text()}").exists()
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    assert PIN not in "".join(shown)


def test_the_pin_is_not_in_sight(
    reachable: Identity, authority: Authority, module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: the PIN is in neither the arguments nor the environment of the process that gets it."""
    monkeypatch.setenv("HSM_ENROLL_PIN", PIN)
    ready, go = tmp_path / "ready", tmp_path / "go"
    os.mkfifo(ready)
    os.mkfifo(go)
    module.does(f"open({str(ready)!r}, 'w').write(str(os.getpid())); open({str(go)!r}).read()")
    publishing = threading.Thread(target=_publish, args=(reachable, authority))
    publishing.start()
    process = Path("/proc") / ready.read_text()
    seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    go.write_text("")
    publishing.join(_TIME_LIMIT)
    assert b"hsm_enroll.mqtt.new_process" in seen
    assert b"SOFTHSM2_CONF=" in seen
    assert PIN.encode() not in seen
    assert not publishing.is_alive()


def test_an_interpreter_that_does_not_start_is_an_error(
    reachable: Identity, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that cannot start a process gives an error of ours."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(MqttError, match="could not be started: No such file"):
        _publish(reachable, authority)


def test_importing_the_room_loads_no_library() -> None:
    """Neither the package nor the function that starts the other process costs this one awscrt or python-pkcs11."""
    program = (
        "import sys; from hsm_enroll.mqtt import publish_in_new_process\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert loaded.isdisjoint({'awscrt', 'awsiot', '_awscrt', 'pkcs11', 'asn1crypto'}), loaded\n"
        "from hsm_enroll.mqtt import connect\n"
        "assert 'awscrt' in sys.modules and connect.__module__ == 'hsm_enroll.mqtt.connection'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=_TIME_LIMIT)
