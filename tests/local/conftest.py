"""One local cloud for the tests that only use it, and a place for those that start their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hsm_enroll.local.cloud import Endpoints, detach, down
from tests.support.clients import TIME_LIMIT, SoftwareDevice, Watched, supervisor
from tests.support.devices import Observer
from tests.support.processes import children

# What a shell may hold, each of which would lead a careless program away from loopback.
HOSTILE_ENVIRONMENT = {
    "AWS_CA_BUNDLE": "/nonexistent",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_ENDPOINT_URL_IOT": "http://127.0.0.1:1",
    "AWS_PROFILE": "nonexistent",
    "AWS_SESSION_TOKEN": "left-over",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "REQUESTS_CA_BUNDLE": "/nonexistent",
}


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """A cloud in a process of its own, started from a shell whose environment is as unhelpful as can be."""
    home = tmp_path_factory.mktemp("a home with spaces")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in HOSTILE_ENVIRONMENT.items():
            environment.setenv(name, value)
        endpoints = detach(home, TIME_LIMIT)
    yield endpoints
    down(home)


@pytest.fixture
def thing(request: pytest.FixtureRequest) -> str:
    """A Thing's name that no other test uses."""
    return re.sub("[^a-zA-Z0-9_-]", ":", str(request.node.name)).rstrip(":")


@pytest.fixture
def new_device(thing: str, tmp_path: Path) -> Callable[[str], SoftwareDevice]:
    """Makes devices of this test's own; their Things' names end as told."""
    return lambda suffix: SoftwareDevice(f"{thing}{suffix}"[-64:], tmp_path / f"device{suffix}")


@pytest.fixture
def device(new_device: Callable[[str], SoftwareDevice]) -> SoftwareDevice:
    """A device that is not enrolled."""
    return new_device("")


@pytest.fixture
def enrolled(device: SoftwareDevice, cloud: Endpoints) -> SoftwareDevice:
    """A device that is."""
    device.enroll(cloud)
    return device


@pytest.fixture
def observer(cloud: Endpoints) -> Iterator[Observer]:
    """Hears every topic."""
    listening = Observer(cloud.to_json(), "#")
    yield listening
    listening.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of this test's own; what still runs in it at the end is ended."""
    folder = tmp_path / "home"
    yield folder
    down(folder)


@pytest.fixture
def watch() -> Iterator[Callable[[Endpoints], list[Watched]]]:
    """Returns the processes of a cloud, the supervisor first and mosquitto second."""
    with ExitStack() as open_descriptors:

        def processes(endpoints: Endpoints) -> list[Watched]:
            pid = supervisor(endpoints)
            watched = [Watched(process) for process in (pid, *children(pid))]
            for process in watched:
                open_descriptors.callback(process.close)
            assert len(watched) == 2
            return watched

        yield processes
