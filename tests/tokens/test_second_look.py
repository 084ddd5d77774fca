"""A token of SoftHSM that is missing for the moment of another program's login (D28)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from hsm_enroll.token import naming, second_look
from hsm_enroll.token.naming import NamedToken
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tpm2 import Tpm2
from tests.support.under_test import LABEL


@pytest.mark.parametrize("is_back", [True, False])
def test_d28_a_missing_token_is_looked_for_once_more(softhsm: SoftHsmUnderTest, is_back: bool) -> None:
    """D28: a token whose file is empty at the first look, as during a login, is looked for again; a lost one is not."""
    file = softhsm.token_folder(LABEL) / "token.object"
    content = file.read_bytes()
    file.write_bytes(b"")
    looks: list[Path] = []

    def look() -> list[NamedToken]:
        looks.append(softhsm.module)
        found = naming.tokens(softhsm.module)
        if is_back:
            file.write_bytes(content)
        return found

    found = second_look.tokens(softhsm.module, look)
    assert (LABEL in [named.name.label for named in found]) is is_back
    assert len(looks) == (2 if is_back else 1)


def test_other_tokens_are_looked_at_once(softhsm: SoftHsmUnderTest, tpm: Tpm2) -> None:
    """Neither a SoftHSM that has all its tokens nor a TPM beside one is initialised a second time."""
    looks: list[Path] = []

    def look(module: Path) -> list[NamedToken]:
        looks.append(module)
        return naming.tokens(module)

    for module in (softhsm.module, tpm.module):
        second_look.tokens(module, partial(look, module))
    assert looks == [softhsm.module, tpm.module]
