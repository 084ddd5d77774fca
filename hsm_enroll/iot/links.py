"""What the forwarder knows of connections: one link after another, each with its messages, answers and end."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from hsm_enroll.errors import HsmEnrollError

if TYPE_CHECKING:
    from hsm_enroll.store.outbox import QueuedMessage

Answered = Callable[[int, str | None], None]
"""Called on any thread with a message's id, and the name of the reason for a refusal; None is an acknowledgement."""


class Ender(StrEnum):
    """Who has ended a link.

    Attributes:
        BROKER: the broker, with a DISCONNECT or TLS's close_notify, which nobody else can send.
        CUT: the TCP connection was closed or reset, which anything on the way can do, too.
        OTHER: this side, or silence.
    """

    BROKER = "broker"
    CUT = "cut"
    OTHER = "other"


class OpenLink(Protocol):
    """A link: a connection from its CONNACK to its end."""

    @property
    def receive_maximum(self) -> int:
        """How many messages may be in flight (MQTT 5.0 §3.2.2.3.3)."""

    @property
    def loss(self) -> HsmEnrollError | None:
        """Why it has ended; None while it has not."""

    @property
    def ender(self) -> Ender:
        """Who has ended it, once it has ended."""

    def publish(self, message: QueuedMessage, expires_in: float | None, answered: Answered) -> None:
        """Send a message with QoS 1; without an effect if the link has ended."""

    def abandon(self, error: HsmEnrollError) -> None:
        """End it: it does not work any more."""


class Line(Protocol):
    """What links come from, one after another."""

    def link(self) -> OpenLink | None:
        """Return the link in use, the same object each time; None if there is none at the moment.

        Raises:
            HsmEnrollError: there will be none any more.
        """
