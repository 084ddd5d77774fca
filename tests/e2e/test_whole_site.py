"""A whole site is switched on at once: real clients over HTTPS, a small throttle, and time that passes by itself."""

from __future__ import annotations

import heapq
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enrollment_backend import admission
from hsm_enroll.backend_api.client import EnrollmentClient
from hsm_enroll.local import tls
from hsm_enroll.local.authority import Authority
from hsm_enroll.local.faults import Faults
from hsm_enroll.local.gateway import Gateway
from hsm_enroll.local.home import Home
from hsm_enroll.local.server import KeepAliveHandler, LoopbackServer, listen, log_file

_DEVICES = 40
_RATE = 1.0  # turns per second
_THROTTLE = 4  # requests per second
_TIME_LIMIT = 120


@dataclass
class Time:
    """Time that stands still while a device is at work, and goes on to the next that wakes up when all are waiting."""

    working: int
    now: float = 0.0
    _wakes: list[float] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def clock(self) -> float:
        """Return the time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait until the time has come."""
        with self._changed:
            wake = self.now + seconds
            heapq.heappush(self._wakes, wake)
            self._pause()
            assert self._changed.wait_for(lambda: self.now >= wake, _TIME_LIMIT)

    def leave(self) -> None:
        """Do nothing any more."""
        with self._changed:
            self._pause()

    def _pause(self) -> None:
        self.working -= 1
        if self.working or not self._wakes:
            return
        self.now = self._wakes[0]
        while self._wakes and self._wakes[0] <= self.now:
            heapq.heappop(self._wakes)
            self.working += 1
        self._changed.notify_all()


@dataclass
class Api:
    """Throttles as API Gateway does, gives turns as the function does, and issues."""

    time: Time
    issued: Counter[str] = field(default_factory=Counter)
    _seconds: Counter[int] = field(default_factory=Counter)
    _turns: dict[str, float] = field(default_factory=dict)
    _free_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, event: dict[str, Any], _: object) -> dict[str, Any]:
        with self._lock:
            return self._answer(json.loads(event["body"])["thingName"], self.time.now)

    def _answer(self, thing: str, now: float) -> dict[str, Any]:
        self._seconds[int(now)] += 1
        if self._seconds[int(now)] > _THROTTLE:
            return _response(429, {"message": "Too Many Requests"})
        if thing not in self._turns:
            self._turns[thing], self._free_at = admission.turn(self._free_at, now, _RATE)
        if seconds := admission.seconds_to_wait(self._turns[thing], now):
            problem = {"code": "enrollment-queued", "detail": "wait", "requestId": "r"}
            return _response(429, problem, "application/problem+json", {"retry-after": str(seconds)})
        self.issued[thing] += 1
        if self.issued[thing] == 1 and thing.endswith("7"):
            return _response(503, {"message": "Service Unavailable"})  # it was carried out; the answer is lost
        certificate = {
            "certificatePem": "PEM", "certificateId": "0" * 64, "thingName": thing, "mqttEndpoint": "localhost",
            "mqttPort": 8883, "attested": False,
        }  # fmt: skip
        return _response(201, certificate)


def _response(
    status: int, body: dict[str, Any], media_type: str = "application/json", headers: dict[str, str] | None = None
) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"content-type": media_type, **(headers or {})},
        "body": json.dumps(body),
    }


@contextmanager
def _serving(api: Api, folder: Path) -> Iterator[tuple[str, Path]]:
    """Serve the API behind the local gateway; yields its URL and the CA file."""
    home = Home(folder)
    home.prepare()
    home.write_pair(home.server_certificate, home.server_key, Authority.of(home).issue_server())
    with ExitStack() as stack:
        log = log_file(stack, home.logs / "gateway.log")
        listener = stack.enter_context(listen(0, "--port"))
        gateway = Gateway({"POST /v1/certificates": "NONE"}, api, Faults(), log)
        stack.enter_context(LoopbackServer(gateway, listener, log, tls.for_api(home), KeepAliveHandler))
        yield f"https://localhost:{listener.getsockname()[1]}", home.ca_certificate


def test_s24_a_whole_site_is_enrolled_with_the_default_patience(tmp_path: Path) -> None:
    """S24, D16: 40 devices at once, at one certificate a second and four requests: all get one, in about 40 seconds."""
    time = Time(_DEVICES)
    api = Api(time)

    def enroll(number: int) -> str:
        client = EnrollmentClient(url, ca_file=ca_file, sleep=time.sleep, clock=time.clock)
        try:
            return client.enroll("CSR", f"gateway-{number}").thing_name
        finally:
            client.close()
            time.leave()

    with _serving(api, tmp_path / "home") as (url, ca_file), ThreadPoolExecutor(_DEVICES) as pool:
        things = list(pool.map(enroll, range(_DEVICES)))
    assert things == [f"gateway-{number}" for number in range(_DEVICES)]
    assert set(api.issued) == set(things)
    assert max(api.issued.values()) <= 2
    assert _DEVICES / _RATE - 2 <= time.now <= 2 * _DEVICES / _RATE
