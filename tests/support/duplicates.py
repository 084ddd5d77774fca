"""Why messages came twice: what was in flight when a connection ended is sent again over the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.recording import End, Session

Message = tuple[str, bytes]


@dataclass(frozen=True)
class Repeated:
    """The messages of a connection that came again later.

    Attributes:
        end: how the connection ended.
        unacknowledged: how many of them the broker had not acknowledged.
        acknowledged: how many it had: the device did not get that far, or had not removed them yet.
    """

    end: End
    unacknowledged: int
    acknowledged: int


def explained(sessions: Sequence[Session]) -> list[Repeated]:
    """Return what came again, for each connection of which anything did.

    Since messages are sent, acknowledged and removed in their order, that can only be the last ones of a connection
    that was lost, or whose device was killed.

    Raises:
        AssertionError: it was something else.
    """
    last: dict[Message, int] = {}
    again: dict[int, set[Message]] = {}
    for number, session in enumerate(sessions):
        assert len(set(session.messages)) == len(session.messages), "a message came twice over one connection"
        for message in session.messages:
            if message in last:
                again.setdefault(last[message], set()).add(message)
            last[message] = number
    return [_repeated(sessions[number], messages) for number, messages in sorted(again.items())]


def _repeated(session: Session, messages: set[Message]) -> Repeated:
    assert session.end in {End.FAILED, End.VANISHED}, f"{len(messages)} messages came again: {session.end}"
    assert set(session.messages[-len(messages) :]) == messages, "messages came again that were not the last ones"
    unacknowledged = min(len(messages), len(session.messages) - session.acknowledged)
    return Repeated(session.end, unacknowledged, len(messages) - unacknowledged)


def counted(repeated: Sequence[Repeated]) -> Counter[str]:
    """Return how many duplicates there are for each reason."""
    counts: Counter[str] = Counter()
    for each in repeated:
        counts[f"{each.end}, not acknowledged"] += each.unacknowledged
        counts[f"{each.end}, acknowledged and not removed yet"] += each.acknowledged
    return +counts
