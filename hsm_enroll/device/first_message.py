"""Sends the first message, and is patient with a broker that does not know the new certificate's rights yet."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from hsm_enroll.errors import MqttRefusedError

if TYPE_CHECKING:
    from hsm_enroll.device.ports import Audience, Clock

# What is attached to a new certificate reaches AWS IoT's message broker some seconds later; until then it refuses.
PATIENCE_SECONDS = 30.0
_SHORTEST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 8.0


def send(attempt: Callable[[], None], clock: Clock, audience: Audience) -> None:
    """Send a message with a certificate that is only seconds old: try again for up to 30 s while the broker refuses.

    A certificate that the broker rejects itself, and a broker that does not answer, is not tried again.

    Args:
        attempt: connects and sends the message.
        clock: measures and waits.
        audience: is told what is waited for.

    Raises:
        MqttRefusedError: the broker still refuses.
        HsmEnrollError: what else the attempt raises.
    """
    deadline = clock.monotonic() + PATIENCE_SECONDS
    tries = 0
    while True:
        try:
            return attempt()
        except MqttRefusedError as error:
            left = deadline - clock.monotonic()
            if error.of_certificate or left <= 0:
                raise
            why = "still refused" if tries else f"{error.message}: a new certificate's rights take AWS IoT some seconds"
            audience.say(f"  {why}; trying again for up to {left:.0f} s")
            tries += 1
        # Jitter: many devices may be enrolled at the same moment.
        longest = min(_LONGEST_WAIT_SECONDS, 0.5 * 2**tries)
        wait = random.uniform(_SHORTEST_WAIT_SECONDS, longest)  # noqa: S311 - spreads load, protects nothing
        clock.sleep(min(wait, left))
