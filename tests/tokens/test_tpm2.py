"""The TPM of these tests: as complete as a manufactured one, and gone when its block is left."""

from __future__ import annotations

from pathlib import Path

from tests.support import tpm2
from tests.support.processes import program, run
from tests.support.tpm2 import Tpm2

# TCG EK Credential Profile for TPM 2.0, section 2.2.1: the certificates of the RSA 2048 and of the P-384 one.
_EK_CERTIFICATES = {"0x1C00002", "0x1C00016"}


def test_the_tpm_has_endorsement_key_certificates(tpm: Tpm2) -> None:
    """A TPM is manufactured with the certificates of its endorsement keys, RSA and elliptic, at their NV indices."""
    printed = run([program("tpm2_getcap", package="tpm2-tools"), "handles-nv-index"], tpm.environment)
    assert {line.removeprefix("- ") for line in printed.splitlines()} >= _EK_CERTIFICATES


def test_no_program_of_the_tpm_is_left(tmp_path: Path) -> None:
    """Once the block of a provided TPM is left, none of the programs that made it up is there any more."""
    before = _children()
    with tpm2.provided(tmp_path):
        started = {process: name for process, name in _children().items() if process not in before}
        assert sorted(started.values()) == ["dbus-daemon", "swtpm", "tpm2-abrmd"]
    assert {process: name for process, name in _children().items() if process in started} == {}


def _children() -> dict[int, str]:
    """The processes that this one has started and not reaped, with their names."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for process in map(int, (task / "children").read_text().split()):
            found[process] = Path(f"/proc/{process}/comm").read_text().strip()
    return found
