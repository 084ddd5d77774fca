"""Keeps one connection: opens its link, and when that is lost, the next one; tells the program about it."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from queue import SimpleQueue

from hsm_enroll.errors import (
    HsmEnrollError,
    ModuleUnusableError,
    MqttError,
    MqttTakenOverError,
    TokenNotFoundError,
    TokenRefusedError,
)
from hsm_enroll.iot.exchange import Exchange
from hsm_enroll.iot.fallbacks import Fallbacks
from hsm_enroll.iot.link import Link
from hsm_enroll.iot.opening import Credentials, Opener
from hsm_enroll.iot.target import Target

_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 60.0
# A connection that has lasted this long shows that the broker accepts it: the next delays begin small again.
_STABLE_SECONDS = 30.0
_CLOSE_SECONDS = 3.0


class ConnectionState(StrEnum):
    """What has become of a connection.

    Attributes:
        CONNECTED: the first connection is there.
        LOST: it is lost, and another one is tried.
        FAILED: an attempt failed, and another one follows.
        RESUMED: there is a connection again, and all subscriptions are in place.
        ENDED: it is over, and nothing more is tried.
    """

    CONNECTED = "connected"
    LOST = "lost"
    FAILED = "failed"
    RESUMED = "resumed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """A change of a connection's state.

    Attributes:
        state: the new state.
        error: why it was lost, failed or ended; None in the other states.
    """

    state: ConnectionState
    error: HsmEnrollError | None = None


OnConnection = Callable[[ConnectionEvent], object]
"""Called with each change, one at a time, on a thread of its own; it may use the connection, and close it."""


class Keeper:
    """Holds a connection, until it is closed or cannot be held any more.

    Args:
        target: what to connect to.
        credentials: see ``opening.Opener``.
        reconnects: whether to connect again after a loss.
        on_connection: is told of each change but :meth:`close`.

    Attributes:
        exchange: the connection's requests and subscriptions.
    """

    def __init__(
        self, target: Target, credentials: Credentials, *, reconnects: bool, on_connection: OnConnection | None
    ) -> None:
        self.exchange = Exchange(target, reconnects=reconnects)
        self._target = target
        self._reconnects = reconnects
        self._on_connection = on_connection
        self._opener = Opener(target, credentials, self.exchange.deliver)
        self._link: Link | None = None
        self._failures = 0
        self._attempt_began: float | None = None
        self._closing = threading.Event()
        self._events: SimpleQueue[ConnectionEvent | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    @property
    def fallbacks(self) -> Fallbacks:
        """What the connection asked for, was refused, and goes without."""
        return self._opener.fallbacks

    @property
    def waiting_seconds(self) -> float:
        """How long an attempt to connect, or to close an earlier link, has been going on; 0 if none is.

        Connecting has its timeouts, and closing takes no time. But the token's module, which logs in and signs for
        both, may never return.
        """
        began = self._attempt_began
        return max(0.0 if began is None else time.monotonic() - began, self._opener.closing_seconds)

    def open(self) -> None:
        """Connect for the first time; see ``Opener.open``.

        Raises:
            HsmEnrollError: there is no connection, and no other one is tried.
        """
        try:
            self._use_another_link()
        except BaseException:
            self.close()
            raise
        self.start()

    def start(self) -> None:
        """Connect without waiting for it, and until it succeeds, as after a loss."""
        self._threads.append(threading.Thread(target=self._run, name="hsm-enroll connection", daemon=True))
        if self._on_connection is not None:
            telling = partial(self._tell_all, self._on_connection)
            self._threads.append(threading.Thread(target=telling, name="hsm-enroll events", daemon=True))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Close the connection, and with it the token's session. Calling it again has no effect."""
        self._closing.set()
        self.exchange.end(None)
        self._opener.close()
        self._events.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_CLOSE_SECONDS)
        self._opener.wait_for_end(_CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            self._keep()
        except BaseException as error:  # of the program's own function for the PIN, for example
            ending = MqttError(f"the connection could not be made again ({type(error).__name__})")
            ending.__cause__ = error
            self._give_up(ending)
            raise

    def _keep(self) -> None:
        if self._link is None and not self._reconnected():
            return
        self._tell(ConnectionState.CONNECTED)
        while (error := self._loss()) is not None:
            if not self._may_reconnect(error):
                self._give_up(error)
                return
            self.exchange.lose(error)
            self._tell(ConnectionState.LOST, error)
            if not self._reconnected():
                return
            self._tell(ConnectionState.RESUMED)

    def _loss(self) -> HsmEnrollError | None:
        """Wait for the end of the link, and return why it ended; None if this side closed the connection."""
        if self._link is None:
            return None
        began = time.monotonic()
        wait([self._link.ended])
        if time.monotonic() - began >= _STABLE_SECONDS:
            self._failures = 0
        return None if self._closing.is_set() else self._link.loss()

    def _reconnected(self) -> bool:
        """Try one link after another until one can be used; False if the connection was closed or given up."""
        while not self._closing.wait(full_jitter(self._failures)):
            self._failures += 1
            try:
                self._use_another_link()
            except HsmEnrollError as error:
                self._opener.drop()
                if self._closing.is_set():
                    return False
                if not self._may_reconnect(error):
                    self._give_up(error)
                    return False
                self.exchange.lose(error)
                self._tell(ConnectionState.FAILED, error)
            else:
                return True
        return False

    def _use_another_link(self) -> None:
        self._attempt_began = time.monotonic()
        try:
            self._link = self._opener.open(self._target.connect_timeout)
            self.exchange.use(self._link, self._target.operation_timeout)
        finally:
            self._attempt_began = None

    def _may_reconnect(self, error: HsmEnrollError) -> bool:
        """Whether to try again: not where that would try a wrong PIN again, or fight with another program."""
        passing = (MqttError, ModuleUnusableError, TokenNotFoundError, TokenRefusedError)
        may_pass = error.retryable or isinstance(error, passing)
        return self._reconnects and may_pass and not isinstance(error, MqttTakenOverError)

    def _give_up(self, error: HsmEnrollError) -> None:
        self.exchange.end(error)
        self._tell(ConnectionState.ENDED, error)
        self._events.put(None)

    def _tell(self, state: ConnectionState, error: HsmEnrollError | None = None) -> None:
        self._events.put(ConnectionEvent(state, error))

    def _tell_all(self, on_connection: OnConnection) -> None:
        """Call the program's function, on a thread of its own: it may wait for the connection to come back."""
        while (event := self._events.get()) is not None:
            try:
                on_connection(event)
            except BaseException:  # noqa: BLE001 - neither a mistake in it nor sys.exit() ends the connection
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def full_jitter(failures: int) -> float:
    """Return how many seconds to wait before the next attempt: anything from none to a limit that doubles each time.

    So the devices that one outage has disconnected do not all come back at once.
    """
    limit = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(failures, 10))
    return random.uniform(0.0, limit)  # noqa: S311 - no secret
