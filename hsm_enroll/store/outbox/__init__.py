"""The outbox: messages that are on the disk before they are sent, until the broker has acknowledged them.

One SQLite database, ``outbox.db`` in the state folder. Many processes and threads add, one drains.
"""

from __future__ import annotations

from hsm_enroll.settings import WhenFull
from hsm_enroll.store.outbox.disposal import remove
from hsm_enroll.store.outbox.outbox import Outbox, exists
from hsm_enroll.store.outbox.values import (
    NewMessage,
    OutboxLimits,
    OutboxState,
    Properties,
    QueuedMessage,
    RefusedMessage,
)

__all__ = [
    "NewMessage",
    "Outbox",
    "OutboxLimits",
    "OutboxState",
    "Properties",
    "QueuedMessage",
    "RefusedMessage",
    "WhenFull",
    "exists",
    "remove",
]
