"""docs/troubleshooting.md explains each error and each check, as the code has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from generated import findings, troubleshooting
from generated.expressions import UNKNOWN
from hsm_enroll import doctor
from hsm_enroll.doctor import Finding, Machine, Patient, Status
from hsm_enroll.settings import Settings
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.troubleshooting import reference
from tests.support.pages import page

_PAGE = page(troubleshooting.PAGE)


def test_the_page_says_what_the_code_says() -> None:
    """Its generated parts are up to date; scripts/pages writes them."""
    assert troubleshooting.page(_PAGE.text) == _PAGE.text


@pytest.mark.parametrize("name", sorted(troubleshooting.anchors()))
def test_each_code_and_each_check_has_one_section(name: str) -> None:
    """What the program names exists on the page, once, and is a heading."""
    assert len(re.findall(rf"^### {re.escape(name)}$", _PAGE.text, re.MULTILINE)) == 1
    assert reference(name).endswith(f"{troubleshooting.PAGE.rpartition('/')[2]}#{name}")
    assert name in _PAGE.anchors


@pytest.mark.parametrize(
    ("module", "installed"),
    [
        ("venv/lib/python3.11/site-packages/hsm_enroll", "venv/share/doc/hsm-enroll/docs"),
        ("home/.local/lib/python3.11/site-packages/hsm_enroll", "home/.local/share/doc/hsm-enroll/docs"),
        ("target/hsm_enroll", "target/share/doc/hsm-enroll/docs"),
        ("usr/lib/hsm-enroll/hsm_enroll", "usr/share/doc/hsm-enroll/docs"),  # a Debian or RPM package's
    ],
)
def test_the_page_that_is_named_is_the_installed_one(module: str, installed: str, tmp_path: Path) -> None:
    """It is the one below the same prefix; where the documentation was left out, it is the sources' page."""
    module_file = str(tmp_path / module / "troubleshooting.py")
    assert reference("usage", module_file) == "See docs/troubleshooting.md#usage"
    (tmp_path / installed).mkdir(parents=True)
    (tmp_path / installed / "troubleshooting.md").touch()
    assert reference("usage", module_file) == f"See {tmp_path / installed}/troubleshooting.md#usage"


def test_a_checkout_names_its_own_page(tmp_path: Path) -> None:
    """Whatever is installed beside it, its page is the one in the sources, named as they name it."""
    for folder in ("share/doc/hsm-enroll/docs", "src/docs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "troubleshooting.md").touch()
    module_file = str(tmp_path / "src/hsm_enroll/troubleshooting.py")
    assert reference("usage", module_file) == "See docs/troubleshooting.md#usage"


def test_each_error_says_something_and_what_to_do() -> None:
    """No section is empty, and each has the advice and the exit status."""
    for error in troubleshooting.error_classes():
        section = _section(error.code)
        assert re.search(r"^[A-Z].{10,}", section, re.MULTILINE)
        assert "**What to do:**" in section
        assert f"Exit status {error.exit_status}" in section
        assert ("may succeed later" in section) is error.retryable


def _section(name: str) -> str:
    _, _, rest = _PAGE.text.partition(f"\n### {name}\n")
    return re.split(r"^(?:#|<)", rest, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.fixture
def unwell(tmp_path: Path) -> Iterator[Patient]:
    """A device with a folder that is open to others, a damaged identity, no PIN, and a module that is none."""
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    (state / "identity.json").write_text("{")
    module = tmp_path / "libtpm2_pkcs11.so"
    module.write_text("libtss2-fapi")
    nowhere = tmp_path / "nowhere"
    machine = Machine(nowhere, nowhere, nowhere, nowhere, nowhere)
    environment = {"TPM2_PKCS11_BACKEND": "fapi", "TPM2_PKCS11_TCTI": "swtpm:port=1"}
    with Tokens() as tokens:
        yield Patient(Settings(state=state, module=module, api_url="https://localhost:1"), environment, tokens, machine)


def test_what_a_check_really_finds_stands_on_the_page(unwell: Patient) -> None:
    """Each problem of a device that has many is in the check's section, with its result, its message and its hint."""
    found = [one for one in doctor.examine(unwell, online=True) if one.status in {Status.WARNING, Status.FAILED}]
    assert len(found) > 5
    for problem in found:
        (check,) = [each for each in doctor.CHECKS if findings.check_id(each) == problem.id]
        assert any(_fits(problem, said) for said in findings.problems(check)), problem


def _fits(problem: Finding, said: findings.Said) -> bool:
    texts = ((said.message, problem.message), (said.hint, problem.hint))
    return said.status is problem.status and all(re.fullmatch(_pattern(text), real) for text, real in texts)


def _pattern(text: str) -> str:
    return ".*".join(map(re.escape, re.split(rf"{UNKNOWN}|\{{\w+\}}", text)))


def _examined(kind: str, *, thorough: bool) -> Finding:
    name, hint = "a.check", "Do this."
    status = Status.FAILED if thorough else Status.WARNING
    if kind == "gone":
        message = f"{kind!r} is gone"
        return Finding(name, status, message, hint)
    if thorough:
        hint = f"{hint} And that."
    if _other(kind).status is Status.FAILED:
        return Finding(name, Status.OK, "fine")
    return Finding(name, Status.WARNING, "it is " + ("odd" if thorough else kind), hint)


def _other(kind: str) -> Finding:
    return Finding("another.check", Status.FAILED, f"not {kind}")


def test_all_that_a_check_can_find_is_read_in_its_source() -> None:
    """Results, messages and hints are those of each way through the check, with names for what only a run can know."""
    assert findings.check_id(_examined) == "a.check"
    assert [(said.status, said.message, said.hint) for said in findings.problems(_examined)] == [
        (Status.FAILED, "{kind} is gone", "Do this."),
        (Status.WARNING, "{kind} is gone", "Do this."),
        (Status.WARNING, "it is odd", "Do this."),
        (Status.WARNING, "it is odd", "Do this. And that."),
        (Status.WARNING, "it is {kind}", "Do this."),
        (Status.WARNING, "it is {kind}", "Do this. And that."),
    ]
