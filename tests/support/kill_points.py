"""``hsm-enroll`` with named fault points around its effects: ``python -m tests.support.kill_points COMMAND …``.

``KILL_AT`` names a fault point: when it is reached, SIGKILL ends the whole process group, as a power cut would. Each
point that is reached is written to the file ``KILL_TRACE``. The product knows nothing of this: its effects are wrapped.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hsm_enroll.__main__ import main
from hsm_enroll.backend_api.transport import Transport
from hsm_enroll.device import round_trip, wiring
from hsm_enroll.device.steps import Steps
from hsm_enroll.store import files
from hsm_enroll.token import child, worker

_WANTED = os.environ.get("KILL_AT", "")
_TRACE = os.environ.get("KILL_TRACE", os.devnull)
_reached: Counter[str] = Counter()
_writing = threading.local()


def reach(name: str) -> None:
    """Pass a fault point, or die there; the second time that it is reached it is another one, ``NAME 2``."""
    _reached[name] += 1
    name = f"{name} {_reached[name]}" if _reached[name] > 1 else name
    with open(_TRACE, "a", encoding="utf-8") as trace:  # noqa: PTH123 - Path's own calls are wrapped
        trace.write(f"{name}\n")
    if name == _WANTED:
        os.killpg(0, signal.SIGKILL)
        threading.Event().wait()


def _around(holder: Any, function: str, name: Callable[..., str | None]) -> None:
    """Make a fault point before and after each call of a function; none where it has no name."""
    original = getattr(holder, function)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        called = name(*arguments, **options)
        if called is None:
            return original(*arguments, **options)
        reach(f"before {called}")
        result = original(*arguments, **options)
        reach(f"after {called}")
        return result

    setattr(holder, function, wrapped)


def _wrap_files() -> None:
    write = files.write

    def named(file: Path, *arguments: Any, **options: Any) -> None:
        _writing.name = f"write {file.name}"
        reach(f"before {_writing.name}")
        write(file, *arguments, **options)
        reach(f"after {_writing.name}")
        _writing.name = None

    def on_replace(*_: Any) -> str | None:
        name = getattr(_writing, "name", None)
        return name and f"{name}'s rename"

    files.write = named
    _around(Path, "replace", on_replace)
    _around(files, "remove", lambda file: f"remove {file.name}")


def _wrap_steps() -> None:
    step = Steps.step

    @contextmanager
    def wrapped(self: Steps, name: str) -> Iterator[None]:
        reach(f"before step {name}")
        with step(self, name):
            yield
        reach(f"after step {name}")

    Steps.step = wrapped  # type: ignore[method-assign]


def _wrap_requests() -> None:
    exchange = Transport.exchange

    def wrapped(
        self: Transport,
        method: str,
        target: str,
        body: bytes | None = None,
        on_sent: Callable[[], None] = lambda: None,
        media_type: str = "application/json",
    ) -> Any:
        def sent() -> None:
            reach(f"in {method} {target}")
            on_sent()

        reach(f"before {method} {target}")
        answer = exchange(self, method, target, body, sent, media_type)
        reach(f"after {method} {target}")
        return answer

    Transport.exchange = wrapped  # type: ignore[method-assign]


def _wrap_mqtt() -> None:
    connect = wiring.connect
    wrapped_classes: set[type] = set()

    def wrapped(*arguments: Any, **options: Any) -> Any:
        reach("before MQTT connect")
        connection = connect(*arguments, **options)
        reach("after MQTT connect")
        # Not before, since this loads awscrt, and a process that has loaded it cannot be forked.
        kind = type(connection)
        if kind not in wrapped_classes:
            wrapped_classes.add(kind)
            for method in ("subscribe", "publish", "close"):
                _around(kind, method, lambda *_, method=method, **__: f"MQTT {method}")
        return connection

    wiring.connect = wrapped
    _around(round_trip, "make", lambda *_: "MQTT round trip")


class _Halves:
    """A session whose objects are destroyed with a fault point after each."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_objects(self, *arguments: Any) -> list[Any]:
        """Return them."""
        return [_Half(found) for found in self._session.get_objects(*arguments)]


class _Half:
    def __init__(self, found: Any) -> None:
        self._found = found

    def destroy(self) -> None:
        """Destroy it."""
        self._found.destroy()
        reach("in token destroy")


def _wrap_worker() -> None:
    from hsm_enroll.token import keypair, serving

    server: Any = vars(serving)["_Server"]
    _around(server, "_response", lambda _, request: f"token {request['operation']}")
    destroy = keypair.destroy
    keypair.destroy = lambda session, **name: destroy(_Halves(session), **name)  # type: ignore[arg-type]
    generate = vars(keypair)["_generate"]

    def generated(*arguments: Any) -> None:
        generate(*arguments)
        reach("in token generate")

    vars(keypair)["_generate"] = generated


def _wrap_all() -> None:
    _wrap_files()
    _wrap_steps()
    _wrap_requests()
    _wrap_mqtt()
    _around(child, "start", lambda _: "worker start")
    _around(worker.Worker, "dismiss", lambda _: "worker dismiss")
    _around(worker.Worker, "end", lambda *_: "worker end")
    os.register_at_fork(after_in_child=_wrap_worker)


if __name__ == "__main__":
    _wrap_all()
    main()
