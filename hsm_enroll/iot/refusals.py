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
# A broker that cannot store anything at the moment may give another one, or none: it is asked again, see below.
_ABOUT_THE_MESSAGE = _LASTING | {"NOT_AUTHORIZED"}
# There may be any number of topics, but not in memory. If more than this many wait, the next one's message is set aside
# at its first refusal; if messages of more than that many were set aside, the first one's has three tries again.
_MOST_WAITING = 10_000
_MOST_CONDEMNED = 1000


@dataclass(slots=True)
class _Topic:
    """A topic with a refusal and no acknowledged message since.

    Attributes:
        message_id: the first message that was refused; None once it was set aside.
        tries: how many refusals count.
        attempts: how many refusals there were.
        accepted: how many messages the broker had accepted at the last refusal that counts.
        refused_at: when it was refused last.
        until: when it may be tried again.
        is_condemned: whether a message was set aside already: one more refusal is enough for the next one.
        ends_links: whether a refusal was the end of the connection, so that it has to be sent alone.
        has_to_settle: whether it was the broker that ended the connection.
    """

    message_id: int | None = None
    tries: int = 0
    attempts: int = 0
    accepted: int = 0
    refused_at: float = 0.0
    until: float = 0.0
    is_condemned: bool = False
    ends_links: bool = False
    has_to_settle: bool = False


class Refusals:
    """The topics whose last answer was a refusal.

    The methods that note one return when the message may be tried again, or None: then it is to be set aside.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Topic] = {}
        self._condemned: dict[str, _Topic] = {}
        self._accepted_before = -1

    def refuse(self, message: InFlight, reason: str, now: float, *, accepted: int) -> float | None:
        """Note a refusal by the broker.

        If the reason says nothing about the message, it is only set aside if the broker has accepted another one since
        the last one that was: otherwise it may be the broker that accepts nothing.

        Args:
            message: the message.
            reason: name of the reason code (MQTT 5.0 §2.4), or awscrt's name for an error.
            now: the time.
            accepted: how many messages the broker has accepted so far.
        """
        topic = self._topic(message)
        if _is_behind(topic, message):
            return topic.until
        topic.tries += 1
        enough = reason in _LASTING or topic.is_condemned or topic.tries >= TRIES or self._is_full(message)
        is_final = enough and reason not in PASSING
        if reason not in _ABOUT_THE_MESSAGE:
            is_final = is_final and self._accepts_others(accepted)
        return self._note(message, topic, now, is_final=is_final)

    def blame(self, message: InFlight, reason: str | None, now: float, *, accepted: int) -> float | None:
        """Note that the broker has ended the connection because of a message.

        If it did not say why, this counts only if it has accepted another message since it did so last. In any case,
        between two messages that are set aside for it at least one other is accepted: otherwise it may be the broker
        that accepts nothing.

        Args:
            message: the message, which was alone in flight.
            reason: name of the DISCONNECT's reason code; None if there was none.
            now: the time.
            accepted: how many messages the broker has accepted so far.
        """
        topic = self._topic(message)
        topic.ends_links = topic.has_to_settle = True
        counts = reason is not None or accepted > topic.accepted or not (topic.tries or topic.is_condemned)
        if counts:
            topic.tries, topic.accepted = topic.tries + 1, accepted
        enough = counts and (topic.is_condemned or topic.tries >= TRIES)
        return self._note(message, topic, now, is_final=enough and self._accepts_others(accepted))

    def suspect(self, message: InFlight, now: float) -> float:
        """Note that a connection was cut while a message was alone in flight: others are tried before it."""
        topic = self._topic(message)
        topic.ends_links = True
        topic.refused_at, topic.until = now, now + _DELAYS[0]
        self._waiting[message.topic] = topic
        return topic.until

    def accept(self, topic: str) -> bool:
        """Note that a message with this topic was acknowledged, and return whether there was a refusal before."""
        waited = self._waiting.pop(topic, None)
        return self._condemned.pop(topic, waited) is not None

    @property
    def are_none(self) -> bool:
        """Whether no topic's last answer was a refusal."""
        return not self._waiting and not self._condemned

    def has(self, topic: str) -> bool:
        """Whether the last answer to a message with this topic was a refusal."""
        return topic in self._waiting or topic in self._condemned

    def is_suspect(self, topic: str) -> bool:
        """Whether only one message with this topic may be in flight, so that the others stay behind it."""
        state = self._waiting.get(topic)
        return state is not None and not state.is_condemned

    def ends_links(self, topic: str) -> bool:
        """Whether a message with this topic has to be alone in flight: it may end the connection for the others too."""
        state = self._find(topic)
        return state is not None and state.ends_links

    def has_to_settle(self, topic: str) -> bool:
        """Whether its link has to have lasted a while without a message before."""
        state = self._find(topic)
        return state is not None and state.has_to_settle

    def is_held(self, topic: str, now: float) -> bool:
        """Whether the topic has to wait."""
        state = self._waiting.get(topic)
        return state is not None and now < state.until

    def next_at(self, now: float) -> float | None:
        """Return when the next topic may be tried again; None if none waits."""
        return min((state.until for state in self._waiting.values() if state.until > now), default=None)

    def _accepts_others(self, accepted: int) -> bool:
        """Whether the broker has accepted a message since this was last so, when one was set aside."""
        accepts, self._accepted_before = accepted > self._accepted_before, accepted
        return accepts

    def _find(self, topic: str) -> _Topic | None:
        return self._waiting.get(topic) or self._condemned.get(topic)

    def _topic(self, message: InFlight) -> _Topic:
        """Return what is known of a message's topic; of its tries, if it is the message that they were for."""
        topic = self._find(message.topic) or _Topic()
        if topic.message_id != message.id and not _is_behind(topic, message):
            # One that was sent later has taken the place of one that is gone.
            topic.message_id, topic.tries, topic.attempts = message.id, 0, 0
        return topic

    def _note(self, message: InFlight, topic: _Topic, now: float, *, is_final: bool) -> float | None:
        if is_final:
            self._condemn(message.topic, topic)
            return None
        topic.attempts += 1
        topic.refused_at = now
        topic.until = now + _DELAYS[min(topic.attempts, len(_DELAYS)) - 1]
        if not self._is_full(message):
            self._condemned.pop(message.topic, None)
            self._waiting[message.topic] = topic
        return topic.until

    def _condemn(self, name: str, topic: _Topic) -> None:
        self._waiting.pop(name, None)
        topic.message_id, topic.tries, topic.attempts, topic.is_condemned = None, 0, 0, True
        self._condemned[name] = topic
        if len(self._condemned) > _MOST_CONDEMNED:
            del self._condemned[next(iter(self._condemned))]

    def _is_full(self, message: InFlight) -> bool:
        return len(self._waiting) >= _MOST_WAITING and message.topic not in self._waiting


def _is_behind(topic: _Topic, message: InFlight) -> bool:
    """Whether a message was in flight behind the one that waits, and waits behind it."""
    first = topic.message_id
    return first is not None and message.id > first and message.sent_at <= topic.refused_at
