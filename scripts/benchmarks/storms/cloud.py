"""What a storm meets: API Gateway's throttle, Lambda's concurrency and AWS IoT's quotas. Times are in seconds."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

IOT_RATE = 15.0
"""Calls per second of each of the four operations (AWS IoT Core quotas); a second's calls may come at once."""

# The defaults of lambda/template.yaml; a test compares them.
GATEWAY_RATE = 100.0
GATEWAY_BURST = 20
CONCURRENCY = 20
CERTIFICATE_RATE = 14.25

# What they take; round figures of the order that AWS shows.
NETWORK_SECONDS = 0.05
COLD_START_SECONDS = 1.0
TABLE_SECONDS = 0.02
IOT_SECONDS = 0.2


@dataclass(slots=True)
class Bucket:
    """A token bucket, full at first. Calls come in the order of their times."""

    rate: float
    burst: float
    level: float = field(init=False)
    filled: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        self.level = min(self.burst, self.level + (now - self.filled) * self.rate)
        self.filled = now
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def next(self, now: float) -> float:
        """Return when there is a token, now or later."""
        level = min(self.burst, self.level + (now - self.filled) * self.rate)
        return now if level >= 1 else now + (1 - level) / self.rate


@dataclass(slots=True)
class Function:
    """A Lambda function's execution environments, of which there is none at first, and at most `CONCURRENCY`."""

    busy: list[float] = field(default_factory=list)
    warm: int = 0

    def start(self, now: float) -> float | None:
        """Return when the handler begins, later in a new environment; None if all environments are occupied.

        If it begins, `occupy` has to follow.
        """
        while self.busy and self.busy[0] <= now:
            heapq.heappop(self.busy)
        if len(self.busy) >= CONCURRENCY:
            return None
        if len(self.busy) < self.warm:
            return now
        self.warm += 1
        return now + COLD_START_SECONDS

    def occupy(self, until: float) -> None:
        """Keep the environment that has just begun occupied."""
        heapq.heappush(self.busy, until)

    def free(self, now: float) -> None:
        """End one of those that are occupied without a known end."""
        self.busy.remove(math.inf)
        heapq.heapify(self.busy)
        self.occupy(now)


@dataclass(slots=True)
class Iot:
    """AWS IoT's quotas of the four operations, and how often each was called, refused calls included."""

    buckets: dict[str, Bucket] = field(
        default_factory=lambda: {
            name: Bucket(IOT_RATE, IOT_RATE)
            for name in ("CreateThing", "CreateCertificateFromCsr", "AttachPolicy", "AttachThingPrincipal")
        }
    )
    calls: int = 0

    def call(self, operation: str, now: float) -> bool:
        """Call an operation, and return whether it was not throttled."""
        self.calls += 1
        return self.buckets[operation].take(now)


@dataclass(slots=True)
class Outcome:
    """What became of a storm.

    Attributes:
        gateways: how many there were.
        enrolled: when each received its certificate, in order.
        requests: HTTP requests that they sent.
        iot_calls: calls of AWS IoT, refused ones included.
        certificates: those that AWS IoT issued.
        active_wasted: those that are active at the end and that no gateway uses.
    """

    gateways: int
    enrolled: list[float] = field(default_factory=list)
    requests: int = 0
    iot_calls: int = 0
    certificates: int = 0
    active_wasted: int = 0

    @property
    def bound(self) -> float:
        """How long AWS IoT's quota takes for so many certificates, in seconds."""
        return self.gateways / IOT_RATE

    @property
    def ratio(self) -> float:
        """When the last gateway is enrolled, over `bound`."""
        return self.enrolled[-1] / self.bound

    @property
    def wasted(self) -> int:
        """Certificates that were issued and that no gateway uses."""
        return self.certificates - self.gateways
