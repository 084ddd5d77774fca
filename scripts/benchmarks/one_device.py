"""A device with its key in SoftHSM, and the broker that knows it: mosquitto on loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from hsm_enroll.key import KeyType
from hsm_enroll.token.tokens import Tokens
from tests.support import broker as mosquitto
from tests.support.authority import Authority
from tests.support.identities import identity
from tests.support.softhsm import MODULE, SoftHsm

THING = "gateway-17"
TOPIC = f"device/{THING}/x"


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Run the broker, and return the device's environment.

    It also has ``CERTIFICATE`` and ``KEY``: files of another certificate for the same Thing, for a program that has its
    key in a file.
    """
    authority, softhsm = Authority(folder / "ca"), SoftHsm(folder / "softhsm")
    os.environ.update(softhsm.environment)
    softhsm.add_token("gateway")
    key = softhsm.create_key("gateway", "key", KeyType.EC_P256, b"\1")
    with Tokens() as tokens:
        (token,) = (report.name for report in tokens.listed(MODULE) if report.initialized)
    pair = authority.issue_pair(THING)
    unlimited = ("max_inflight_messages 0", "max_queued_messages 0")
    with mosquitto.running(folder / "mosquitto", authority, lines=unlimited) as broker:
        home = folder / "home"
        home.mkdir(mode=0o700)
        identity(
            thing_name=THING,
            certificate_pem=authority.issue_client(key, THING).public_bytes(Encoding.PEM).decode(),
            token=token,
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
            "HSM_ENROLL_MQTT_PORT": str(broker.port),
            "CERTIFICATE": str(pair.certificate),
            "KEY": str(pair.key),
        }
