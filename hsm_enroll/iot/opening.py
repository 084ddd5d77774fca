"""Opens the links to one broker, one after another, with one login to the token for all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace

from hsm_enroll.errors import HsmEnrollError, MqttError, MqttNotTrustedError
from hsm_enroll.iot import client, failures
from hsm_enroll.iot.fallbacks import Fallbacks
from hsm_enroll.iot.inbox import Message
from hsm_enroll.iot.link import Link
from hsm_enroll.iot.target import Target
from hsm_enroll.secret import Secret

_END_SECONDS = 3.0  # for awscrt to end a login: it closes a session, which takes milliseconds

Credentials = Callable[[], Secret | None]
"""Returns what to log in to the token with; see ``client.Login``."""


class Opener:
    """Opens links to a target, and remembers what it had to go without.

    Args:
        target: what to connect to.
        credentials: called before each login: the first one, and one after each time that the token has lost it.
        on_message: see :class:`Link`.

    Attributes:
        fallbacks: what was refused, and is not asked for any more.
    """

    def __init__(self, target: Target, credentials: Credentials, on_message: Callable[[Message], None]) -> None:
        self.fallbacks = Fallbacks()
        self._target = target
        self._credentials = credentials
        self._on_message = on_message
        self._pin: Secret | None = None
        self._login: client.Login | None = None
        self._last_login: client.Login | None = None
        self._link: Link | None = None
        self._ended: list[Link] = []
        self._is_closed = False
        self._was_open = False
        self._was_repeated = False

    def open(self, timeout: float) -> Link:
        """Open a link.

        Only the first one may cost several attempts, with other fallbacks: what the broker has accepted once is not
        given up when the network fails.

        Args:
            timeout: seconds until the CONNACK, for all attempts together, after the login.

        Raises:
            HsmEnrollError: there is no connection. If it was the token that failed, the next call logs in anew.
        """
        self.drop()
        self._logged_in()
        # The time starts here: until now, a person may have been typing a PIN at the token.
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            self._remember()
            self._link = link = Link(self._target, self._logged_in(), left, self._on_message)
            try:
                if self._is_closed:
                    raise MqttError(f"the connection to {self._target.broker} is closed")
                link.open(left)
            except BaseException as error:
                link.close()
                if self._is_closed:  # while it was logging in
                    self._end_login()
                if not self._may_differ(error, link) or time.monotonic() >= deadline:
                    raise
            else:
                self._was_open = True
                return link

    def drop(self) -> None:
        """Close the last link; a call of :meth:`open` that another thread has made ends soon."""
        if self._link is not None:
            self._link.close()

    @property
    def closing_seconds(self) -> float:
        """How long awscrt has been closing an earlier link; 0 if all are closed."""
        return max((link.closing_seconds for link in self._ended), default=0.0)

    def close(self) -> None:
        """Close the last link and give up the login; no other link is opened."""
        self._is_closed = True
        self.drop()
        self._end_login()

    def wait_for_end(self, seconds: float) -> None:
        """Wait until awscrt has ended the last login that was given up, unless it is known to take long.

        After a failed handshake awscrt may wait half a minute before it closes the connection, and a program may have
        kept the connection's client.
        """
        links = self._ended if self._link is None else [*self._ended, self._link]
        if self._last_login is not None and all(link.is_released for link in links):
            self._last_login.wait(seconds)

    def _end_login(self) -> None:
        login, self._login = self._login, None
        if login is not None:
            login.end()
            self._last_login = login

    def _remember(self) -> None:
        """Keep the last link in view until it is closed."""
        links = self._ended if self._link is None else [*self._ended, self._link]
        self._ended = [link for link in links if link.closing_seconds]

    def _logged_in(self) -> client.Login:
        """Return a login that is not known to be lost."""
        login = self._login
        if login is None:
            self._pin = self._credentials()
            if self._target.owns_module:  # it is initialized again only after it was finalized
                gc.collect()  # an earlier client may be garbage that refers to itself
                self.wait_for_end(_END_SECONDS)
            login = self._login = client.Login(self._target, self._pin)
        return login

    def _may_differ(self, error: BaseException, link: Link) -> bool:
        """Whether another attempt may succeed after this error, and if so, prepare it."""
        if isinstance(error, HsmEnrollError) and not isinstance(error, MqttError):
            self._end_login()
        if self._was_open or not isinstance(error, MqttError) or isinstance(error, MqttNotTrustedError):
            return False
        return self._give_in(link)

    def _give_in(self, link: Link) -> bool:
        """Ask for less, if that may have been the reason for a failure.

        If TLS 1.3 and the client id may both be the reason, TLS 1.3 is given up first, since that disturbs no one else.
        The connection's own client id is given up last and, if the connection was closed without a CONNACK, only after
        that has happened twice: one dropped connection must not end another program's connection.
        """
        ending, target = link.failed, self._target
        if ending is None:
            return False
        ended = ending.error, ending.reason, target
        if target.offers_tls13 and (failure := failures.of_tls13(*ended)):
            self._target = replace(target, offers_tls13=False)
            self.fallbacks = self.fallbacks._replace(tls=failure)
            # Made while the other login keeps the token logged in, so that the PIN is not tried again. Only a module
            # that is finalized with its login has to be logged in to anew.
            login = None if target.owns_module else client.Login(self._target, self._pin)
            self._end_login()
            self._login = login
            return True
        if target.client_id == target.thing_name or not (failure := failures.of_client_id(*ended)):
            return False
        if ending.reason is None and not self._was_repeated:
            self._was_repeated = True
            return True
        self._target = replace(target, client_id=target.thing_name)
        self.fallbacks = self.fallbacks._replace(client_id=failure)
        return True
