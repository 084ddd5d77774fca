"""``publish --queue``, and what ``status`` says of the outbox: no network, no token, no PIN."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsm_enroll.cli import documents
from hsm_enroll.store import forwarder
from hsm_enroll.store.forwarder import ForwardReport, LastError
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
from tests.support.devices import Machine
from tests.support.identities import identity

_TOPIC = "device/gateway-7/temperature"
_NOT_RUNNING = "It waits in the outbox: hsm-enroll forward is not running.\n"
_AT = datetime(2026, 11, 26, 14, 2, 11, tzinfo=UTC)
_LIMITS = OutboxLimits(max_bytes=2**30)
_TOKEN_MISSING = 11


@pytest.fixture
def device(tmp_path: Path) -> Machine:
    """An enrolled device whose token is away, without a PIN, and with a broker that does not exist."""
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    made = Machine(tmp_path, {}, {"SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf")})
    made.home.mkdir(mode=0o700)
    identity(mqtt_endpoint="broker.invalid").save(made.home)
    return made


def _payloads(device: Machine) -> list[bytes]:
    with Outbox.open(device.home, _LIMITS) as outbox:
        return [message.payload for message in outbox.next(0, 100)]


def test_a_queued_message_is_on_the_disk_when_the_command_returns(device: Machine) -> None:
    """It is text or bytes from stdin, and in order; the command says that it is queued, and that nobody sends it."""
    run = device.run("publish", "--queue", _TOPIC, "21.5")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"queued 4 bytes for {_TOPIC}\n", _NOT_RUNNING)
    assert device.run("publish", _TOPIC, "--queue", stdin="\N{SNOWMAN}").stdout == f"queued 3 bytes for {_TOPIC}\n"
    assert device.json("publish", "--queue", _TOPIC, "x") == {"queued": {"topic": _TOPIC, "bytes": 1}}
    assert device.run("publish", "--queue", "--quiet", _TOPIC, "x").stderr == ""
    assert _payloads(device) == [b"21.5", "\N{SNOWMAN}".encode(), b"x", b"x"]


def test_while_the_forwarder_runs_there_is_nothing_to_add(device: Machine) -> None:
    """Whoever has set it up reads no notice."""
    with forwarder.running(device.home):
        assert device.run("publish", "--queue", _TOPIC, "21.5").stderr == ""


@pytest.mark.parametrize("topic", ["a/#", "", "1/2/3/4/5/6/7/8/9"])
def test_what_cannot_be_published_is_not_queued(device: Machine, topic: str) -> None:
    """Wrong usage is found now, and not by the forwarder."""
    assert device.refused("publish", "--queue", topic, "x") == (2, "usage")
    assert _payloads(device) == []


def test_a_full_outbox_has_its_own_code(device: Machine) -> None:
    """It is exit 50, and the error says what to do."""
    device.extra["HSM_ENROLL_OUTBOX_BYTES"] = str(1024**2)
    with Outbox.open(device.home, OutboxLimits(max_bytes=1024**2)) as outbox:
        outbox.add(*[NewMessage(_TOPIC, bytes(100_000))] * 10)
    error = device.error("publish", "--queue", _TOPIC, stdin="x" * 100_000)
    assert (error["exitStatus"], error["code"], error["retryable"]) == (50, "outbox-full", True)


def test_a_device_that_is_not_enrolled_has_no_outbox(tmp_path: Path) -> None:
    """There is no Thing as which the message could be sent."""
    assert Machine(tmp_path, {}).refused("publish", "--queue", _TOPIC, "x") == (3, "not-enrolled")
    assert not (tmp_path / "home").exists()


def test_queueing_starts_no_other_process(device: Machine) -> None:
    """Neither a worker for the token nor anything else: a small device may queue a message a second."""
    program = (
        "import sys\n"
        "def audit(event, _):\n"
        "    if event in {'os.fork', 'os.forkpty', 'os.posix_spawn', 'subprocess.Popen', 'socket.connect'}:\n"
        "        print('STARTED', event, file=sys.stderr)\n"
        "sys.addaudithook(audit)\n"
        "from hsm_enroll.__main__ import main\n"
        "main()\n"
    )
    started = {}
    for options in (["--queue"], []):
        command = [sys.executable, "-c", program, "publish", _TOPIC, "x", *options]
        run = subprocess.run(command, env=device.environment, capture_output=True, text=True, timeout=60, check=False)
        started[bool(options)] = "STARTED" in run.stderr
    assert started == {True: False, False: True}


def test_status_shows_the_outbox_and_the_forwarder(device: Machine) -> None:
    """How many wait and since when, what was refused, and whether the forwarder is connected; also without a token."""
    with Outbox.open(device.home, _LIMITS) as outbox:
        outbox.add(*[NewMessage(_TOPIC, b"x")] * 3)
        outbox.set_aside(outbox.next(0, 1)[0].id, "NOT_AUTHORIZED")
    shown = device.json("status", status=_TOKEN_MISSING)
    age = shown["outbox"].pop("oldestAge")
    assert 0 < age < 300
    size = shown["outbox"].pop("bytes")
    assert size > 2 * len(_TOPIC)
    kept = shown["outbox"].pop("refusedBytes")
    assert 2 * kept == size
    assert shown["outbox"] == {"messages": 2, "refused": 1, "dropped": 0, "expired": 0, "damagedFiles": []}
    assert shown["forward"] == {
        "running": False,
        "responding": False,
        "connected": False,
        "connectedSince": None,
        "rate": 0.0,
        "repeated": 0,
        "received": 0,
        "unread": 0,
        "lastError": None,
    }
    *identity, _, _, _ = rows = device.run("status").stdout.splitlines()
    assert identity[-1].startswith("Attested     no: ")
    rows = rows[-3:]
    assert rows[0].startswith("Outbox       2 messages wait (")
    assert rows[1:] == [
        "             1 refused by the broker; see hsm-enroll outbox refused",
        "Forward      not running",
    ]

    report = ForwardReport(_AT, 17, 12.25, LastError("mqtt-failed", "lost", _AT), received=7, unread=3, repeated=5)
    with forwarder.running(device.home):
        report.save(device.home)
        shown = device.json("status", status=_TOKEN_MISSING)["forward"]
        rows = device.run("status").stdout.splitlines()[-2:]
    assert shown == {
        "running": True,
        "responding": True,
        "connected": True,
        "connectedSince": "2026-11-26T14:02:11Z",
        "rate": 12.25,
        "repeated": 5,
        "received": 7,
        "unread": 3,
        "lastError": {"code": "mqtt-failed", "message": "lost", "at": "2026-11-26T14:02:11Z"},
    }
    assert rows == [
        "Forward      connected since 2026-11-26 14:02 UTC, 12 messages a second",
        "             last error at 2026-11-26 14:02 UTC: lost",
    ]


@pytest.mark.parametrize(
    ("seconds", "is_connected", "said"),
    [
        (-0.2, True, "before that, at 2026-11-26 14:02 UTC: lost"),
        (0.2, True, "last error at 2026-11-26 14:02 UTC: lost"),
        (-0.2, False, "last error at 2026-11-26 14:02 UTC: lost"),
    ],
    ids=["before", "since", "unconnected"],
)
def test_status_tells_errors_of_the_connection_from_earlier_ones(
    tmp_path: Path, seconds: float, is_connected: bool, said: str
) -> None:
    """What went wrong before there was a connection again is not shown as if it were still so."""
    since = _AT + timedelta(seconds=0.5)
    error = LastError("mqtt-failed", "lost", since + timedelta(seconds=seconds))
    with forwarder.running(tmp_path):
        ForwardReport(connected_since=since if is_connected else None, last_error=error).save(tmp_path)
        state = forwarder.ForwarderState.load(tmp_path)
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        text = documents.outbox_text(outbox.state(), state)
    assert text.splitlines()[-1].strip() == said


def test_status_of_a_device_that_does_not_queue_is_as_before(device: Machine) -> None:
    """The text has no row about it, and looking creates nothing; the document has zeros."""
    run = device.run("status")
    assert "Outbox" not in run.stdout
    assert "Forward" not in run.stdout
    shown = device.json("status", status=_TOKEN_MISSING)["outbox"]
    assert (shown["messages"], shown["oldestAge"]) == (0, None)
    assert sorted(file.name for file in device.home.iterdir()) == ["certificate.pem", "identity.json"]


def test_status_warns_of_a_damaged_outbox(device: Machine) -> None:
    """D21: the file that was set aside is named, in the document and on stderr; new messages are taken."""
    (device.home / "outbox.db").write_bytes(b"not a database" * 100)
    assert device.run("publish", "--queue", _TOPIC, "x").returncode == 0
    (file,) = device.json("status", status=_TOKEN_MISSING)["outbox"]["damagedFiles"]
    assert Path(file).read_bytes() == b"not a database" * 100
    assert f"warning: the outbox was damaged, and messages may be lost; what is left of it: {file}" in (
        device.run("status").stderr
    )


def test_an_outbox_that_cannot_be_read_does_not_hide_the_identity(device: Machine) -> None:
    """D12: it is null in the document, and a warning says why."""
    (device.home / "outbox.db").mkdir()
    shown = device.json("status", status=_TOKEN_MISSING)
    assert (shown["thingName"], shown["outbox"]) == ("gateway-7", None)
    run = device.run("status")
    assert "Thing        gateway-7" in run.stdout
    assert "outbox.db cannot be used" in run.stderr
