"""PKCS#11 modules that are missing, broken or hostile: the process that asks for them survives (D5)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsm_enroll.device import device_token
from hsm_enroll.errors import ModuleMissingError, ModuleUnusableError
from hsm_enroll.settings import Settings
from hsm_enroll.token import discovery, inventory, worker
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.worker import Worker
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.processes import program, run
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed
from tests.support.under_test import LABEL

_EM_S390 = 22  # <elf.h>: a machine that is not this one


def test_the_modules_of_this_machine_are_discovered() -> None:
    """Both modules that the token tests need are found where Debian puts them, each once."""
    names = [path.name for path in discovery.discover()]
    assert names.count("libsofthsm2.so") == 1
    assert len([name for name in names if name.startswith("libtpm2_pkcs11.so")]) == 1


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Where a folder of modules cannot be read, a module may be missing from the list: exit 10, and the cause."""
    folder = tmp_path / "usr" / "lib"
    folder.parent.mkdir()
    folder.symlink_to("lib")
    with pytest.raises(ModuleUnusableError, match=f"in {folder}: Too many levels of symbolic links") as caught:
        discovery.discover(tmp_path)
    assert caught.value.exit_status == 10


def test_d5_a_module_that_is_missing(tmp_path: Path) -> None:
    """D5: a file that does not exist, and a folder of that name, are a missing module, here and through a child."""
    for path in (tmp_path / "nowhere.so", tmp_path):
        for ask in (listed, inventory.list_tokens):
            with pytest.raises(ModuleMissingError, match=str(path)) as caught:
                ask(path)
            assert caught.value.exit_status == 10


def test_d5_a_file_that_is_no_library(tmp_path: Path) -> None:
    """D5: a text file and an empty file are no modules, and the error names the file."""
    for content in ("no module\n", ""):
        path = tmp_path / "module.so"
        path.write_text(content)
        with pytest.raises(ModuleUnusableError, match=str(path)) as caught:
            listed(path)
        assert caught.value.exit_status == 10


def test_d5_a_library_that_is_no_module(tmp_path: Path) -> None:
    """D5: a shared library without C_GetFunctionList is no module."""
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    library = tmp_path / "answer.so"
    run([program("gcc", package="gcc"), "-shared", "-fPIC", "-o", str(library), str(source)])
    with pytest.raises(ModuleUnusableError, match="cannot be used as a PKCS#11 module"):
        listed(library)


def test_d5_a_module_for_another_architecture(empty_softhsm: SoftHsmUnderTest) -> None:
    """D5: a module that was built for another machine is unusable."""
    module = empty_softhsm.module
    header = bytearray(module.read_bytes())
    header[18:20] = _EM_S390.to_bytes(2, "little")
    module.write_bytes(header)
    with pytest.raises(ModuleUnusableError, match="cannot be used as a PKCS#11 module"):
        listed(module)


def test_d5_a_module_that_hangs_is_stopped_in_time(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """D5: a module that does not return from C_Initialize is given up at the time limit, and its process is gone."""
    module = FaultModule(softhsm.module, tmp_path, "C_Initialize 1+ hang 0")
    with Worker(module.file) as asked, pytest.raises(ModuleUnusableError, match="stopped after 1 s"):
        asked.request("tokens", limit=1)
    [call] = module.calls()
    with pytest.raises(ProcessLookupError):
        os.kill(call.process, 0)


def test_d5_a_module_that_hangs_hides_no_token(
    softhsm: SoftHsmUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5: a token is found behind a module that hangs, whose time limit leaves the other one's answer none to wait."""
    hanging = FaultModule(softhsm.module, tmp_path, "C_Initialize 1+ hang 0").file
    monkeypatch.setattr(worker, "TIME_LIMIT_SECONDS", 2.0)
    monkeypatch.setattr(discovery, "discover", lambda: [hanging, softhsm.module])
    with Tokens() as tokens:
        assert device_token.find(Settings(state=tmp_path), tokens).name == softhsm.name


def test_d5_a_module_that_crashes(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """D5: a module that crashes in C_Initialize takes a child with it, and the error names the signal."""
    with pytest.raises(ModuleUnusableError, match=r"crashed .*\(SIGSEGV\)"):
        listed(FaultModule(softhsm.module, tmp_path, "C_Initialize 1+ segv 0").file)


def test_d5_a_module_that_ends_the_process(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """D5: a module that calls exit in C_Initialize, with status 0, is unusable rather than a module without tokens."""
    with pytest.raises(ModuleUnusableError, match="ended the process"):
        listed(FaultModule(softhsm.module, tmp_path, "C_Initialize 1+ exit 0").file)


def test_d5_a_module_that_refuses_to_start(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """D5: a module whose C_Initialize fails is unusable, here and through a child."""
    module = FaultModule(softhsm.module, tmp_path, f"C_Initialize 1+ fail {CKR['CKR_GENERAL_ERROR']:x}")
    for ask in (listed, inventory.list_tokens):
        with pytest.raises(ModuleUnusableError, match="general failure"):
            ask(module.file)


def test_a_module_that_prints_does_not_disturb(softhsm: SoftHsmUnderTest, capfd: pytest.CaptureFixture[str]) -> None:
    """What a module prints when it is loaded and initialised is neither taken for the answer nor passed on."""
    [report, _] = listed(softhsm.faulty_module(CHATTY=1))
    assert report.name.label == LABEL
    assert capfd.readouterr() == ("", "")


def test_the_child_imports_nothing_from_the_current_directory(
    softhsm: SoftHsmUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the current directory that is called like a library is not run, perhaps as root, by a worker."""
    mark = tmp_path / "was-run"
    for name in ("json", "pkcs11", "hsm_enroll"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    assert [report.name.label for report in listed(softhsm.module) if report.initialized] == [LABEL]
    assert not mark.exists()
