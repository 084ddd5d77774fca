"""The forwarder's links, as a connection's keeper makes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from hsm_enroll.errors import HsmEnrollError, MqttError
from hsm_enroll.iot import client, failures
from hsm_enroll.iot.keeper import ConnectionEvent, ConnectionState, Keeper
from hsm_enroll.iot.link import Ending, Link
from hsm_enroll.iot.links import Ender
from hsm_enroll.store.outbox.values import Properties

if TYPE_CHECKING:
    from hsm_enroll.iot.exchange import Exchange
    from hsm_enroll.iot.links import Answered
    from hsm_enroll.store.outbox import QueuedMessage


_NO_PROPERTIES = Properties()
# A close_notify (RFC 8446 §6.1), which comes from the broker like all that TLS carries.
_CLOSED = "AWS_ERROR_MQTT_UNEXPECTED_HANGUP"
# A FIN or a reset: awscrt does not tell them apart, and neither need come from the broker.
_CUT = "AWS_IO_SOCKET_CLOSED"


class KeptLine:
    """The links of one keeper.

    Attributes:
        on_event: is told of each change of the connection, on a thread of the keeper's.
    """

    def __init__(self, on_event: Callable[[ConnectionEvent], None]) -> None:
        self._on_event = on_event
        self._keeper: Keeper | None = None
        self._link: KeptLink | None = None
        self._end: HsmEnrollError | None = None

    def event(self, event: ConnectionEvent) -> None:
        """Note a change; the keeper's ``on_connection``."""
        if event.state is ConnectionState.ENDED:
            self._end = event.error
        self._on_event(event)

    def use(self, keeper: Keeper) -> None:
        """Take the links from this keeper."""
        self._keeper = keeper

    @property
    def exchange(self) -> Exchange | None:
        """The keeper's subscriptions; None while there is no keeper."""
        return None if self._keeper is None else self._keeper.exchange

    @property
    def waiting_seconds(self) -> float:
        """How long an attempt to connect has been going on; see ``Keeper.waiting_seconds``."""
        return 0.0 if self._keeper is None else self._keeper.waiting_seconds

    def close(self) -> None:
        """Close the keeper, and forget it."""
        if self._keeper is not None:
            self._keeper.close()
        self._keeper = None

    def link(self) -> KeptLink | None:
        """Return the link in use, the same object each time; None if there is none at the moment.

        Raises:
            HsmEnrollError: there will be none any more.
        """
        if self._end is not None:
            raise failures.again(self._end)
        link = None if self._keeper is None else self._keeper.exchange.link
        if link is None or link.ended.done():
            return None
        if self._link is None or not self._link.is_of(link):
            if link.accepts_qos_0_only:
                raise failures.of_low_qos(link.target)
            self._link = KeptLink(link)
        return self._link


class KeptLink:
    """One of them."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def is_of(self, link: Link) -> bool:
        """Whether this is the same link."""
        return self._link is link

    @property
    def receive_maximum(self) -> int:
        """How many messages may be in flight."""
        return self._link.receive_maximum

    @property
    def loss(self) -> HsmEnrollError | None:
        """Why it has ended; None while it has not."""
        return self._link.loss() if self._link.ended.done() else None

    @property
    def ender(self) -> Ender:
        """Who has ended it, once it has ended."""
        return _ender(self._link.ended.result() if self._link.ended.done() else None)

    def publish(self, message: QueuedMessage, expires_in: float | None, answered: Answered) -> None:
        """Send a message; without an effect if the link has ended."""
        packet = client.publish_packet(
            message.topic,
            message.payload,
            1,
            retain=message.retain,
            expiry=None if expires_in is None else math.ceil(expires_in),
            properties=message.properties if message.properties != _NO_PROPERTIES else None,
        )
        try:
            answer = self._link.awscrt_client.publish(packet)
        except MqttError:
            return
        except RuntimeError as error:
            answered(message.id, failures.name_of(error))
        else:
            answer.add_done_callback(partial(_on_answer, message.id, answered))

    def abandon(self, error: HsmEnrollError) -> None:
        """End it: it does not work any more."""
        self._link.abandon(error)


def _ender(ending: Ending | None) -> Ender:
    if ending is None:
        return Ender.OTHER
    if ending.reason is not None or failures.name_of(ending.error) == _CLOSED:
        return Ender.BROKER
    return Ender.CUT if failures.name_of(ending.error) == _CUT else Ender.OTHER


def _on_answer(message_id: int, answered: Answered, answer: Future[Any]) -> None:
    """Tell of a PUBACK, or of a message that awscrt could not send; the end of the link is told by the link."""
    error = answer.exception()
    if error is None:
        code = answer.result().puback.reason_code
        answered(message_id, failures.reason_of(code) if code is None or code >= 0x80 else None)
    elif not failures.is_loss(error):
        answered(message_id, failures.name_of(error))
