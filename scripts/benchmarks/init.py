"""``hsm-enroll init`` as a whole, on SoftHSM and with a local cloud, against the shell pipeline that does the same.

The connections of both, to the API and to the broker, go through a proxy that delays them as a network would. ``renew``
is measured against ``init`` on the same device, without the proxy: a renewal is signed for the API's own URL.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks import slow_network
from benchmarks.measuring import process_seconds, ratios, run, show
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


def measure() -> None:
    """Measure and print a line for each figure."""
    with tempfile.TemporaryDirectory() as folder:
        hsm_folder, runs, cloud_folder = (Path(folder, name) for name in ("hsm", "runs", "cloud"))
        hsm_folder.mkdir()
        runs.mkdir()
        hsm = SoftHsm(hsm_folder)
        folders = (runs / f"bench-{number}" for number in count())
        cloud = detach(cloud_folder, timeout=60)
        try:
            ports = urlsplit(cloud.api_url).port or 443, cloud.mqtt_port
            _show_renewal(_Device(hsm, {**hsm.environment, **_told(hsm, cloud, *ports)}, folders))
            for round_trip, limit in _LIMITS.items():
                with slow_network.running(round_trip, *ports) as (api, mqtt):
                    device = _Device(hsm, {**hsm.environment, **_told(hsm, cloud, api, mqtt)}, folders)
                    _show_time(device, f"{round_trip} ms away", limit)
                    if round_trip == 0:
                        _show_memory(device)
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


def _show_time(device: _Device, conditions: str, at_most: float) -> None:
    phases: list[dict[str, float]] = []
    pipelines: list[float] = []

    def init() -> float:
        seconds, output = run([*COMMAND, "init", "--json"], device.new_run())
        steps = {step["name"]: step["seconds"] for step in json.loads(output)["steps"]}
        phases.append({"init": seconds, **steps, "before and after": seconds - sum(steps.values())})
        return seconds

    def pipeline() -> float:
        pipelines.append(process_seconds(["sh", "-c", _PIPELINE], device.new_run()))
        return pipelines[-1]

    show(f"init / shell pipeline, {conditions}", ratios(init, pipeline, _RUNS), at_most=at_most)
    medians = {name: [run[name] for run in phases[1:]] for name in phases[0]} | {"pipeline": pipelines[1:]}
    print("  medians in ms: " + ", ".join(f"{name} {_milliseconds(figures)}" for name, figures in medians.items()))


def _show_renewal(device: _Device) -> None:
    def once() -> tuple[float, float]:
        """Return the seconds of an enrollment, and of the same device's renewal after it."""
        environment = device.new_run()
        init, renewal = (process_seconds([*COMMAND, name, "--json"], environment) for name in ("init", "renew"))
        return init, renewal

    pairs = [once() for _ in range(_RUNS + 1)][1:]
    show("renew / init on the same device", [renewal / init for init, renewal in pairs], at_most=1.3)
    inits, renewals = zip(*pairs, strict=True)
    print(f"  medians in ms: init {_milliseconds(inits)}, renew {_milliseconds(renewals)}")


def _milliseconds(seconds: Sequence[float]) -> int:
    return round(statistics.median(seconds) * 1000)


def _show_memory(device: _Device) -> None:
    """Show each side's peak; a run of its own, which does not count for time."""
    commands = {"init and its worker": [*COMMAND, "init", "--json"], "shell pipeline": ["sh", "-c", _PIPELINE]}
    for name, command in commands.items():
        peaks = [peak_megabytes(command, device.new_run()) for _ in range(_MEMORY_RUNS)]
        show(f"peak memory of {name}, sum of Pss, MB", peaks)
