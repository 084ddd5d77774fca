"""The local cloud: starts and stops AWS's APIs, the enrollment API and the broker together."""

from __future__ import annotations

import gc
import logging
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.detached import detach, down, fail, restart, running
from hsm_enroll.local.endpoints import (
    ACCESS_KEY_ID,
    CREDENTIALS_ENDPOINT,
    MQTT_ENDPOINT,
    SECRET_ACCESS_KEY,
    Endpoints,
)
from hsm_enroll.local.home import Home, default_home
from hsm_enroll.local.options import DEFAULTS, Options, Ports
from hsm_enroll.local.stop_signals import stop_signals

if TYPE_CHECKING:
    from hsm_enroll.local.authority import Authority

__all__ = [
    "Endpoints",
    "LocalCloud",
    "Options",
    "Ports",
    "default_home",
    "detach",
    "down",
    "fail",
    "restart",
    "running",
    "serve",
]


class LocalCloud:
    """A cloud that runs in this process while it is entered; only mosquitto is a process of its own.

    There can be only one per process. While it runs, this process has the function's AWS variables, and the handler
    writes to this process's standard output and error. Unless the options say to keep its state, AWS starts empty: it
    does not know certificates from an earlier run, and the broker refuses them.

    Args:
        home: its folder, which is created with mode 0700 if it is missing. The CA in it stays for later runs.
        function: the folder of the Lambda function, with ``handler.py`` and ``template.yaml``; by default our own.
        options: who may enroll, which ports it has, and whether its state is kept.

    Attributes:
        endpoints: where it listens, once it is entered.
    """

    endpoints: Endpoints

    def __init__(self, home: Path, function: Path | None = None, options: Options = DEFAULTS) -> None:
        self._home = Home(home.absolute())
        self._options = options
        self._function = function or backend_folder()
        self._is_up = False

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
            LocalCloudError: the broker ended before that, again and again.
        """
        poll = select.poll()
        poll.register(other, select.POLLIN)
        poll.register(self._broker, select.POLLIN)
        if other.fileno() not in {descriptor for descriptor, _ in poll.poll()}:
            raise LocalCloudError(f"mosquitto ended too often; see {self._home.logs / 'mosquitto.log'}.")

    def restart(self, target: str) -> None:
        """End a part of the cloud, with all of its connections, and start it again.

        Args:
            target: ``broker`` or ``api``.

        Raises:
            LocalCloudError: it does not start.
        """
        restart = {"broker": self._broker.restart, "api": self._api.restart}[target]
        restart()

    def fail(self, fault: str, count: int) -> None:
        """Let something go wrong with the next requests to the enrollment API.

        Args:
            fault: a value of `faults.Fault`.
            count: number of requests.
        """
        from hsm_enroll.local.faults import Fault

        self._api.fail(Fault(fault), count)

    def _start(self, stack: ExitStack) -> None:
        # Imported here, so that only commands that start a cloud load moto, boto3 and werkzeug.
        from hsm_enroll.local.authority import Authority
        from hsm_enroll.local.lambda_runtime import REGION, environment
        from hsm_enroll.local.mosquitto import Mosquitto
        from hsm_enroll.local.server import log_file

        home = self._home
        home.prepare()
        stack.enter_context(home.locked())
        listeners = self._listen(stack)
        authority = Authority.of(home)
        home.write_pair(home.server_certificate, home.server_key, authority.issue_server())
        home.write_pair(home.observer_certificate, home.observer_key, authority.issue_observer())
        mqtt_log = log_file(stack, home.logs / "mqtt.log")
        self._broker = stack.enter_context(Mosquitto(home, mqtt_log, keep=self._options.keep))
        credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}
        stack.enter_context(environment({"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, **credentials}))
        self._start_services(stack, authority, listeners, mqtt_log)

    def _start_services(
        self, stack: ExitStack, authority: Authority, listeners: Mapping[str, socket.socket], mqtt_log: logging.Logger
    ) -> None:
        # Imported only now: moto creates boto3 clients on import, which fails if the user's AWS_PROFILE does not exist.
        from hsm_enroll.local import keeping, tls
        from hsm_enroll.local.admission import Admission
        from hsm_enroll.local.api import Api
        from hsm_enroll.local.aws import AwsApis, aws_server, deploy, fresh_account, iot_backend
        from hsm_enroll.local.control import Commands, Control
        from hsm_enroll.local.credentials_provider import CredentialsProvider
        from hsm_enroll.local.data_plane import publishing
        from hsm_enroll.local.gate import Gate
        from hsm_enroll.local.gateway import routes_of
        from hsm_enroll.local.role_alias import PARAMETERS as DEFAULT_ROLE_ALIAS
        from hsm_enroll.local.server import KeepAliveHandler, LoopbackServer, log_file
        from hsm_enroll.local.stack_outputs import api_outputs

        home, keep, endpoints = self._home, self._options.keep, self.endpoints
        stack.enter_context(fresh_account(authority))
        if keep:
            keeping.restore(home)
        stack.callback(self._save)  # once AWS's APIs have stopped
        stack.enter_context(api_outputs(endpoints.api_url))
        gate = stack.enter_context(Gate(listeners["mqtt"], tls.for_devices(home), self._broker.open, mqtt_log))
        stack.enter_context(publishing(gate.publish))
        apis = AwsApis()
        stack.enter_context(aws_server(apis, listeners["aws"], log_file(stack, home.logs / "aws.log")))
        os.environ["AWS_ENDPOINT_URL"] = endpoints.aws_endpoint_url
        parameters = {"MqttEndpoint": MQTT_ENDPOINT, "CredentialsEndpoint": CREDENTIALS_ENDPOINT}
        if self._options.attestation is not None:
            parameters["Attestation"] = self._options.attestation
        defaults = {"AuthMode": "open", **DEFAULT_ROLE_ALIAS}
        if self._options.auth is not None:
            parameters["AuthMode"] = self._options.auth
        deployed = deploy(self._function / "template.yaml", parameters, defaults)
        admission = Admission(gate, iot_backend(), home.observer_certificate.read_bytes(), mqtt_log)
        apis.after_change = admission.synchronise
        apis.after_change()
        credentials_log = log_file(stack, home.logs / "credentials.log")
        provider = CredentialsProvider(admission, apis, credentials_log)
        demanding = tls.for_client_certificates(home)
        stack.enter_context(
            LoopbackServer(provider, listeners["credentials"], credentials_log, demanding, KeepAliveHandler)
        )

        # The template has no parameters for these ports, since AWS IoT's are fixed; here they can be any.
        ports = {"MQTT_PORT": str(endpoints.mqtt_port), "CREDENTIALS_PORT": str(endpoints.credentials_port)}
        trusted = {"TRUST_ANCHORS_FILE": str(home.ca_certificate)}
        os.environ |= {**deployed.variables, **ports, **trusted}
        log = log_file(stack, home.logs / "gateway.log")
        routes = routes_of(deployed.resources)
        served = ((listeners["api"], tls.for_api(home)), (listeners["est"], demanding))
        self._api = stack.enter_context(Api(self._function, routes, served, log))
        commands: Commands = {
            "restart": self.restart,
            "fail": self.fail,
            "save": partial(apis.between_calls, self._save),
        }
        stack.enter_context(Control(home, commands))
        if keep:
            home.keep_ports(Ports(*map(_port, listeners.values())))
        home.write_state(endpoints)
        self._is_up = True

    def _listen(self, stack: ExitStack) -> Mapping[str, socket.socket]:
        """Open the listening sockets; return them by the names of `Ports`."""
        from hsm_enroll.local.lambda_runtime import REGION
        from hsm_enroll.local.server import listen

        home, ports = self._home, self._options.ports
        if self._options.keep:
            ports = ports.or_else(home.read_kept_ports())
        listeners = {
            name: stack.enter_context(listen(port, f"--{name}-port")) for name, port in ports._asdict().items()
        }
        self.endpoints = Endpoints(
            api_url=f"https://localhost:{_port(listeners['api'])}",
            mqtt_endpoint=MQTT_ENDPOINT,
            mqtt_port=_port(listeners["mqtt"]),
            ca_file=home.ca_certificate,
            aws_endpoint_url=f"http://127.0.0.1:{_port(listeners['aws'])}",
            credentials_endpoint=CREDENTIALS_ENDPOINT,
            credentials_port=_port(listeners["credentials"]),
            est_url=f"https://localhost:{_port(listeners['est'])}",
            region=REGION,
            home=home.folder,
            observer_certificate=home.observer_certificate,
            observer_key=home.observer_key,
        )
        return listeners

    def _save(self) -> None:
        from hsm_enroll.local import keeping

        if self._options.keep and self._is_up:
            keeping.save(self._home)


def serve(home: Path, on_ready: Callable[[Endpoints], None], options: Options = DEFAULTS) -> None:
    """Run a local cloud until SIGINT or SIGTERM, in the main thread.

    The first signal stops the cloud in order, once it is up. A second signal ends the process at once; that leaves
    neither a process nor a lock behind, either.

    Args:
        home: its folder.
        on_ready: called once everything responds. From then on, this process's standard output and error, which only
            the handler writes to, go to ``logs/handler.log``.
        options: see `LocalCloud`.

    Raises:
        LocalCloudError: it could not be started, the broker ended too often, or its state could not be kept.
    """
    with stop_signals() as signals, LocalCloud(home, options=options) as cloud:
        gc.freeze()  # everything loaded so far stays in memory until the process ends
        with (cloud.endpoints.home / "logs" / "handler.log").open("a", buffering=1) as log:
            on_ready(cloud.endpoints)
            with redirect_stdout(log), redirect_stderr(log):
                cloud.wait(signals)


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


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
