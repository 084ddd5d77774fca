"""The local cloud: starts and stops AWS's APIs, the enrollment API and the broker together."""

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
    """A cloud that runs in this process while it is entered; only mosquitto is a process of its own.

    There can be only one per process. While it runs, this process has the function's AWS variables, and the handler
    writes to this process's standard output and error. AWS starts empty: it does not know certificates from an earlier
    run, and the broker refuses them.

    Args:
        home: its folder, which is created with mode 0700 if it is missing. The CA in it stays for later runs.
        function: the folder of the Lambda function, with ``handler.py`` and ``template.yaml``; by default our own.
        auth: who may enroll: ``invite`` is whoever holds an invite, ``open`` is anyone.

    Attributes:
        endpoints: where it listens, once it is entered.
    """

    endpoints: Endpoints

    def __init__(self, home: Path, function: Path | None = None, auth: str = "open") -> None:
        self._home = Home(home.absolute())
        self._auth = auth
        self._function = function

    def __enter__(self) -> Self:
        """Start the cloud.

        Raises:
            LocalCloudError: something is missing, damaged or already running. What was started has been stopped again.
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
        """Wait until another socket is readable.

        Raises:
            LocalCloudError: the broker ended before that.
        """
        poll = select.poll()
        poll.register(other, select.POLLIN)
        poll.register(self._broker, select.POLLIN)
        if other.fileno() not in {descriptor for descriptor, _ in poll.poll()}:
            raise LocalCloudError(f"mosquitto ended unexpectedly; see {self._home.logs / 'mosquitto.log'}.")

    def _start(self, stack: ExitStack) -> None:
        # Imported here, so that only commands that start a cloud load moto, boto3 and werkzeug.
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
        # Imported only now: moto creates boto3 clients on import, which fails if the user's AWS_PROFILE does not exist.
        from hsm_enroll.local.aws import AwsApis, aws_server, deploy, fresh_account
        from hsm_enroll.local.gateway import Gateway, routes_of
        from hsm_enroll.local.server import KeepAliveHandler, LoopbackServer, log_file

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

        # The template has no parameter for the MQTT port, since AWS IoT's is fixed; here it is a free port.
        os.environ |= {**deployed.variables, "MQTT_PORT": str(gate.port)}
        handler = stack.enter_context(loaded_handler(function))
        log = log_file(stack, home.logs / "gateway.log")
        gateway = Gateway(routes_of(deployed.resources), handler, log)
        api = stack.enter_context(LoopbackServer(gateway, log, _tls(home, devices=False), KeepAliveHandler))

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

    The first signal stops the cloud in order, once it is up. A second signal ends the process at once; that leaves
    neither a process nor a lock behind, either.

    Args:
        home: its folder.
        on_ready: called once everything responds. From then on, this process's standard output and error, which only
            the handler writes to, go to ``logs/handler.log``.
        auth: ``invite`` or ``open``, see `LocalCloud`.

    Raises:
        LocalCloudError: it could not be started, or the broker ended unexpectedly.
    """
    with _stop_signals() as signals, LocalCloud(home, auth=auth) as cloud:
        gc.freeze()  # everything loaded so far stays in memory until the process ends
        on_ready(cloud.endpoints)
        log = (cloud.endpoints.home / "logs" / "handler.log").open("a", buffering=1)
        with log, redirect_stdout(log), redirect_stderr(log):
            cloud.wait(signals)


def _tls(home: Home, *, devices: bool) -> ssl.SSLContext:
    """Return a server's context for TLS 1.2 and 1.3; for devices, it requires a certificate from the home's CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # not the default in every build of Python
    context.load_cert_chain(home.server_certificate, home.server_key)
    if devices:
        context.load_verify_locations(home.ca_certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable the garbage collector while moto loads, which would otherwise take twice as long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _stop_signals() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable on the first SIGINT or SIGTERM; any further one ends the process.

    An exception in the handler would be lost if a destructor happens to run. A lock or a queue would miss a signal that
    arrives just before the wait. A byte in a socket stays there until it is read.
    """
    # One that is ignored from the start stays ignored, as for any program that a script starts with `&`.
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]

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
