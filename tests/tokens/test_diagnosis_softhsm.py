"""Who may use SoftHSM's files (D6): it reports no more than "general failure", or lists nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_enroll.errors import ModuleUnusableError, TokenNotFoundError
from hsm_enroll.token import diagnosis, inventory, selection
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.uri import Pkcs11Uri
from tests.support.nobody import as_nobody
from tests.support.softhsm_under_test import SoftHsmUnderTest

_OTHER = Path("other.so")


@pytest.fixture
def shared(softhsm: SoftHsmUnderTest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that others may look into, with root's SoftHSM configuration and tokens."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(softhsm.tokens, folder / "tokens")
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("closed", "said"),
    [
        ("softhsm2.conf", "read SoftHSM's configuration {}/softhsm2.conf"),
        ("tokens", "use SoftHSM's folder of tokens {}/tokens"),
    ],
)
def test_a_user_outside_softhsms_group_is_told(softhsm: SoftHsmUnderTest, shared: Path, closed: str, said: str) -> None:
    """D6: a user who may not read SoftHSM's configuration, or use its folder, is told so, and of the group to join."""
    (shared / closed).chmod(0o770 if closed == "tokens" else 0o640)
    module = softhsm.module_copy(shared)
    with as_nobody():
        with pytest.raises(ModuleUnusableError) as caught:
            _listed(module)
        assert caught.value.message == f"nobody has no permission to {said.format(shared)}"
        assert "usermod --append --groups root USER" in caught.value.hint
        assert "SOFTHSM2_CONF" in caught.value.hint
        # Another module without a token does not hide it.
        with pytest.raises(TokenNotFoundError, match="nobody has no permission") as missing:
            selection.choose([module, _OTHER], Pkcs11Uri(), _listed)
        assert "usermod" in missing.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_token_of_root_is_named_to_a_service_user(softhsm: SoftHsmUnderTest, shared: Path) -> None:
    """D6: a user who may use SoftHSM's folder, but not the token that root created in it, is told whose it is."""
    (shared / "tokens").chmod(0o777)
    [token] = (shared / "tokens").iterdir()
    module = softhsm.module_copy(shared)
    with as_nobody(), pytest.raises(TokenNotFoundError) as caught:
        selection.choose([module], Pkcs11Uri(), _listed)
    assert caught.value.message == (
        "this machine has no initialised token; nobody has no permission to use the SoftHSM token in "
        f"{token}, which belongs to root"
    )
    assert f"chown -R nobody {token}" in caught.value.hint


def test_softhsm_without_its_folder_names_it(
    softhsm: SoftHsmUnderTest, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D6: a configuration that is missing, or names a folder that is missing, is what the error names."""
    module = softhsm.module_copy(shared)
    shutil.rmtree(shared / "tokens")
    with pytest.raises(ModuleUnusableError, match=f"folder of tokens {shared}/tokens, .* No such file"):
        _describe(module)
    monkeypatch.setenv("SOFTHSM2_CONF", str(shared / "none.conf"))
    with pytest.raises(ModuleUnusableError, match=f"configuration {shared}/none.conf cannot be read"):
        _describe(module)


def test_a_failure_without_a_fault_stays_what_it_was(softhsm: SoftHsmUnderTest) -> None:
    """Where nothing is found to be wrong, and for another module, the module's own error stands."""
    for module in (softhsm.module, Path("/opt/vendor.so")):
        failed = ModuleUnusableError("it cannot be used")
        with pytest.raises(ModuleUnusableError) as caught, diagnosis.explained(module):
            raise failed
        assert caught.value is failed


def _describe(module: Path) -> None:
    with Tokens() as tokens:
        tokens.describe(module)


def _listed(module: Path) -> list[TokenReport]:
    """List a module's tokens as ``Tokens`` does, but in this process, which may have become another user."""
    if module == _OTHER:
        return []
    with diagnosis.explained(module):
        return inventory.list_tokens(module)
