"""Several commands of one device at the same moment, as timers and people start them."""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.devices import Device
from tests.support.fault_module import FaultModule
from tests.support.processes import wait_until
from tests.support.softhsm import MODULE

_TIME_LIMIT = 120


def test_d28_commands_at_the_same_moment_all_succeed(device: Device, thing: str) -> None:
    """D28: awscrt's logins and our own on one SoftHSM token wait for each other: no command misses token or key."""
    device.json("init", "--thing", thing)
    topic = f"certtest/{thing}"
    commands = [("publish", topic, "1"), ("publish", topic, "2"), ("csr",), ("status",), ("doctor", "--login")]
    for _ in range(3):
        with ThreadPoolExecutor(len(commands)) as pool:
            ended = list(pool.map(lambda command: device.run(*command), commands))
        assert [each for each in ended if each.returncode != 0] == []


def test_d28_awscrt_waits_for_its_turn_to_log_in(device: Device, thing: str) -> None:
    """D28: the process that connects logs in to SoftHSM only once nobody else is at work there."""
    module = FaultModule(MODULE, device.folder)
    device.extra["HSM_ENROLL_MODULE"] = str(module.file)
    device.json("init", "--thing", thing)
    module.forget_calls()
    folder = os.open(device.softhsm.tokens, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    publish = device.start("publish", f"certtest/{thing}", "1")
    descriptors = Path(f"/proc/{publish.pid}/fd")

    def waits() -> bool:
        # Not resolved: a descriptor may be closed meanwhile.
        return str(device.softhsm.tokens) in {os.path.realpath(descriptor) for descriptor in descriptors.iterdir()}

    wait_until(waits, "publish that waits", module.file)
    assert module.calls("C_Login") == []
    os.close(folder)
    publish.communicate(timeout=_TIME_LIMIT)
    assert publish.returncode == 0
    assert [call.outcome for call in module.calls("C_Login")] == ["0x0"]
