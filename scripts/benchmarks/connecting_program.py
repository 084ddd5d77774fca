"""Connects to a broker once, and prints how many seconds that took, after everything was imported.

Argument: ``login`` (with the key in the token, from the PIN on), ``again`` (one connection after another, as after a
loss), ``library`` (``hsm_enroll.connect``, which also examines the token and imports awscrt meanwhile), or ``sdk``
(AWSIoTPythonSDK with a key file). Each imports nothing of the others.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.iot.opening import Opener

_TIMEOUT = 20.0


def login() -> float:
    """Log in to the token and connect."""
    opener = _opener()
    begin = time.perf_counter()
    opener.open(_TIMEOUT)
    return time.perf_counter() - begin


def again() -> float:
    """Connect once more: the token is still logged in."""
    opener = _opener()
    opener.open(_TIMEOUT)
    opener.drop()
    begin = time.perf_counter()
    opener.open(_TIMEOUT)
    return time.perf_counter() - begin


def library() -> float:
    """Connect as a program does."""
    from hsm_enroll import Identity, connect

    begin = time.perf_counter()
    connect(Identity.load())
    return time.perf_counter() - begin


def sdk() -> float:
    """Connect with the article's SDK, configured as there."""
    from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient

    begin = time.perf_counter()
    client = AWSIoTMQTTClient("gateway-17")
    client.configureEndpoint("localhost", int(os.environ["HSM_ENROLL_MQTT_PORT"]))
    client.configureCredentials(os.environ["HSM_ENROLL_CA_FILE"], os.environ["KEY"], os.environ["CERTIFICATE"])
    client.configureConnectDisconnectTimeout(10)
    client.connect()
    return time.perf_counter() - begin


def _opener() -> Opener:
    from hsm_enroll.iot import Target
    from hsm_enroll.iot.opening import Opener
    from hsm_enroll.secret import Secret
    from hsm_enroll.store.identity import Identity

    identity, ca_file = Identity.load(Path(os.environ["HSM_ENROLL_HOME"])), Path(os.environ["HSM_ENROLL_CA_FILE"])
    target = Target.of(identity, ca_file=ca_file, port=int(os.environ["HSM_ENROLL_MQTT_PORT"]), tls13=True)
    return Opener(target, lambda: Secret(os.environ["HSM_ENROLL_PIN"]), lambda _: None)


if __name__ == "__main__":
    print({"login": login, "again": again, "library": library, "sdk": sdk}[sys.argv[1]](), flush=True)
    os._exit(0)  # the libraries' threads still run
