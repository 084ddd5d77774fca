"""Connect, and publish, from a process of its own.

python-pkcs11 and awscrt cannot share one: when a session that python-pkcs11 logged in is closed, the module logs the
whole process out and the next handshake fails. Nor may awscrt be forked. ``python -m hsm_enroll.mqtt.new_process``
is the other process: its request, with the PIN, comes on stdin and its outcome leaves on stdout, each one JSON object.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsm_enroll.errors import HsmEnrollError, MqttError
from hsm_enroll.mqtt.fallbacks import Fallbacks
from hsm_enroll.mqtt.target import Target
from hsm_enroll.secret import Secret

if TYPE_CHECKING:
    from hsm_enroll.identity import Identity

_TIMEOUT_SECONDS = 20.0
# Beside the network: an interpreter, a module that talks to its chip in C_Initialize, a slow signature.
_MODULE_SECONDS = 30.0
# For a person to type the PIN at the token itself.
_PIN_PAD_SECONDS = 120.0
_PIN_VARIABLE = "HSM_ENROLL_PIN"


def publish_in_new_process(
    identity: Identity,
    pin: Secret | None,
    topic: str,
    payload: bytes,
    *,
    purpose: str = "publish",
    ca_file: Path | None = None,
    endpoint: str | None = None,
    port: int | None = None,
    tls13: bool = False,
    timeout: float = _TIMEOUT_SECONDS,
) -> Fallbacks:
    """Connect, publish one message with QoS 1, wait for its PUBACK and disconnect, all in a process of its own.

    The PIN is in neither the arguments nor the environment of that process.

    Args:
        identity, pin, purpose, ca_file, endpoint, port, tls13: as for :func:`hsm_enroll.mqtt.connect`.
        topic, payload: as for :meth:`hsm_enroll.mqtt.Connection.publish`.
        timeout: seconds until CONNACK, and again until the PUBACK. The process as a whole gets half a minute more,
            and two minutes beside where the PIN is typed at the token itself.

    Returns:
        what the connection has done without.

    Raises:
        HsmEnrollError: what ``connect`` and ``publish`` raise, with the same class.
        MqttError: also where the process crashes or has to be killed.
    """
    target = Target.of(identity, purpose=purpose, ca_file=ca_file, endpoint=endpoint, port=port, tls13=tls13)
    message = {"topic": topic, "payload": base64.b64encode(payload).decode("ascii")}
    return _in_new_process(target, pin, message, timeout, 2 * timeout)


def connect_in_new_process(
    identity: Identity,
    pin: Secret | None,
    *,
    purpose: str,
    ca_file: Path | None = None,
    endpoint: str | None = None,
    port: int | None = None,
    tls13: bool = False,
    timeout: float = _TIMEOUT_SECONDS,
) -> Fallbacks:
    """Connect and disconnect in a process of its own, to see whether it works; see :func:`publish_in_new_process`."""
    target = Target.of(identity, purpose=purpose, ca_file=ca_file, endpoint=endpoint, port=port, tls13=tls13)
    return _in_new_process(target, pin, None, timeout, timeout)


def _in_new_process(
    target: Target, pin: Secret | None, message: dict[str, str] | None, timeout: float, on_network: float
) -> Fallbacks:
    limit = on_network + _MODULE_SECONDS + (_PIN_PAD_SECONDS if pin is None else 0.0)
    output, ending = _run(_request(target, pin, message, timeout), limit)
    outcome = _parsed(output)
    if outcome is None:
        raise MqttError(
            f"the MQTT process {ending}",
            hint="The token's PKCS#11 module runs in that process: run hsm-enroll doctor, then try again.",
        )
    return _settle(outcome)


def _run(request: bytes, limit: float) -> tuple[bytes, str]:
    """Return what the process wrote and how it ended.

    Raises nothing: the traceback of what ``subprocess`` raises has the request, and the PIN in it, among its locals.
    """
    # -P: without it a module in the current directory would stand in for one of ours, and be given the PIN.
    command = [sys.executable, "-P", "-m", __name__]
    environment = {name: value for name, value in os.environ.items() if name != _PIN_VARIABLE}
    try:
        child = subprocess.run(
            command, input=request, stdout=subprocess.PIPE, timeout=limit, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        return error.stdout or b"", f"did not end and was killed after {limit:g} s"
    except OSError as error:
        return b"", f"could not be started: {error.strerror}"
    if child.returncode < 0:
        return child.stdout, f"crashed: {signal.strsignal(-child.returncode)}"
    return child.stdout, f"ended without an outcome, with exit status {child.returncode}"


def _request(target: Target, pin: Secret | None, message: dict[str, str] | None, timeout: float) -> bytes:
    request = {
        "target": asdict(target),
        "pin": None if pin is None else pin.reveal(),
        "message": message,
        "timeout": timeout,
    }
    return json.dumps(request, default=str).encode()


def _parsed(output: bytes) -> dict[str, Any] | None:
    try:
        outcome = json.loads(output)
    except ValueError:
        return None
    return outcome if isinstance(outcome, dict) else None


def _settle(outcome: dict[str, Any]) -> Fallbacks:
    error = outcome.get("error")
    if error is None:
        return Fallbacks(**outcome["fallbacks"])
    raise HsmEnrollError.of_document(error)


def _child() -> None:
    # Ctrl-C reaches both processes; the parent is the one to say so.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    outcomes = os.fdopen(os.dup(1), "w", encoding="ascii")
    # Some modules print to stdout; from here on that is stderr.
    os.dup2(2, 1)
    try:
        fallbacks = _carried_out(json.load(sys.stdin))
    except HsmEnrollError as error:
        json.dump({"error": error.document}, outcomes)
    else:
        json.dump({"fallbacks": fallbacks._asdict()}, outcomes)
    outcomes.close()


def _carried_out(request: dict[str, Any]) -> Fallbacks:
    from hsm_enroll.mqtt.connection import connect_to

    pin = request.pop("pin")
    secret = None if pin is None else Secret(pin)
    paths = {name: request["target"][name] for name in ("module", "ca_file")}
    target = Target(**request["target"] | {name: value and Path(value) for name, value in paths.items()})
    with connect_to(target, secret, request["timeout"]) as connection:
        if message := request["message"]:
            connection.publish(message["topic"], base64.b64decode(message["payload"]), timeout=request["timeout"])
        return connection.fallbacks


if __name__ == "__main__":
    _child()
