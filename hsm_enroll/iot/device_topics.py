"""The topics that a device may use under the backend's built-in policy.

An operator's own policy may allow others (``backend deploy --device-policy``), and a device cannot see which policy is
attached to its certificate. So these are for the first message, hints and examples; the broker decides.
"""

from __future__ import annotations

from typing import NamedTuple, Self


class DeviceTopics(NamedTuple):
    """One device's topics, which it may publish and subscribe to.

    The Thing's name always follows a fixed first level. If it were the first level itself, a Thing that happens to have
    the name of another topic root would get all topics below that root.

    Attributes:
        hello: the topic of the first message; not those below it.
        own: topic filter of what the device's programs may use as they like.
        shadow: topic filter of the Thing's shadows (AWS IoT developer guide, "Device Shadow MQTT topics").
        jobs: topic filter of the Thing's jobs (same guide, "Jobs device MQTT API").
    """

    hello: str
    own: str
    shadow: str
    jobs: str

    @classmethod
    def of(cls, thing_name: str) -> Self:
        """Return the topics of a Thing. Does *not* check its name."""
        reserved = f"$aws/things/{thing_name}"
        return cls(f"certtest/{thing_name}", f"device/{thing_name}/#", f"{reserved}/shadow/#", f"{reserved}/jobs/#")

    @property
    def hint(self) -> str:
        """What to tell a person after the broker has refused another topic."""
        return (
            f"This device's topics are {self.own}, {self.hello}, {self.shadow} and {self.jobs}, "
            "unless the operator's policy says otherwise."
        )
