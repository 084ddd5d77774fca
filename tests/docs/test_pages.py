"""The pages keep their word: what they tell a reader to type is typed, and what they show is what comes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsm_enroll import settings
from hsm_enroll.local.cloud import down
from hsm_enroll.version import __version__
from tests.docs import chip
from tests.docs.shell import Shell
from tests.docs.shown import matches
from tests.support.pages import PAGES, REFERENCE, ROOT, TRANSLATIONS, Block, Command, Page, commands
from tests.support.softhsm import SoftHsm

# What pip needs to reach its packages here, whatever that takes.
_PIP = re.compile(r"(pip_.*|https?_proxy|ssl_cert_.*|requests_ca_bundle)", re.IGNORECASE)

# Shell blocks that no test types as they stand, and the page they are on; each has a test of its own.
_NOT_TYPED = {
    ("README.md", "scripts/demo\nscripts/test\n"),  # test_scripts runs the one, and is a part of the other
    # scripts/test-package does it on a machine of its own
    ("docs/technician.md", f"apt-get install ./hsm-enroll_{__version__}-1_amd64.deb\n"),
    ("docs/technician.md", "apt-get purge hsm-enroll\n"),
    # needs root and changes the machine
    (
        "docs/technician.md",
        (
            "apt-get install python3-pip gcc libc6-dev pkg-config python3-dev libtss2-dev uuid-dev\n"
            "python3 -m pip install --target /usr/local/lib/hsm-enroll --no-deps tpm2-pytss packaging\n"
        ),
    ),
    ("README.md", "apt-get install python3-venv softhsm2 mosquitto\n"),  # needs root and changes the machine
    # so does this; the README's commands do the same in a home folder
    (
        "docs/technician.md",
        (
            "apt-get install python3-venv softhsm2\npython3 -m venv /opt/hsm-enroll\n"
            "/opt/hsm-enroll/bin/pip install --constraint constraints.txt .\n"
            "ln -s /opt/hsm-enroll/bin/hsm-enroll /usr/local/bin/\n"
        ),
    ),
    # needs an AWS account; tests/operator and tests/e2e do the same on moto
    (
        "docs/operator.md",
        "pip install '.[operator]'\nhsm-enroll backend deploy\nhsm-enroll invite create --thing gateway-17\n",
    ),
    # needs an AWS account; tests/operator/test_iam.py replaces the placeholders and evaluates the policies
    (
        "docs/operator.md",
        (
            "sed -e s/REGION/eu-central-1/ -e s/ACCOUNT/123456789012/ -e s/API/a1b2c3d4e5/ docs/iam/inviter.json "
            ">inviter.json\naws iam create-policy --policy-name hsm-enroll-inviter --policy-document "
            "file://inviter.json\n"
        ),
    ),
    # needs an AWS account; tests/operator/test_deployment_options.py runs it on moto
    (
        "docs/operator.md",
        "hsm-enroll backend deploy --alarm-email on-call@example.com --tag team=factory --tag cost-center=4711\n",
    ),
    # so does this; tests/operator/test_role_alias.py runs it on moto
    ("docs/operator.md", "hsm-enroll backend deploy --role-alias gateways --role-policy role.json\n"),
    # these need a machine that systemd has started; scripts/booted/test_life.py runs them as they stand
    ("docs/technician.md", "systemctl daemon-reload\nsystemctl enable --now hsm-enroll-renewed.path\n"),
    (
        "docs/technician.md",
        (
            "mkdir -p /etc/credstore.encrypted\nsystemd-creds encrypt --name=hsm-enroll.pin /var/lib/hsm-enroll/pin "
            "/etc/credstore.encrypted/hsm-enroll.pin\nsystemctl restart hsm-enroll-forward.service\n"
        ),
    ),
    (
        "docs/technician.md",
        (
            "install --directory --owner=hsm-enroll --group=hsm-enroll --mode=700 /var/lib/hsm-enroll\n"
            "sudo -u hsm-enroll hsm-enroll token create --label gateway\nsudo -u hsm-enroll hsm-enroll init\n"
            "sudo hsm-enroll service install\n"
        ),
    ),
    (
        "docs/technician.md",
        (
            "systemd-run --quiet --pipe --wait --property=LoadCredentialEncrypted=hsm-enroll.pin hsm-enroll renew\n"
            "systemd-creds decrypt --name=hsm-enroll.pin /etc/credstore.encrypted/hsm-enroll.pin -\n"
        ),
    ),
    # so do these; there and in tests/e2e/test_service.py, the commands of hsm-enroll are run
    ("docs/technician.md", "sudo /opt/hsm-enroll/bin/hsm-enroll service install\n"),
    (
        "docs/technician.md",
        (
            "hsm-enroll service status\njournalctl --unit hsm-enroll-forward.service\n"
            "sudo hsm-enroll service uninstall\n"
        ),
    ),
    ("docs/technician.md", "timedatectl set-ntp true\n"),  # changes the machine's clock; systemd's, and run nowhere
    # tests/operator/api/test_operator_revoke.py does the same
    (
        "docs/operator.md",
        (
            "hsm-enroll fleet list --status claimed --prefix line3- --limit 50\n"
            "hsm-enroll fleet list --prefix line3- --csv >line3.csv\nhsm-enroll fleet revoke --from line3.csv\n"
        ),
    ),
    # tests/web/test_command.py and tests/web/test_whole.py run it
    ("docs/operator.md", "hsm-enroll fleet web\n"),
    # tests/operator/api/test_operator_tpms.py does the same
    (
        "docs/operator.md",
        (
            "hsm-enroll fleet import-ek delivery-4711.csv\n"
            "hsm-enroll fleet list-ek --prefix line3- --csv >line3.csv\n"
            "hsm-enroll fleet list --attested no --status issued --csv >to-do.csv\n"
        ),
    ),
    # needs an AWS account; tests/backend/test_restored_ledger.py carries the procedure out on moto
    (
        "docs/operator.md",
        (
            "hsm-enroll backend deploy --no-sweep\naws dynamodb restore-table-to-point-in-time "
            "--source-table-name TABLE --target-table-name TABLE-restored \\\n"
            "  --restore-date-time 2026-11-26T08:00:00Z\naws dynamodb wait table-exists --table-name TABLE-restored\n"
            "python copy_table.py TABLE-restored TABLE\n"
            "hsm-enroll fleet rebuild\nhsm-enroll fleet sweep\n"
            "hsm-enroll backend deploy --sweep\n"
        ),
    ),
    # needs an AWS account; tests/operator/test_deployment_options.py runs it on moto
    (
        "docs/scale.md",
        (
            "hsm-enroll backend deploy --certificate-rate 142 --throttle-rate 400 --throttle-burst 200 "
            "--reserved-concurrency 200\n"
        ),
    ),
    # needs an AWS account; tests/operator runs the same commands on moto
    (
        "docs/scale.md",
        (
            "hsm-enroll backend deploy --profile plant-a --region eu-central-1 --certificate-rate 14.25\n"
            "hsm-enroll invite create --profile plant-a --region eu-central-1 --from things-0.csv --output "
            "invites-0.csv\n"
        ),
    ),
    ("CONTRIBUTING.md", "scripts/test\nscripts/test tests/client -k uri\n"),  # as above
    # tests/runtime runs the same with other output files
    ("CONTRIBUTING.md", "scripts/build-lambda\nscripts/build-lambda --platform x86_64 function.zip\n"),
}


@pytest.fixture
def hardware(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of the chip that a page is about, if it is about one."""
    if request.node.callspec.params["page"].name != chip.PAGE:
        yield {}
        return
    (tmp_path / "tpm").mkdir()
    with chip.chip(tmp_path / "tpm", tmp_path / "home") as environment:
        yield environment


