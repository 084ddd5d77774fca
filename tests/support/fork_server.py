"""An interpreter that has loaded what the commands need, and becomes ``hsm-enroll`` in a fork for each command.

``python -m tests.support.fork_server DESCRIPTOR``, of a socket on which :mod:`tests.support.commands` asks. Loading is
half of what a command costs. What a process may not have loaded before it forks (``hsm_enroll.token.child``) stays each
command's own to load.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import socket
import sys
from contextlib import suppress
from typing import Any

from hsm_enroll.token.child import may_fork

_LIBRARIES = ("asn1crypto.csr", "asn1crypto.keys", "asn1crypto.x509", "cryptography.x509", "requests", "rich.console")
# All of the gateway but ``token`` and ``iot``, which load python-pkcs11 and awscrt. (So does boto3, the operator's.)
_ROOMS = ("backend_api", "cli", "device", "doctor", "store", "x509")
_MESSAGE_BYTES = 2**18
_STREAMS = 3


def _next_command(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request, and return in the fork, with the command's standard streams in place.

    A request's descriptors are the three streams, and a socket that is told the process's id and then its exit status.
    """
    with requests, selectors.DefaultSelector() as selector:
        requests.send(b"ready")
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for ready, _ in selector.select():
                if ready.data is not None:
                    selector.unregister(ready.fd)
                    _tell_end(ready.fd, *ready.data)
                    continue
                request, descriptors, *_ = socket.recv_fds(requests, _MESSAGE_BYTES, _STREAMS + 1)
                if not request:
                    sys.exit()
                process = os.fork()
                if process == 0:
                    for number, descriptor in enumerate(descriptors[:_STREAMS]):
                        os.dup2(descriptor, number)
                    command: dict[str, Any] = json.loads(request)
                    return command
                *streams, reply = descriptors
                for descriptor in streams:
                    os.close(descriptor)
                os.write(reply, str(process).encode())
                selector.register(os.pidfd_open(process), selectors.EVENT_READ, (process, reply))


def _tell_end(pidfd: int, process: int, reply: int) -> None:
    os.close(pidfd)
    _, status = os.waitpid(process, 0)
    # Whoever asked may not wait any more.
    with suppress(BrokenPipeError):
        os.write(reply, str(os.waitstatus_to_exitcode(status)).encode())
    os.close(reply)


if __name__ == "__main__":
    for library in _LIBRARIES:
        importlib.import_module(library)
    for room in _ROOMS:
        package = importlib.import_module(f"hsm_enroll.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    assert may_fork(), "a command that is forked from here would not fork its worker"
    gc.freeze()
    asked = _next_command(socket.socket(fileno=int(sys.argv[1])))
    os.closerange(_STREAMS, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.path[0] = asked["folder"]
    sys.argv[1:] = asked["arguments"]
    runpy.run_module("hsm_enroll", run_name="__main__", alter_sys=True)
