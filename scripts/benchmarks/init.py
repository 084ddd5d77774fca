"""``hsm-enroll init`` as a whole, on SoftHSM and with a local cloud, against the shell pipeline that does the same.

The connections of both, to the API and to the broker, go through a proxy that delays them as a network would. ``renew``
is measured against ``init`` on the same device, without the proxy: a renewal is signed for the API's own URL.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks import slow_network
from benchmarks.figures import Figure
from benchmarks.measuring import process_seconds, ratios, run, runs, shares
from benchmarks.memory import peak_megabytes
from benchmarks.softhsm import COMMAND, SoftHsm
from hsm_enroll.local.cloud import Endpoints, detach, down

# Round trip in milliseconds, and the limit; the aim at 50 ms is 1.0.
_LIMITS = {0: 2.5, 50: 1.5}
_RUNS = 15
_MEMORY_RUNS = 5

_KEY_URI = "pkcs11:token=gateway;object=device;type=private;pin-source=pin"
_PIPELINE = f"""
set -e
cd "$FOLDER"
pkcs11-tool --module "$MODULE" --token-label gateway --login --pin env:PIN --keypairgen --key-type EC:prime256v1 \
  --label device --id 01
openssl req -new -engine pkcs11 -keyform engine -key "{_KEY_URI}" -subj "/CN=$THING" -out device.csr
curl --silent --show-error --fail --cacert "$HSM_ENROLL_CA_FILE" --data-binary @device.csr --output device.pem \
  "$HSM_ENROLL_API_URL/getCertificate"
mosquitto_pub -h "$HSM_ENROLL_MQTT_ENDPOINT" -p "$HSM_ENROLL_MQTT_PORT" --cafile "$HSM_ENROLL_CA_FILE" \
  --cert device.pem --tls-engine pkcs11 --keyform engine --key "{_KEY_URI}" -i "$THING" -q 1 -t "certtest/$THING" \
  -m '{{"message": "hello"}}'
"""


class _Device(NamedTuple):
    """A device that is new in every run: an untouched token, an empty folder, a Thing of its own."""

    hsm: SoftHsm
    environment: dict[str, str]
    folders: Iterator[Path]

    def new_run(self) -> dict[str, str]:
        """Return what a run is told."""
        self.hsm.restore()
        folder = next(self.folders)
        folder.mkdir(mode=0o700)
        (folder / "pin").symlink_to(self.environment["PIN_FILE"])
        # mosquitto_pub refuses a key of which there is no file, and then has the engine look for it.
        (folder / _KEY_URI).touch()
        told = {"FOLDER": str(folder), "HSM_ENROLL_HOME": str(folder / "home"), "THING": folder.name}
        return {**self.environment, **told, "HSM_ENROLL_THING": folder.name}


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        hsm_folder, homes, cloud_folder = (Path(folder, name) for name in ("hsm", "homes", "cloud"))
        hsm_folder.mkdir()
        homes.mkdir()
        hsm = SoftHsm(hsm_folder)
        folders = (homes / f"bench-{number}" for number in count())
        cloud = detach(cloud_folder, timeout=60)
        try:
            ports = urlsplit(cloud.api_url).port or 443, cloud.mqtt_port
            near = _Device(hsm, {**hsm.environment, **_told(hsm, cloud, *ports)}, folders)
            yield _renewal(near, runs(_RUNS, quick=quick))
            for round_trip, limit in _LIMITS.items():
                with slow_network.running(round_trip, *ports) as (api, mqtt):
                    device = _Device(hsm, {**hsm.environment, **_told(hsm, cloud, api, mqtt)}, folders)
                    yield from _time(device, round_trip, limit, runs(_RUNS, quick=quick))
                    if round_trip == 0:
                        yield from _memory(device, runs(_MEMORY_RUNS, quick=quick))
        finally:
            down(cloud_folder)


def _told(hsm: SoftHsm, cloud: Endpoints, api_port: int, mqtt_port: int) -> dict[str, str]:
    return {
        "HSM_ENROLL_MODULE": str(hsm.module),
        "HSM_ENROLL_TOKEN": "pkcs11:token=gateway",
        "HSM_ENROLL_PIN_FILE": hsm.environment["PIN_FILE"],
        "HSM_ENROLL_CA_FILE": str(cloud.ca_file),
        "HSM_ENROLL_API_URL": f"https://localhost:{api_port}",
        "HSM_ENROLL_MQTT_ENDPOINT": cloud.mqtt_endpoint,
        "HSM_ENROLL_MQTT_PORT": str(mqtt_port),
        "NO_PROXY": "localhost",
    }


def _time(device: _Device, round_trip: int, at_most: float, pairs: int) -> Iterator[Figure]:
    phases: list[dict[str, float]] = []

    def init() -> float:
        seconds, output = run([*COMMAND, "init", "--json"], device.new_run())
        phases.append(shares(seconds, {step["name"]: step["seconds"] for step in json.loads(output)["steps"]}))
        return seconds

    def pipeline() -> float:
        return process_seconds(["sh", "-c", _PIPELINE], device.new_run())

    name, what = f"init-{round_trip}ms", f"init, {round_trip} ms away"
    yield Figure.of(name, what, "shell pipeline", ratios(init, pipeline, pairs), at_most=at_most)
    yield from Figure.shares(name, what, phases[1:])


def _renewal(device: _Device, pairs: int) -> Figure:
    def once() -> float:
        """Return the seconds of a renewal over those of the same device's enrollment before it."""
        environment = device.new_run()
        init, renewal = (process_seconds([*COMMAND, name, "--json"], environment) for name in ("init", "renew"))
        return renewal / init

    return Figure.of("renew", "renew", "init on the same device", [once() for _ in range(pairs + 1)][1:], at_most=1.3)


def _memory(device: _Device, pairs: int) -> Iterator[Figure]:
    """Measure both sides' peak; runs of their own, which do not count for time."""
    ours, peer = [*COMMAND, "init", "--json"], ["sh", "-c", _PIPELINE]
    peaks = [tuple(peak_megabytes(command, device.new_run()) for command in (ours, peer)) for _ in range(pairs)]
    what = "peak memory of init and its worker"
    yield Figure.of("init-memory", what, "shell pipeline", [own / other for own, other in peaks])
    yield Figure.of("init-memory-mb", f"{what}, sum of Pss", "", [own for own, _ in peaks], unit="MB")
