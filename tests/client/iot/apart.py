"""Processes of their own for what uses awscrt: one that has is spoilt for the next test."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from hsm_enroll.iot import Connection, Fallbacks, OnConnection, Target, Will, keep
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from tests.support.softhsm import PIN

_TIME_LIMIT = 60.0

# Each is a fork of a process that has loaded what others have written, but for what loads modules.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "cryptography.x509", "asn1crypto.x509"])

P = ParamSpec("P")
T = TypeVar("T")


def apart(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function in a process of its own, and return or raise what it does."""
    with ProcessPoolExecutor(1, _FORKS, _take_over, (dict(os.environ),)) as pool:
        running = pool.submit(function, *arguments, **options)
        try:
            return running.result(_TIME_LIMIT)
        except TimeoutError:  # otherwise the pool would wait for it for ever
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _take_over(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def connect(
    identity: Identity,
    pin: Secret | None,
    *,
    purpose: str | None = None,
    ca_file: Path | None,
    endpoint: str | None = None,
    port: int | None = None,
    tls13: bool = False,
    keep_alive: int = 60,
    will: Will | None = None,
    reconnects: bool = False,
    on_connection: OnConnection | None = None,
    timeout: float = 20.0,
) -> Connection:
    """Connect in this process."""
    target = Target.of(
        identity,
        purpose=purpose,
        ca_file=ca_file,
        endpoint=endpoint,
        port=port,
        tls13=tls13,
        keep_alive=keep_alive,
        will=will,
        connect_timeout=timeout,
    )
    return Connection(keep(target, lambda: pin, reconnects=reconnects, on_connection=on_connection))


def publish_apart(
    identity: Identity,
    topic: str,
    payload: bytes,
    *,
    ca_file: Path | None,
    endpoint: str | None = None,
    port: int | None = None,
    tls13: bool = False,
    timeout: float = 20.0,
) -> Fallbacks:
    """Connect as ``hsm-enroll publish`` does, publish one message, and return what the connection did without."""
    return apart(_publish, identity, topic, payload, ca_file, endpoint, port, tls13, timeout)


def connect_apart(
    identity: Identity, *, purpose: str, ca_file: Path, port: int | None = None, tls13: bool = False
) -> Fallbacks:
    """Connect and disconnect, and return what the connection did without."""
    return apart(_connect, identity, purpose, ca_file, port, tls13)


def _publish(
    identity: Identity,
    topic: str,
    payload: bytes,
    ca_file: Path | None,
    endpoint: str | None,
    port: int | None,
    tls13: bool,
    timeout: float,
) -> Fallbacks:
    with connect(
        identity,
        PIN,
        purpose="publish",
        ca_file=ca_file,
        endpoint=endpoint,
        port=port,
        tls13=tls13,
        timeout=timeout,
    ) as connection:
        connection.publish(topic, payload, timeout=timeout)
        return connection.fallbacks


def _connect(identity: Identity, purpose: str, ca_file: Path, port: int | None, tls13: bool) -> Fallbacks:
    with connect(identity, PIN, purpose=purpose, ca_file=ca_file, port=port, tls13=tls13) as connection:
        return connection.fallbacks
