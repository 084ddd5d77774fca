"""Programs of the device that write into its outbox, several at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_TIME_LIMIT = 120
_PROGRAM = """
import sys, time
from hsm_enroll import Identity, Publisher
topic, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with Publisher(Identity.load()) as publisher:
    for number in range(count):
        publisher.publish(topic, str(number).encode())
        time.sleep(pause)
"""


def payloads(count: int) -> list[bytes]:
    """Return what one writer writes, in order."""
    return [str(number).encode() for number in range(count)]


@contextmanager
def writing(environment: Mapping[str, str], topics: list[str], count: int, pause: float) -> Iterator[None]:
    """Have a process for each topic write messages; at the end of the block all of them have.

    Args:
        environment: of the processes.
        topics: a topic for each.
        count: how many messages each writes.
        pause: seconds between two messages.
    """
    command = [sys.executable, "-c", _PROGRAM]
    writers = [
        subprocess.Popen([*command, topic, str(count), str(pause)], env=dict(environment), stderr=subprocess.PIPE)
        for topic in topics
    ]
    try:
        yield
        for writer in writers:
            _, problem = writer.communicate(timeout=_TIME_LIMIT)
            assert writer.returncode == 0, problem.decode()
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
