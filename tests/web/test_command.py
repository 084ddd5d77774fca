"""``hsm-enroll fleet web``: what it prints, how it ends, and what it says where it cannot begin."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests.client.conftest import shown_with_locals  # noqa: F401 - a fixture, found by its name
from tests.operator.api.conftest import operator_credentials, run  # noqa: F401 - fixtures
from tests.operator.api.running import Run
from tests.operator.api.stand_in import Backend, json_reply
from tests.support import documents
from tests.support.authority import Authority


@contextmanager
def _served(backend: Backend, authority: Authority, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield the command and what it has printed, once the page is served."""
    environment = {
        **{name: os.environ[name] for name in os.environ if name.startswith("AWS_")},
        "HSM_ENROLL_API_URL": backend.url,
        "HSM_ENROLL_CA_FILE": str(authority.certificate),
        "HSM_ENROLL_HOME": os.environ["HSM_ENROLL_HOME"],
    }
    command = [sys.executable, "-m", "hsm_enroll", "fleet", "web", *options]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            while "--json" in options and lines[-1] != "}\n":
                lines.append(process.stdout.readline())
            yield process, "".join(lines)
        finally:
            process.kill()


@pytest.mark.usefixtures("operator_credentials")
@pytest.mark.parametrize(
    ("options", "ending", "status", "said"),
    [
        ([], signal.SIGINT, 130, "- open this address in a browser on this machine; Ctrl-C ends the page\n"),
        (["--quiet"], signal.SIGTERM, 143, ""),
    ],
)
def test_it_serves_until_it_is_ended(
    backend: Backend, authority: Authority, options: list[str], ending: signal.Signals, status: int, said: str
) -> None:
    """stdout has the address and nothing else; no request is logged; Ctrl-C and SIGTERM end it with their statuses."""
    with _served(backend, authority, *options) as (process, url):
        opener = build_opener(HTTPCookieProcessor())
        with opener.open(url.strip(), timeout=30) as page:
            assert "<h1>Things</h1>" in page.read().decode()
        process.send_signal(ending)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "")
    assert err == said


@pytest.mark.usefixtures("operator_credentials")
def test_a_script_gets_a_document(backend: Backend, authority: Authority) -> None:
    """With --json the address is a document that matches its schema; a port that was chosen is used."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with _served(backend, authority, "--port", str(port), "--json") as (process, printed):
        assert f"http://127.0.0.1:{port}/" in documents.read(["fleet", "web"], printed)["url"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_port_that_is_in_use_is_an_error(run: Run) -> None:  # noqa: F811 - the fixture
    """It says which option chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("fleet", "web", "--port", port, "--json")
    assert result.status == 2
    error = result.document["error"]
    assert error["message"] == f"port {port} on 127.0.0.1 cannot be used: Address already in use"
    assert "--port" in error["hint"]


@pytest.mark.usefixtures("operator_credentials")
def test_an_operator_whom_iam_does_not_admit_is_told_on_the_command_line(
    backend: Backend, authority: Authority
) -> None:
    """Nothing is served then."""
    backend.replies[len(backend.received)] = json_reply(403, {"message": "Forbidden"})
    with _served(backend, authority) as (process, printed):
        _, err = process.communicate(timeout=30)
    assert (process.returncode, printed) == (31, "")
    assert "execute-api:Invoke" in err


def test_without_flask_it_says_how_to_install_it(
    run: Run,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The extra is web; no other command of the fleet needs it."""
    monkeypatch.setattr("hsm_enroll.extras.find_spec", lambda name: None if name == "flask" else object())
    error = run("fleet", "web", "--json").document["error"]
    assert (error["code"], "extra 'web'; not installed: flask" in error["message"]) == ("usage", True)
    assert run("fleet", "list").status == 0


def test_other_commands_do_not_load_it(tmp_path: Path) -> None:
    """flask is imported by this command alone."""
    program = (
        "import sys\nfrom hsm_enroll import cli\ncli.run(['fleet', 'list', '--help'])\ncli.run(['fleet', 'list'])\n"
        "assert 'hsm_enroll.cli.web' in sys.modules\nassert not {'flask', 'jinja2', 'segno'} & {*sys.modules}\n"
    )
    environment = {"HSM_ENROLL_HOME": str(tmp_path), "HSM_ENROLL_API_URL": "http://127.0.0.1:1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