@pytest.fixture
def shell(hardware: dict[str, str], tmp_path: Path) -> Iterator[Shell]:
    """A reader's shell in a checkout: a home of its own, an empty token folder, no setting made.

    Python's packages are at hand as scripts/setup has installed them, so that ``pip install`` has to make this
    project's own wheel and nothing more.
    """
    home = tmp_path / "home"
    environment = {
        **{name: value for name, value in os.environ.items() if _PIP.fullmatch(name)},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_PROXY": "localhost,127.0.0.1",
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR") or str(Path.home() / ".cache" / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of build-isolation
        "PYTHONPATH": sysconfig.get_path("purelib"),
        # A page that forgot to say where shall not touch this machine's own.
        "HSM_ENROLL_HOME": str(tmp_path / "state"),
        **SoftHsm(home).environment,
        **hardware,
    }
    with Shell(ROOT, environment) as opened:
        yield opened
        for cloud in (".local/state/hsm-enroll/local", "lab"):
            down(home / cloud)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.blocks_of("console") and page.name not in TRANSLATIONS],
    ids=lambda page: page.name,
)
def test_what_a_page_tells_to_type_does_what_it_shows(page: Page, shell: Shell, tmp_path: Path) -> None:
    """Every command succeeds, or fails with the status that ``echo $?`` shows, and writes what is shown."""
    home = tmp_path / "home"
    for block in page.blocks:
        if block.language == "python":
            (home / _program(block)).write_text(block.text)
        if block.language == "console":
            _type(block, commands(block), shell, str(home))


@pytest.mark.parametrize("page", [page for page in PAGES if page.blocks_of("python")], ids=lambda page: page.name)
def test_a_page_tells_to_run_its_programs(page: Page) -> None:
    """Each Python program of a page is run by a command of the page."""
    typed = "".join(block.text for block in [*page.blocks_of("console"), *page.blocks_of("sh")])
    run = {word for line in re.findall(r"\bpython (.+)$", typed, re.MULTILINE) for word in line.split()}
    assert {_program(block) for block in page.blocks_of("python")} <= run


def _program(block: Block) -> str:
    """The name of the file that a Python block goes into, which is its first line."""
    named = re.match(r"# (\w+\.py)\n", block.text)
    assert named, f"{block} does not begin with the name of its file"
    return named[1]


