"""Who may use SoftHSM's files (D6): it reports no more than "general failure", or lists nothing."""

from __future__ import annotations

import grp
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsm_enroll import softhsm as softhsm_files
from hsm_enroll.errors import ModuleUnusableError, PinWrongError, TokenNotFoundError
from hsm_enroll.token import diagnosis, inventory, selection
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.uri import Pkcs11Uri
from tests.support.nobody import as_nobody
from tests.support.softhsm_under_test import SoftHsmUnderTest

_OTHER = Path("other.so")
_GROUP = 1


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
    os.chown(shared / closed, 0, _GROUP)
    (shared / closed).chmod(0o770 if closed == "tokens" else 0o640)
    module = softhsm.module_copy(shared)
    with as_nobody():
        with pytest.raises(ModuleUnusableError) as caught:
            _listed(module)
        assert caught.value.message == f"nobody has no permission to {said.format(shared)}"
        assert f"usermod --append --groups {grp.getgrgid(_GROUP).gr_name} USER" in caught.value.hint
        assert "SOFTHSM2_CONF" in caught.value.hint
        # Another module without a token does not hide it.
        with pytest.raises(TokenNotFoundError, match="nobody has no permission") as missing:
            selection.choose([module, _OTHER], Pkcs11Uri(), _listed)
        assert "usermod" in missing.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("group", "mode"), [(_GROUP, 0o755), (0, 0o770)])
def test_a_folder_that_no_group_opens_names_its_owner(
    softhsm: SoftHsmUnderTest, shared: Path, group: int, mode: int
) -> None:
    """A folder in which a user may only look is said to be closed before a token is created in it; no group helps."""
    shutil.rmtree(shared / "tokens")
    (shared / "tokens").mkdir()
    os.chown(shared / "tokens", 0, group)
    (shared / "tokens").chmod(mode)
    module = softhsm.module_copy(shared)
    with as_nobody(), pytest.raises((ModuleUnusableError, TokenNotFoundError)) as caught:
        selection.choose([module], Pkcs11Uri(), _listed)
    assert f"nobody has no permission to use SoftHSM's folder of tokens {shared}/tokens" in caught.value.message
    assert caught.value.hint.startswith("Run the command as root; or give this user a configuration of its own")


def test_a_read_only_file_system_is_not_taken_for_missing_rights(
    softhsm: SoftHsmUnderTest, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only file system, as after a power cut, a token that is there is no fault, and a lost one is named."""
    monkeypatch.setattr(os, "statvfs", lambda _: _ReadOnly())
    [token] = (shared / "tokens").iterdir()
    monkeypatch.setattr(os, "access", _as_if_read_only(os.access))
    module = softhsm.module_copy(shared)
    assert diagnosis.absences([module], with_token=[module]) == []
    [mounted] = diagnosis.absences([module], with_token=[])
    assert mounted.message.endswith("is on a file system that is mounted read-only")
    (token / "token.object").write_bytes(b"")
    assert softhsm_files.missing([]) == [token]


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
    with pytest.raises(ModuleUnusableError, match=f"folder of tokens {shared}/tokens, by .* No such file"):
        _describe(module)
    monkeypatch.setenv("SOFTHSM2_CONF", str(shared / "none.conf"))
    with pytest.raises(ModuleUnusableError, match=f"configuration {shared}/none.conf cannot be read"):
        _describe(module)


def test_an_empty_name_of_the_configuration_is_named(
    softhsm: SoftHsmUnderTest, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SOFTHSM2_CONF that is set, but empty, keeps SoftHSM from its configuration, and the error says so."""
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    with pytest.raises(ModuleUnusableError, match="SOFTHSM2_CONF is set, but empty") as caught:
        _describe(softhsm.module_copy(shared))
    assert caught.value.hint.startswith("Unset SOFTHSM2_CONF")


def test_a_failure_without_a_fault_stays_what_it_was(softhsm: SoftHsmUnderTest) -> None:
    """Where nothing is found to be wrong, and for another module, the module's own error stands."""
    for module in (softhsm.module, Path("/opt/vendor.so")):
        failed = ModuleUnusableError("it cannot be used")
        with pytest.raises(ModuleUnusableError) as caught, diagnosis.explained(module):
            raise failed
        assert caught.value is failed


def test_a_wrong_pin_stays_one(softhsm: SoftHsmUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """SoftHSM reports a wrong PIN only where the PIN is wrong, so nothing else is blamed."""
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    with pytest.raises(PinWrongError), diagnosis.explained(softhsm.module):
        raise PinWrongError("token 'gateway' refused the PIN")


class _ReadOnly:
    f_flag = os.ST_RDONLY


def _as_if_read_only(access: Callable[..., bool]) -> Callable[..., bool]:
    def asked(path: Path, mode: int, **options: bool) -> bool:
        return not mode & os.W_OK and access(path, mode, **options)

    return asked


def _describe(module: Path) -> None:
    with Tokens() as tokens:
        tokens.describe(module)


def _listed(module: Path) -> list[TokenReport]:
    """List a module's tokens as ``Tokens`` does, but in this process, which may have become another user."""
    if module == _OTHER:
        return []
    with diagnosis.explained(module):
        return inventory.list_tokens(module)
