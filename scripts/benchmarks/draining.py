"""How fast the forwarder drains an outbox, against bare awscrt with the same window: mosquitto on loopback, SoftHSM."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.measuring import ratios, show
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
from tests.support import broker as mosquitto
from tests.support.authority import Authority
from tests.support.identities import identity
from tests.support.softhsm import MODULE, SoftHsm

_THING = "gateway-17"
_TOPIC = f"device/{_THING}/x"
_PAYLOAD = b"21.5" * 25
_LIMITED, _UNLIMITED = 1_000, 20_000
_LIMITED_RUNS, _UNLIMITED_RUNS = 3, 9
_PROGRAM = Path(__file__).with_name("draining_program.py")


def measure() -> None:
    """Measure and print a line for each figure."""
    with tempfile.TemporaryDirectory() as name, _device(Path(name)) as environment:
        for count, rate, runs in ((_LIMITED, 100, _LIMITED_RUNS), (_UNLIMITED, 0, _UNLIMITED_RUNS)):

            def seconds(whose: str, count: int = count, rate: int = rate) -> float:
                """Send messages in a process of its own, and return how long that took."""
                with tempfile.TemporaryDirectory(dir=name) as folder:
                    if whose == "ours":
                        _fill(Path(folder), count)
                    command = [sys.executable, str(_PROGRAM), whose, folder, str(count), str(rate)]
                    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                return float(run.stdout)

            # A ratio of speeds: the peer's time comes first.
            limit = "100 a second, at least 0.95" if rate else "no limit, at least 0.8"
            show(f"draining / bare awscrt, {limit}", ratios(lambda: seconds("bare"), lambda: seconds("ours"), runs))


def _fill(folder: Path, count: int) -> None:
    with Outbox.open(folder, OutboxLimits(2**30)) as outbox:
        for _ in range(0, count, 1_000):
            outbox.add(*[NewMessage(_TOPIC, _PAYLOAD)] * 1_000)


@contextmanager
def _device(folder: Path) -> Iterator[dict[str, str]]:
    """Run a broker, and return the environment of a device that it knows."""
    authority, softhsm = Authority(folder / "ca"), SoftHsm(folder / "softhsm")
    os.environ.update(softhsm.environment)
    softhsm.add_token("gateway")
    key = softhsm.create_key("gateway", "key", KeyType.EC_P256, b"\1")
    with mosquitto.running(folder / "mosquitto", authority, lines=("max_inflight_messages 0",)) as broker:
        home = folder / "home"
        home.mkdir(mode=0o700)
        identity(
            thing_name=_THING,
            certificate_pem=authority.issue_client(key, _THING).public_bytes(Encoding.PEM).decode(),
            token=TokenName(MODULE, "gateway", "", "SoftHSM project", "SoftHSM v2"),
            key_label="key",
            key_id=b"\1",
            mqtt_endpoint="localhost",
            mqtt_port=broker.port,
        ).save(home)
        yield {
            **os.environ,
            "HSM_ENROLL_HOME": str(home),
            "HSM_ENROLL_CA_FILE": str(authority.certificate),
            "HSM_ENROLL_PIN": softhsm.pin.reveal(),
            "PYTHONPATH": os.pathsep.join(sys.path[:2]),
        }
