"""The local cloud: AWS's APIs, the enrollment API and the broker, brought up and taken down as one."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Self

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.detached import detach, down, running
from hsm_enroll.local.endpoints import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Endpoints
from hsm_enroll.local.home import Home, default_home

__all__ = ["Endpoints", "LocalCloud", "default_home", "detach", "down", "running", "serve"]

_MQTT_ENDPOINT = "localhost"


class LocalCloud:
    """A cloud that runs in this process, mosquitto beside it, from entering to leaving.

    One process holds at most one at a time. While it runs, the process's AWS variables are the function's, and what the
    handler writes goes to this process's standard output and error. AWS's side starts empty: a certificate issued in an
    earlier run is unknown to it, and the broker refuses it.

    Args:
        home: its folder; made if missing, mode 0700. The CA in it outlives the run.
        function: the Lambda function's folder with ``handler.py`` and ``template.yaml``; by default this package's own.
        auth: who may enroll: ``invite``, the bearer of an invite, or ``open``, anyone.

    Attributes:
        endpoints: where it listens, once entered.
    """

    endpoints: Endpoints

    def __init__(self, home: Path, function: Path | None = None, auth: str = "open") -> None:
        self._home = Home(home.absolute())
        self._auth = auth
        self._function = function

    def __enter__(self) -> Self:
        """Start.

        Raises:
            LocalCloudError: something is missing, damaged or already running; nothing is left behind.
        """
        try:
            with ExitStack() as stack, _no_collection():
                self._start(stack)
                self._stack = stack.pop_all()
        except OSError as error:
            raise LocalCloudError(f"The local cloud in {self._home.folder} cannot be started: {error}.") from error
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, other: socket.socket) -> None:
        """Wait until something can be read from another socket.

        Raises:
            LocalCloudError: the broker ended by itself before that; a cloud without it is none.
        """
        poll = select.poll()
        poll.register(other, select.POLLIN)
        poll.register(self._broker, select.POLLIN)
        if other.fileno() not in {descriptor for descriptor, _ in poll.poll()}:
            raise LocalCloudError(f"mosquitto ended by itself; see {self._home.logs / 'mosquitto.log'}.")

    def _start(self, stack: ExitStack) -> None:
        # Imported here: only a command that brings a cloud up pays for moto, boto3 and werkzeug.
        from hsm_enroll.local.admission import Admission
        from hsm_enroll.local.authority import Authority
        from hsm_enroll.local.gate import Gate
        from hsm_enroll.local.lambda_runtime import REGION, environment, loaded_handler
        from hsm_enroll.local.mosquitto import Mosquitto

        home = self._home
        home.prepare()
        stack.enter_context(home.locked())
        function = self._function or backend_folder()
        authority = Authority.of(home)
        home.write_pair(home.server_certificate, home.server_key, authority.issue_server())
        home.write_pair(home.observer_certificate, home.observer_key, authority.issue_observer())
        self._broker = stack.enter_context(Mosquitto(home))

        credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}
        stack.enter_context(environment({"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, **credentials}))
        # Only now: moto makes boto3 clients while it is imported, and a profile of the user's may not exist.
        from hsm_enroll.local.aws import AwsApis, aws_server, deploy, fresh_account
        from hsm_enroll.local.gateway import Gateway, routes_of
        from hsm_enroll.local.server import LoopbackServer, log_file

        iot = stack.enter_context(fresh_account(authority))
        mqtt_log = log_file(stack, home.logs / "mqtt.log")
        gate = stack.enter_context(Gate(_tls(home, devices=True), self._broker.open, mqtt_log))
        apis = AwsApis()
        aws = stack.enter_context(aws_server(apis, log_file(stack, home.logs / "aws.log")))
        aws_endpoint_url = f"http://127.0.0.1:{aws.port}"
        os.environ["AWS_ENDPOINT_URL"] = aws_endpoint_url
        deployed = deploy(function / "template.yaml", {"AuthMode": self._auth, "MqttEndpoint": _MQTT_ENDPOINT})
        apis.after_change = Admission(gate, iot, home.observer_certificate.read_bytes(), mqtt_log).synchronise
        apis.after_change()

        # AWS IoT's port is always the same, so the template has no parameter for it; here it is a free one.
        os.environ |= {**deployed.variables, "MQTT_PORT": str(gate.port)}
        handler = stack.enter_context(loaded_handler(function))
        log = log_file(stack, home.logs / "gateway.log")
        gateway = Gateway(routes_of(deployed.resources), handler, log)
        api = stack.enter_context(LoopbackServer(gateway, log, _tls(home, devices=False)))

        self.endpoints = Endpoints(
            api_url=f"https://localhost:{api.port}",
            mqtt_endpoint=_MQTT_ENDPOINT,
            mqtt_port=gate.port,
            ca_file=home.ca_certificate,
            aws_endpoint_url=aws_endpoint_url,
            region=REGION,
            home=home.folder,
            observer_certificate=home.observer_certificate,
            observer_key=home.observer_key,
        )
        home.write_state(self.endpoints)


def serve(home: Path, on_ready: Callable[[Endpoints], None], auth: str = "open") -> None:
    """Run a local cloud until SIGINT or SIGTERM, in the main thread.

    The first signal takes it down in order, once it is up. A second one ends the process at once, which leaves no
    other process and no lock behind either.

    Args:
        home: its folder.
        on_ready: called once everything answers. From then on, what the process writes to standard output and error is
            the handler's, and goes to ``logs/handler.log``.
        auth: ``invite`` or ``open``, as `LocalCloud` takes it.

    Raises:
        LocalCloudError: it could not be started, or the broker ended by itself.
    """
    with _ending_signals() as signals, LocalCloud(home, auth=auth) as cloud:
        gc.freeze()  # this process has no other purpose: what is there now stays
        on_ready(cloud.endpoints)
        log = (cloud.endpoints.home / "logs" / "handler.log").open("a", buffering=1)
        with log, redirect_stdout(log), redirect_stderr(log):
            cloud.wait(signals)


def _tls(home: Home, *, devices: bool) -> ssl.SSLContext:
    """Return the server's side of TLS 1.2 and 1.3; for devices, one that demands a certificate of the home's CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # not every build of Python has it for a default
    context.load_cert_chain(home.server_certificate, home.server_key)
    if devices:
        context.load_verify_locations(home.ca_certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector away while moto's modules and tables are made: it would take as long as they do."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _ending_signals() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable on the first SIGINT or SIGTERM; any further one ends the process.

    Not by an exception of the handler, which is lost when it meets a destructor; nor by a lock or queue it releases,
    since a signal just before the wait for those wakes nobody. A byte in a socket stays.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def handle(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    reading, writing = socket.socketpair()
    with reading, writing:
        writing.setblocking(False)
        wakeup = signal.set_wakeup_fd(writing.fileno())
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield reading
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