def _type(block: Block, typed: list[Command], shell: Shell, home: str) -> None:
    behind = None  # what a command in the background has written since it was ready
    for number, command in enumerate(typed):
        status, output = shell.run(command.text)
        if command.text.endswith("&"):
            output += shell.wait_for(_shown_after(output, command.shown, home))
            behind = ""
        elif behind is not None:
            behind += output
            output = behind
        following = typed[number + 1].text if number + 1 < len(typed) else ""
        assert status == 0 or following == "echo $?", f"{block}: $ {command.text}\n{output}"
        assert matches(command.shown, output, home), f"{block}: $ {command.text}\n{output}\nis not\n{command.shown}"
        if command.text == "wait":
            behind = None


def _shown_after(begun: str, shown: str, home: str) -> Callable[[str], bool]:
    return lambda more: matches(shown, begun + more, home)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_a_test_knows(page: Page) -> None:
    """No block escapes: what is typed is ``console``, what is not is known by name."""
    assert {block.language for block in page.blocks} <= {"console", "ini", "json", "python", "sh", "text", "toml"}
    original = TRANSLATIONS.get(page.name, page.name)
    assert {block.text for block in page.blocks_of("sh")} == {text for name, text in _NOT_TYPED if name == original}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_jobs_are_named_by_their_process(page: Page) -> None:
    """No command has a job's number: a shell forgets it when the job ends, and may count on from one that has ended."""
    typed = [command.text for block in page.blocks_of("console") for command in commands(block)]
    assert [text for text in typed if re.search(r"%\d", text)] == []


def test_the_contributors_example_selects_tests() -> None:
    """The arguments of ``scripts/test`` that CONTRIBUTING shows go to pytest, which finds tests by them."""
    collecting = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
    collected = subprocess.run(
        # The folders below would only be read for nothing.
        [*collecting, "-p", "no:cacheprovider", "--ignore-glob", "tests/client/*/*", "tests/client", "-k", "uri"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "tests/client/test_uri.py::" in collected.stdout


def test_the_configurations_example_is_read(tmp_path: Path) -> None:
    """The reference's ``config.toml`` is one, each line of it."""
    (block,) = REFERENCE.blocks_of("toml")
    (tmp_path / "config.toml").write_text(block.text)
    read = settings.load({"HSM_ENROLL_HOME": str(tmp_path)}, {})
    assert (read.api_url, read.thing) == ("https://api.example.com", "gateway-17")
    assert read.token is not None
    assert read.token.token == "gateway"
    assert read.subject == "OU=Line 3,O=Example,C=CH"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: Page) -> None:
    """A relative link names a file that is there, and a heading that is in it."""
    for target in page.links:
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.folder / name).resolve() if name else ROOT / page.name
        assert file.is_relative_to(ROOT), target
        assert file.exists(), target
        if anchor:
            (linked,) = [other for other in PAGES if ROOT / other.name == file]
            assert anchor in linked.anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_set_as_code_is_there(page: Page) -> None:
    """A path of the project in the prose, such as ``cli/terminal.py``, is one that exists."""
    named = re.findall(r"`((?:cli|lambda|scripts|tests|hsm_enroll|docs)/[\w./]+)`", page.prose)
    assert [path for path in named if not _exists(path)] == []


def _exists(path: str) -> bool:
    return (ROOT / path).exists() or (ROOT / "hsm_enroll" / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_depends_on_where_it_was_written(page: Page) -> None:
    """A page names no folder of this machine and no package registry."""
    assert str(ROOT) not in page.text
    assert re.search(r"\bpypi\b", page.text, re.IGNORECASE) is None


@pytest.mark.parametrize(
    ("shown", "written", "expected"),
    [
        ("", "whatever\n", True),
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a\n…\n", "a\nb\nc\n", True),
        ("a … c\n", "a b c\n", True),
        ("a … c\n", "a b\nc\n", False),
        ("✓ making  0.10 s\n", "- making 12.30 s\n", True),
        ("✗ making  failed\n", "- making  failed\n", True),
        ("✓ making  failed\n", "- making  failed\n", False),
        ("key    0m  -  a\n", "key   12m  -  a\n", True),
        ("at localhost:1\n", "at localhost:22\n", True),
        ("at localhost:1\n", "at example.com:1\n", False),
        ("/home/you/a\n", "/scratch/a\n", True),
        ("serial=0123456789abcdef\n", "serial=fedcba9876543210\n", True),
        (f"{64 * 'a'}\n", f"{64 * 'b'}\n", True),
        (f"{64 * 'a'}\n", f"{63 * 'b'}\n", False),
        ("published 4 bytes\n", "published 5 bytes\n", False),
    ],
)
def test_only_what_varies_is_forgiven(shown: str, written: str, expected: bool) -> None:
    """Times, ports, serials and the home folder may differ between page and run; nothing else may."""
    assert matches(shown, written, "/scratch") is expected
