"""The topics that are a device's own, by the policy that the backend brings along.

An operator's own policy may say otherwise (``backend deploy --device-policy``), and a device cannot see which one is
attached to it: what is here is for examples, hints and the first message; the broker decides.
"""

from __future__ import annotations

from typing import NamedTuple, Self


class DeviceTopics(NamedTuple):
    """One device's topics: it may publish to them and subscribe to them.

    Each is bound to the Thing behind a fixed first level. With the Thing's name as the first level, a Thing that is
    called as some topic root is would be given that root.

    Attributes:
        hello: the topic of the first message; nothing below it.
        own: topic filter of what the device and its programs may use as they like.
        shadow: topic filter of the Thing's shadows (AWS IoT developer guide, "Device Shadow MQTT topics").
        jobs: topic filter of the Thing's jobs (the same, "Jobs device MQTT API").
    """

    hello: str
    own: str
    shadow: str
    jobs: str

    @classmethod
    def of(cls, thing_name: str) -> Self:
        """Return the topics of a Thing; does *not* check its name."""
        reserved = f"$aws/things/{thing_name}"
        return cls(f"certtest/{thing_name}", f"device/{thing_name}/#", f"{reserved}/shadow/#", f"{reserved}/jobs/#")

    @property
    def hint(self) -> str:
        """What to tell somebody who was refused another topic."""
        return (
            f"This device's topics are {self.own}, {self.hello}, {self.shadow} and {self.jobs}, "
            "unless the operator's policy says otherwise."
        )
