"""How often a command loads the PKCS#11 module, and how soon Ctrl-C is answered while a call into it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.measuring import run, runs
from benchmarks.softhsm import COMMAND, SoftHsm
from hsm_enroll.local.cloud import detach, down
from tests.support.fault_module import FaultModule

_RUNS = 15
_INTERRUPTED = 130
_THING = "gateway-17"
# With MQTT, awscrt loads the module too. In the order in which a device would run them.
_COMMANDS = {
    "tokens": (("tokens",), 1),
    "csr": (("csr",), 1),
    "init": (("init", "--thing", _THING), 2),
    "status": (("status",), 1),
    "publish": (("publish", f"certtest/{_THING}", "hello"), 2),
}


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        hsm_folder, cloud_folder = Path(folder, "hsm"), Path(folder, "cloud")
        hsm_folder.mkdir()
        hsm = SoftHsm(hsm_folder)
        module = FaultModule(hsm.module, Path(folder))
        cloud = detach(cloud_folder, timeout=60)
        try:
            told = {"HSM_ENROLL_API_URL": cloud.api_url, "HSM_ENROLL_CA_FILE": str(cloud.ca_file)}
            token = {"HSM_ENROLL_MODULE": str(module.file), "HSM_ENROLL_TOKEN": "pkcs11:token=gateway"}
            environment = {**hsm.environment, **told, **token, "HSM_ENROLL_PIN_FILE": hsm.environment["PIN_FILE"]}
            yield from _loads(module, environment)
        finally:
            down(cloud_folder)
        module.plan("C_GenerateKeyPair 1+ hang 0")
        milliseconds = [1000 * _answer(module, environment) for _ in range(runs(_RUNS, quick=quick))]
        yield Figure.of("interruption", "Ctrl-C while the token hangs", "", milliseconds, unit="ms", at_most=200.0)


def _loads(module: FaultModule, environment: Mapping[str, str]) -> Iterator[Figure]:
    for name, (arguments, limit) in _COMMANDS.items():
        module.forget_calls()
        run([*COMMAND, *arguments], environment)
        loads = len(module.calls("C_Initialize"))
        yield Figure.of(f"loads-{name}", f"module loads of {name}", "", [loads], unit="count", at_most=limit)


def _answer(module: FaultModule, environment: Mapping[str, str]) -> float:
    """Return how many seconds a command takes to end after Ctrl-C.

    Raises:
        RuntimeError: it was not interrupted.
    """
    module.forget_calls()
    with subprocess.Popen(
        [*COMMAND, "csr"], env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        module.await_call("C_GenerateKeyPair", "hangs")
        begin = time.perf_counter()
        process.send_signal(signal.SIGINT)
        status = process.wait()
    if status != _INTERRUPTED:
        raise RuntimeError(f"csr ended with status {status}")
    return time.perf_counter() - begin
