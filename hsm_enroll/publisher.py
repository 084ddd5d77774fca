"""The library's :class:`Publisher`: messages that are on this device's disk before the call returns."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from hsm_enroll import settings
from hsm_enroll.device import outbox
from hsm_enroll.errors import NotEnrolledError, UsageError
from hsm_enroll.iot import limits
from hsm_enroll.store import identity as stored
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.outbox import NewMessage, Outbox, Properties


class Publisher:
    """Hands messages over to this device's outbox, from which ``hsm-enroll forward`` sends them in this order.

    A message is on the disk when :meth:`publish` returns, and stays there until the broker has acknowledged it: it
    outlasts outages, the end of this program and power cuts. Neither network nor token is used, and no PIN is needed.
    ``forward`` must run on this device; until it does, messages wait.

    It is thread-safe: messages that several threads publish at the same time share one write to the disk. Several
    processes may have one each. After a fork, parent and child may both go on using it.

    Args:
        identity: this device's identity, of the configured state folder.

    Raises:
        UsageError: the configuration is invalid, or its state folder has another Thing's identity.
        NotEnrolledError, StateCorruptError, StateTooNewError: the state folder has no identity that can be used, or an
            outbox of a newer version.
        StateError: the outbox cannot be created or opened.
    """

    def __init__(self, identity: Identity) -> None:
        resolved = settings.load(os.environ, {})
        self._folder = resolved.state.absolute()  # the program may change its working directory
        own = Identity.load(self._folder)
        if own.thing_name != identity.thing_name:
            raise UsageError(
                f"this identity is {identity.thing_name}'s, and the outbox in {self._folder} is {own.thing_name}'s",
                hint="Set HSM_ENROLL_HOME to the folder that the identity was loaded from.",
            )
        self._outbox = Outbox.open(self._folder, outbox.limits(resolved), partial(_check_enrolled, self._folder))
        self._is_closed = False

    def publish(
        self,
        topic: str,
        payload: bytes | bytearray | memoryview,
        *,
        retain: bool = False,
        expires_after: float | None = None,
        properties: Properties | None = None,
    ) -> None:
        """Put one message into the outbox; it is on the disk when this returns. It is sent with QoS 1.

        Messages of one topic arrive in the order in which they were published. A message may arrive twice: if its
        acknowledgement is lost, it is sent again (MQTT 5.0 §4.3.2).

        Does *not* check that the device may publish to the topic: one that the broker refuses is set aside by
        ``forward``, and ``hsm-enroll status`` says so.

        Args:
            topic: up to 256 bytes with up to 7 slashes and no wildcards (MQTT 5.0 §4.7).
            payload: the message, up to 128 KiB.
            retain: have the broker keep it for later subscribers; AWS IoT requires iot:RetainPublish for that, which
                the backend's built-in policy does not allow.
            expires_after: seconds after which it is dropped if it has not been delivered, also by the broker (MQTT 5.0
                §3.3.2.3.3); None is never, unless the setting ``outbox_max_age`` says otherwise.
            properties: what MQTT 5 sends along with it.

        Raises:
            UsageError: topic, message, expiry or properties are invalid or of another type, or the publisher is closed.
            NotEnrolledError: this device has been retired meanwhile.
            OutboxFullError: the outbox has reached ``outbox_bytes``, and ``outbox_when_full`` is ``refuse``.
            StateError: the disk is full, read-only or broken. The message may nevertheless be sent.
        """
        if self._is_closed:
            raise UsageError("this publisher is closed", hint="Publish within its with block.")
        limits.check_message(topic, payload)
        limits.check_expiry(expires_after)
        properties = Properties() if properties is None else properties
        if not isinstance(properties, Properties):
            raise UsageError(f"the properties are {type(properties).__name__}", hint="Give hsm_enroll.Properties.")
        limits.check_properties(properties)
        message = NewMessage(topic, bytes(payload), retain, expires_after, properties)
        _check_enrolled(self._folder)
        self._outbox.add(message)

    def close(self) -> None:
        """Close the outbox; what is in it stays there. Calling it again has no effect."""
        self._is_closed = True
        self._outbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _check_enrolled(folder: Path) -> None:
    """Refuse a folder without an identity: nobody would send what is in its outbox.

    This is checked again when a new outbox is begun: ``retire`` removes the identity first, and then the outbox, which
    must not come back with a message.
    """
    if not stored.exists(folder):
        raise NotEnrolledError(f"this device is not enrolled any more: {folder} holds no identity")
