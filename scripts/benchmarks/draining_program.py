"""Sends messages with the forwarder or with bare awscrt, and prints how many seconds it took.

Arguments: ``ours`` or ``bare``, the folder of the outbox, how many messages, how many a second (0 is without a limit).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from awscrt import mqtt5

from hsm_enroll.iot import Target, client, keep
from hsm_enroll.iot.forwarder import Forwarder
from hsm_enroll.iot.line import KeptLine
from hsm_enroll.iot.window import MOST_MESSAGES
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.outbox import Outbox, OutboxLimits

_PAYLOAD = b"21.5" * 25


def _target(*, paced: bool) -> Target:
    identity = Identity.load(Path(os.environ["HSM_ENROLL_HOME"]))
    return Target.of(identity, ca_file=Path(os.environ["HSM_ENROLL_CA_FILE"]), paced=paced)


def bare(count: int, rate: float) -> float:
    """Send with awscrt alone, as many in flight as the forwarder has."""
    target, connected, done = _target(paced=rate > 0), threading.Event(), threading.Event()
    login = client.Login(target, Secret(os.environ["HSM_ENROLL_PIN"]))
    callbacks = client.Callbacks(lambda _: connected.set(), *[lambda _: None] * 4)
    native = client.build(target, login, callbacks, 20.0)
    native.start()
    connected.wait()
    room, left = threading.Semaphore(MOST_MESSAGES), [count]

    def on_answer(answer: Future[Any]) -> None:
        answer.result()
        left[0] -= 1
        room.release()
        if not left[0]:
            done.set()

    topic, begin = f"device/{target.thing_name}/x", time.perf_counter()
    for _ in range(count):
        room.acquire()
        packet = mqtt5.PublishPacket(topic=topic, payload=_PAYLOAD, qos=mqtt5.QoS.AT_LEAST_ONCE)
        native.publish(packet).add_done_callback(on_answer)
    done.wait()
    return time.perf_counter() - begin


def ours(folder: Path, count: int, rate: float) -> float:
    """Drain an outbox, until the last message is removed."""
    connected = threading.Event()
    with Outbox.open(folder, OutboxLimits(2**30)) as outbox:
        forwarder = Forwarder(outbox, rate=rate, timeout=20.0)
        line = KeptLine(lambda _: connected.set())
        pin = Secret(os.environ["HSM_ENROLL_PIN"])
        line.use(keep(_target(paced=False), lambda: pin, reconnects=True, on_connection=line.event))
        connected.wait()
        begin = time.perf_counter()
        ending = threading.Thread(target=_stop_at, args=(forwarder, count), daemon=True)
        ending.start()
        forwarder.run(line, lambda: False)
        return time.perf_counter() - begin


def _stop_at(forwarder: Forwarder, count: int) -> None:
    while forwarder.totals.sent < count:
        time.sleep(0.005)
    forwarder.stop()


if __name__ == "__main__":
    whose, folder, count, rate = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    print(bare(count, rate) if whose == "bare" else ours(folder, count, rate), flush=True)
    os._exit(0)  # awscrt's threads still run
