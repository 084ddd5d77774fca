"""What becomes of messages that the broker does not accept: their topic waits, then they are set aside. Pure.

The order of a topic's messages is kept, so the first one that is refused holds up those after it; other topics go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.iot.window import InFlight

TRIES = 3
"""So often a message is tried before it is set aside."""

# AWS IoT may take some seconds to apply a policy that was attached or changed just now.
_DELAYS = (5.0, 30.0, 60.0)
# Not the message's fault (MQTT 5.0 §3.4.2.1): it is tried until it is accepted.
PASSING = frozenset({"QUOTA_EXCEEDED", "PACKET_IDENTIFIER_IN_USE"})
# The same message would get the same answer. The last three are awscrt's, for what it cannot send on this connection.
_LASTING = frozenset(
    {
        "TOPIC_NAME_INVALID",
        "PAYLOAD_FORMAT_INVALID",
        "AWS_ERROR_MQTT5_PUBLISH_OPTIONS_VALIDATION",
        "AWS_ERROR_MQTT5_PACKET_VALIDATION",
        "AWS_ERROR_MQTT5_ENCODE_FAILURE",
    }
)
_MOST_TOPICS = 1000


@dataclass(slots=True)
class _Topic:
    """A topic with a refusal and no acknowledged message since.

    Attributes:
        message_id: the first message that was refused; None once it was set aside.
        tries: how often it was refused.
        refused_at: when it was refused last.
        until: when it may be tried again.
        is_condemned: whether a message was set aside already: one more refusal is enough for the next one.
        ends_links: whether the refusal was the end of the connection, so that it has to be sent alone.
    """

    message_id: int | None = None
    tries: int = 0
    refused_at: float = 0.0
    until: float = 0.0
    is_condemned: bool = False
    ends_links: bool = False


class Refusals:
    """The topics whose last answer was a refusal."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}

    def refuse(
        self, message: InFlight, reason: str, now: float, *, ends_link: bool = False, is_final: bool = True
    ) -> bool:
        """Note a refusal, and return whether the message is to be set aside; if not, its topic waits.

        Args:
            message: the message.
            reason: name of the reason code (MQTT 5.0 §2.4), or awscrt's name for an error.
            now: the time.
            ends_link: whether the refusal was the end of the connection.
            is_final: whether it may be set aside now.
        """
        state = self._topics.setdefault(message.topic, _Topic())
        if state.message_id is not None and message.id > state.message_id and message.sent_at <= state.refused_at:
            return False  # it was in flight behind the one that waits, and waits behind it
        if state.message_id != message.id:  # one that was sent later has taken the place of one that is gone
            state.message_id, state.tries = message.id, 0
        state.refused_at = now
        state.ends_links = state.ends_links or ends_link
        state.tries += 1
        enough = reason in _LASTING or state.is_condemned or state.tries >= TRIES
        if is_final and enough and reason not in PASSING:
            state.message_id, state.tries, state.until, state.is_condemned = None, 0, now, True
            self._forget_some()
            return True
        state.until = now + _DELAYS[min(state.tries, len(_DELAYS)) - 1]
        return False

    def accept(self, topic: str) -> bool:
        """Note that a message with this topic was acknowledged, and return whether there was a refusal before."""
        return self._topics.pop(topic, None) is not None

    def is_suspect(self, topic: str) -> bool:
        """Whether only one message with this topic may be in flight, so that the others stay behind it."""
        state = self._topics.get(topic)
        return state is not None and not state.is_condemned

    def ends_links(self, topic: str) -> bool:
        """Whether a message with this topic has to be alone in flight: it may end the connection for the others too."""
        state = self._topics.get(topic)
        return state is not None and state.ends_links

    def is_held(self, topic: str, now: float) -> bool:
        """Whether the topic has to wait."""
        state = self._topics.get(topic)
        return state is not None and now < state.until

    def held_until(self, topic: str) -> float:
        """Return when the topic may be tried again, which may be past."""
        return self._topics[topic].until

    def next_at(self, now: float) -> float | None:
        """Return when the next topic may be tried again; None if none waits."""
        return min((state.until for state in self._topics.values() if state.until > now), default=None)

    def _forget_some(self) -> None:
        """Forget the topic whose messages were set aside first: there may be any number of topics."""
        if len(self._topics) > _MOST_TOPICS:
            done = next((topic for topic, state in self._topics.items() if state.message_id is None), None)
            if done is not None:
                del self._topics[done]
