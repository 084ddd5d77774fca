"""Programs of the device that write into its outbox, several at a time, which may be killed and started again."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

_TIME_LIMIT = 120.0
# Writes messages with growing numbers until so many have been added, and prints each number when publish has returned.
# Where that fails it prints the error, and goes on with the next number.
_PROGRAM = """
import sys, time
from hsm_enroll import Identity, Publisher
from hsm_enroll.errors import StateError
topic = sys.argv[1]
number, count, size = map(int, sys.argv[2:5])
pause, expires_after = float(sys.argv[5]), float(sys.argv[6])
with Publisher(Identity.load()) as publisher:
    while count:
        payload = str(number).encode().ljust(size)
        try:
            publisher.publish(topic, payload, expires_after=expires_after or None)
        except StateError as error:
            print(number, error.message, flush=True)
            time.sleep(0.05)
        else:
            print(number, flush=True)
            count -= 1
        number += 1
        time.sleep(pause)
"""


def payloads(count: int) -> list[bytes]:
    """Return what one writer writes, in order, if it is neither refused nor killed."""
    return [str(number).encode() for number in range(count)]


class Writer:
    """A program that writes messages with growing numbers to one topic, and runs until the end of the block.

    Args:
        environment: of the process.
        topic: the topic.
        count: how many messages it adds.
        pause: seconds between two messages.
        size: bytes of a message; at least the digits of its number.
        expires_after: seconds after which a message expires; 0 is never.
        prefix: a command that runs another one.

    Attributes:
        topic: the topic.
        added: the numbers of the messages that were added: publish has returned.
        refused: the numbers of those that were not, each with what the error says.
        unclear: the numbers of those that the program may have been adding when it was killed.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        topic: str,
        count: int,
        *,
        pause: float,
        size: int = 0,
        expires_after: float = 0.0,
        prefix: Sequence[str] = (),
    ) -> None:
        self.topic = topic
        self.added: list[int] = []
        self.refused: dict[int, str] = {}
        self.unclear: set[int] = set()
        self._environment = dict(environment)
        self._size = size
        self._command = [*prefix, sys.executable, "-c", _PROGRAM, topic]
        self._options = [str(size), str(pause), str(expires_after)]
        self._count = count
        self._next = 0
        self._is_over = False
        self._changed = threading.Condition()

    @property
    def messages(self) -> set[tuple[str, bytes]]:
        """Topic and payload of what was added."""
        return {(self.topic, str(number).encode().ljust(self._size)) for number in self.added}

    @property
    def is_writing(self) -> bool:
        """Whether not all messages have been added yet."""
        return len(self.added) < self._count

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._end()

    def start(self) -> None:
        """Start it, also again after it was killed: then it writes what is left of its messages."""
        command = [*self._command, str(self._next), str(self._count - len(self.added)), *self._options]
        pipe = subprocess.PIPE
        self._is_over = False
        self._process = subprocess.Popen(command, env=self._environment, stdout=pipe, stderr=pipe, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._end()
        self.unclear.add(self._next)
        self._next += 1

    def wait(self) -> None:
        """Wait until all messages are added."""
        self.wait_for_added(self._count)
        assert self._process.wait(_TIME_LIMIT) == 0

    def wait_for_added(self, count: int) -> None:
        """Wait until that many messages have been added."""
        self._wait_until(lambda: len(self.added) >= count)

    def wait_for_refused(self, count: int) -> None:
        """Wait until that many messages have been refused."""
        self._wait_until(lambda: len(self.refused) >= count)

    def wait_for_tries(self, count: int) -> None:
        """Wait until it has tried to add that many more messages, or has added all."""
        tried = len(self.added) + len(self.refused)
        self._wait_until(lambda: not self.is_writing or len(self.added) + len(self.refused) >= tried + count)

    def check(self, received: Sequence[bytes]) -> None:
        """Check that what was added has been received, in order, and nothing else but what may have been added.

        Args:
            received: what was received on the topic; of equal messages only the first.
        """
        numbers = [int(payload) for payload in received]
        assert numbers == sorted(numbers), self.topic
        assert set(self.added) <= set(numbers), (self.topic, set(self.added) - set(numbers))
        assert set(numbers) - set(self.added) <= {*self.refused, *self.unclear}, self.topic

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or condition(), _TIME_LIMIT)
            refused = list(self.refused.items())[-3:]
            assert condition(), (self.topic, len(self.added), refused, self._problem())

    def _problem(self) -> str:
        """Return what the program says about its end; nothing if it still runs."""
        assert self._process.stderr is not None
        return self._process.stderr.read() if self._is_over else ""

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):  # it was killed
                break
            number, _, problem = line.strip().partition(" ")
            with self._changed:
                self._next = int(number) + 1
                if problem:
                    self.refused[int(number)] = problem
                else:
                    self.added.append(int(number))
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _end(self) -> None:
        self._process.wait(_TIME_LIMIT)
        self._reader.join(_TIME_LIMIT)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def writing(
    environment: Mapping[str, str], topics: Sequence[str], count: int, *, pause: float, **options: Any
) -> Iterator[list[Writer]]:
    """Have a program for each topic write messages; at the end of the block all of them have, see :class:`Writer`."""
    with ExitStack() as stack:
        writers = [Writer(environment, topic, count, pause=pause, **options) for topic in topics]
        for writer in writers:
            stack.enter_context(writer)
        yield writers
        for writer in writers:
            writer.wait()
