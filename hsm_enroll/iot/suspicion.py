"""Finds the message for which the broker ends links, and blames none for what the network does. Pure.

A broker may answer a message by ending the connection. DISCONNECT and TLS's close_notify come from the broker for sure.
That the connection is closed without them, or reset, the network can do as well: then a message may have to wait, but
is not set aside for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hsm_enroll.iot.links import Ender

if TYPE_CHECKING:
    from hsm_enroll.iot.window import InFlight

SETTLE_SECONDS = 1.0
"""A link that has lasted so long without a message was not ended by what would have ended it anyway."""

# Losses in a row without an acknowledgement, after which messages are sent one by one to find out which one it is.
_LOSSES = 2
# A broker ends the connection as soon as it has looked at the message. The network may be slow.
_AT_ONCE_SECONDS = 5.0
# The broker's own reasons for a DISCONNECT (MQTT 5.0 §3.14.2.1), which no message has caused.
_BROKERS_REASONS = {
    *("SERVER_SHUTTING_DOWN", "SERVER_BUSY", "KEEP_ALIVE_TIMEOUT", "SESSION_TAKEN_OVER", "USE_ANOTHER_SERVER"),
    *("SERVER_MOVED", "ADMINISTRATIVE_ACTION", "CONNECTION_RATE_EXCEEDED", "MAXIMUM_CONNECT_TIME", "QUOTA_EXCEEDED"),
    *("MESSAGE_RATE_TOO_HIGH", "RECEIVE_MAXIMUM_EXCEEDED", "NORMAL_DISCONNECTION"),
}


class Suspicion:
    """What the ends of links say about the messages that were in flight.

    Attributes:
        has_to_settle: whether a message is to be sent only on a link that has lasted a while without one.
    """

    def __init__(self) -> None:
        self.has_to_settle = False
        self._losses = 0

    @property
    def is_strong(self) -> bool:
        """Whether messages are to be sent one by one."""
        return self._losses >= _LOSSES

    def accept(self) -> None:
        """Note an acknowledgement."""
        self._losses, self.has_to_settle = 0, False

    def lose(
        self,
        ender: Ender,
        reason: str | None,
        in_flight: Sequence[InFlight],
        *,
        was_alone: bool,
        link_since: float,
        now: float,
    ) -> InFlight | None:
        """Note the end of a link, and return the message that may be why; None if that cannot be said.

        Args:
            ender: who has ended it.
            reason: the name of the DISCONNECT's reason code, if there was one.
            in_flight: what was in flight.
            was_alone: whether that was one message that was sent alone on purpose.
            link_since: when the link began.
            now: when it ended.
        """
        if not in_flight or ender is Ender.OTHER or reason in _BROKERS_REASONS:
            return None
        self._losses += 1
        # A message is not blamed for the end of a link that had just begun, so the next one has to last longer.
        self.has_to_settle = ender is Ender.BROKER
        message = in_flight[0]
        settled = ender is Ender.CUT or message.sent_at >= link_since + SETTLE_SECONDS
        return message if was_alone and settled and now <= message.sent_at + _AT_ONCE_SECONDS else None
