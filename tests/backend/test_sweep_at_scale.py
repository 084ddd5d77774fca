"""The sweep of a million certificates: the real code in simulated time, against AWS IoT's default quotas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enrollment_backend import log
from enrollment_backend.aws_errors import ThrottledError
from enrollment_backend.claims import Certificate
from enrollment_backend.inspection import Described, Found
from enrollment_backend.ledger import Ledger
from enrollment_backend.scheduled_sweep import ScheduledSweep
from enrollment_backend.sweep import STATE, Sweeper

CERTIFICATES = 1_000_000
EVERY_FOREIGN, EVERY_LOST, EVERY_ORPHAN = 10, 25_000, 100_000  # the rest are devices'
QUOTA = 10  # calls per second of each operation, for an account ("AWS IoT Core endpoints and quotas")
RUN, INTERVAL = 900.0, 3600.0  # seconds
DYNAMODB, IOT = 0.01, 0.15  # seconds that a call takes
DEVICE = {"thing": "x"}
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """An account with a million certificates, and its clock.

    Certificate number n is foreign, lost or an orphan if n is a multiple of the constants above, and a device's
    otherwise. AWS IoT throttles whatever exceeds its quotas, and now and then what does not.
    """

    def __init__(self) -> None:
        self.now = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
        self.calls: Counter[str] = Counter()
        self.per_second: Counter[tuple[str, int]] = Counter()
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.inactive: set[int] = set()

    def time(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def call(self, operation: str) -> None:
        """Take the time of a call to AWS IoT."""
        self.calls[operation] += 1
        self.per_second[operation, int(self.now)] += 1
        self.now += IOT
        if self.per_second[operation, int(self.now - IOT)] > QUOTA or sum(self.calls.values()) % 500 == 0:
            raise ThrottledError(operation, "ThrottlingException")

    # --- the port to AWS IoT

    def certificates(self, marker: str, size: int) -> tuple[list[Found], str]:
        """List all certificates."""
        self.call("ListCertificates")
        start = int(marker or 0)
        end = min(start + size, CERTIFICATES)
        created = CREATED + timedelta(seconds=start)
        listed = [Found(id_of(number), number not in self.inactive, created) for number in range(start, end)]
        return listed, "" if end == CERTIFICATES else str(end)

    def certificates_with_policy(self, marker: str, size: int) -> tuple[list[str], str]:
        """List the devices' and the orphans."""
        self.call("ListTargetsForPolicy")
        start = int(marker or 0)
        end = min(start + size, CERTIFICATES)
        listed = [id_of(number) for number in range(start, end) if number % EVERY_FOREIGN or number % EVERY_ORPHAN == 0]
        return listed, "" if end == CERTIFICATES else str(end)

    def describe(self, certificate_id: str) -> Described:
        """Return a certificate, whose key is known unless it is foreign."""
        self.call("DescribeCertificate")
        number = int(certificate_id, 16)
        key = "foreign" if kind_of(number) == "foreign" else "known"
        found = Found(certificate_id, number not in self.inactive, CREATED)
        return Described(found, Certificate("", certificate_id, ""), key)

    def things_of(self, _certificate: Certificate) -> list[str]:
        """Return what a lost certificate is attached to."""
        self.call("ListPrincipalThings")
        return []

    def delete(self, certificate_id: str) -> bool:
        """Refuse to delete a certificate: something is attached."""
        self.call("DeleteCertificate")
        assert int(certificate_id, 16) in self.inactive
        return False

    def deactivate(self, certificate_id: str) -> None:
        """Make a certificate INACTIVE."""
        self.call("UpdateCertificate")
        self.inactive.add(int(certificate_id, 16))

    # --- the port to DynamoDB

    def get(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
        """Read items: those of the devices' certificates and of the known key are always there."""
        wanted = list(keys)
        self.now += DYNAMODB * -(-len(wanted) // 100)
        return {
            key: self.items.get(key, DEVICE)
            for key in wanted
            if key in self.items or key == ("key", "known") or (key[0] == "certificate" and is_device(key[1]))
        }

    def lacking(self, _kind: str, _name: str, _after: str | None, _size: int) -> tuple[list[Any], None]:
        """Find no items of an earlier version."""
        self.now += DYNAMODB
        return [], None

    def transact(self, writes: Iterable[Any]) -> None:
        """Write items."""
        self.now += DYNAMODB
        for write in writes:
            self.items[write.key] = self.items.get(write.key, {}) | write.values


def id_of(number: int) -> str:
    """Return a certificate's id."""
    return f"{number:064x}"


def is_device(certificate_id: str) -> bool:
    """Whether a certificate is a device's."""
    return int(certificate_id[-6:], 16) % EVERY_FOREIGN != 0  # what is lost or an orphan is a multiple of that, too


def kind_of(number: int) -> str:
    """Return what a certificate is."""
    if number % EVERY_ORPHAN == 0:
        return "orphan"
    if number % EVERY_LOST == 0:
        return "lost"
    return "foreign" if number % EVERY_FOREIGN == 0 else "device"


def hours_of_a_pass(world: World) -> float:
    """Run the sweep every hour until it has seen all certificates; return how long that took."""
    begin = world.now
    port: Any = world
    sweeper = Sweeper(Ledger(port, world.time, world.sleep), port, world.deactivate, world.time, limit=20)
    while True:
        start = world.now
        ScheduledSweep(sweeper, world.sleep, lambda: start + RUN - world.now).run()  # noqa: B023 - called at once
        assert world.now - start < RUN
        if world.items[STATE]["marker"] is None:
            return (world.now - begin) / 3600
        world.now = start + INTERVAL


def test_a_million_certificates_are_swept_within_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    """In 15 minutes of each hour, without exceeding a quota; the next pass describes no foreign certificate again."""
    log.begin("simulation")
    world = World()
    hours = hours_of_a_pass(world)
    calls = Counter(world.calls)
    again = hours_of_a_pass(world)
    capsys.readouterr()
    to_disable = {number for number in range(0, CERTIFICATES, EVERY_LOST) if kind_of(number) in {"orphan", "lost"}}
    assert world.inactive == to_disable
    assert hours < 24
    assert again < 4
    assert calls["DescribeCertificate"] > CERTIFICATES / EVERY_FOREIGN
    assert world.calls["DescribeCertificate"] == calls["DescribeCertificate"]
    assert max(world.per_second.values()) <= QUOTA
