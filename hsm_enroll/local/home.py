"""The folder of one local cloud: its files, and the lock that says whether it runs."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from hsm_enroll.errors import LocalCloudError, StateCorruptError, StateError
from hsm_enroll.local.endpoints import Endpoints
from hsm_enroll.local.options import Ports
from hsm_enroll.store import documents

_STATE = documents.Format()
_PORTS = documents.Format()


def default_home() -> Path:
    """Return ``$XDG_STATE_HOME/hsm-enroll/local``, or the same below ``~/.local/state`` (XDG Base Directory)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # "All paths set in these environment variables must be absolute", else they are to be ignored.
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "hsm-enroll" / "local"


class Pair(NamedTuple):
    """A certificate and its private key, both in PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Home:
    """The files of one local cloud.

    Attributes:
        folder: absolute path; mode 0700 once `prepare` has run.
    """

    folder: Path

    def command(self, words: str) -> str:
        """Return a command about this cloud, such as ``down``, as it is to be typed."""
        option = "" if self.folder == default_home() else f" --home {shlex.quote(str(self.folder))}"
        return f"hsm-enroll local {words}{option}"

    @property
    def lock_file(self) -> Path:
        return self.folder / "lock"

    @property
    def state_file(self) -> Path:
        return self.folder / "cloud.json"

    @property
    def ca_certificate(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.folder / "ca.key"

    @property
    def server_certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.folder / "server.key"

    @property
    def observer_certificate(self) -> Path:
        return self.folder / "observer.pem"

    @property
    def observer_key(self) -> Path:
        return self.folder / "observer.key"

    @property
    def mosquitto_configuration(self) -> Path:
        return self.folder / "mosquitto.conf"

    @property
    def kept_state(self) -> Path:
        return self.folder / "kept-state"

    @property
    def kept_ports(self) -> Path:
        return self.folder / "kept-ports.json"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def prepare(self) -> None:
        """Create the folders, readable by their owner only.

        Raises:
            LocalCloudError: the folder cannot be made or is not ours.
        """
        try:
            self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise LocalCloudError(
                f"The local cloud's home {self.folder} cannot be used: {error.strerror}.",
                hint="Name a folder of your own as its home.",
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home for this process; the kernel lets go of it however the process ends.

        Raises:
            LocalCloudError: another local cloud holds it, or it cannot be locked.
        """
        with self.lock_file.open("a") as lock:
            if not self._try_lock(lock, fcntl.LOCK_EX):
                raise LocalCloudError(
                    f"A local cloud already runs in {self.folder}.",
                    hint=f"Use that one, or choose another home. To end it: {self.command('down')}",
                )
            # A process that was killed left both behind.
            lock.truncate(0)
            self.state_file.unlink(missing_ok=True)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                yield
            finally:
                self.state_file.unlink(missing_ok=True)
                lock.truncate(0)

    def holder(self) -> int | None:
        """Return the id of the process that holds the home, or None: a process that was killed holds nothing."""
        try:
            with self.lock_file.open() as lock:
                if self._try_lock(lock, fcntl.LOCK_SH):
                    return None
                return int(lock.read() or "0") or None
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise LocalCloudError(f"{self.lock_file} cannot be read.") from error

    def _try_lock(self, lock: IO[str], kind: int) -> bool:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise LocalCloudError(
                f"The local cloud's home {self.folder} cannot be locked: {error.strerror}.",
                hint="Its file system may not support locks (flock): choose a home on a local disk.",
            ) from error
        return True

    def write_pair(self, certificate: Path, key: Path, pair: Pair) -> None:
        """Write a certificate and its key."""
        write(certificate, pair.certificate)
        write(key, pair.key)

    def write_state(self, endpoints: Endpoints) -> None:
        """Record where this process's cloud listens.

        Raises:
            LocalCloudError: it cannot be written.
        """
        try:
            _STATE.save(self.state_file, endpoints.to_json(), unknown={})
        except StateError as error:
            raise LocalCloudError(error.message) from error

    def keep_ports(self, ports: Ports) -> None:
        """Record the ports of a cloud whose state is kept, so that its addresses stay the same.

        Raises:
            LocalCloudError: they cannot be written.
        """
        try:
            _PORTS.save(self.kept_ports, ports._asdict(), unknown={})
        except StateError as error:
            raise LocalCloudError(error.message) from error

    def read_kept_ports(self) -> Ports:
        """Return the ports from `keep_ports`, or zeros if there are none.

        Raises:
            LocalCloudError: the record is damaged, or cannot be read.
            StateTooNewError: a newer version of this program wrote it.
        """
        try:
            kept = _PORTS.load(self.kept_ports, _ports)
        except (StateError, StateCorruptError, KeyError, TypeError) as error:
            raise LocalCloudError(
                f"{self.kept_ports} cannot be read.", hint=f"Remove it to get other ports: rm {self.kept_ports}"
            ) from error
        return kept or Ports()

    def read_state(self) -> Endpoints | None:
        """Return where the cloud that holds the home listens, or None if none is running.

        Raises:
            LocalCloudError: the record is damaged, or cannot be read.
            StateTooNewError: a newer version of this program started the cloud.
        """
        if self.holder() is None:
            return None
        try:
            return _STATE.load(self.state_file, Endpoints.from_json)
        except (StateError, StateCorruptError, KeyError, TypeError) as error:
            raise LocalCloudError(f"{self.state_file} cannot be read.") from error


def write(path: Path, content: bytes) -> None:
    """Replace a file at one stroke, readable by its owner only: its reader never sees half of it."""
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(path)


def _ports(members: dict[str, object]) -> Ports:
    came_later = {"credentials": 0, "est": 0}
    return Ports(**{name: _port({**came_later, **members}[name]) for name in Ports._fields})


def _port(number: object) -> int:
    port = int(str(number))
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"{port} is not a TCP port")
    return port
