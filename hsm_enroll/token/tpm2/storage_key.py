"""Whether the TPM still has the key under which tpm2-pkcs11's store keeps everything: clearing a TPM removes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hsm_enroll.token.fault import Fault
from hsm_enroll.token.tpm2 import store, tools

# tpm2-pkcs11 records the parent of its objects as ESAPI serialises it (Esys_TR_Serialize, hexadecimal): the handle
# (UINT32), and the TPM2B_NAME: its length (UINT16) and the name. Its YAML has tags; tpm2_ptool's has none.
_SERIALISED = re.compile(r"esys-tr[\"']?\s*:\s*(?:!!str\s*)?[\"']?([0-9a-fA-F]+)")
_HANDLE = slice(0, 8)
_LENGTH = slice(8, 12)
_NAME_BEGINS = 12
# TPM 2.0 Library Part 2, TPM_HT_PERSISTENT: a primary key that is not persistent is derived anew each time.
_PERSISTENT = "81"
_PRINTED_NAME = re.compile(rb"^name: ([0-9a-f]+)$", re.MULTILINE)


def fault(folder: Path) -> Fault | None:
    """Ask the TPM for the keys that a store depends on.

    Args:
        folder: the store's.

    Returns:
        What is wrong; None if the TPM has the keys, or if it cannot be asked because tpm2-tools is not installed.
    """
    for handle, name in _recorded(folder):
        if _has(handle, name) is False:
            return Fault(
                f"the TPM no longer has the key 0x{handle} on which tpm2-pkcs11's store {folder} depends: the TPM was "
                "cleared (tpm2_clear, or in the firmware's setup), or this is another TPM",
                f"The keys in the store are lost for ever. Move it away (mv {folder} {folder}.old), and pin and "
                "token.json in the state folder too; create a token (hsm-enroll token create --label LABEL --backend "
                "tpm2); then enroll again with a new invite: hsm-enroll init --new-key INVITE",
            )
    return None


def _has(handle: str, name: str) -> bool | None:
    """Whether the TPM has a persistent key of this name (TPM 2.0 Library Part 1, "Names"); None if it does not say."""
    handles = tools.run("tpm2_getcap", "handles-persistent")
    if handles is None or not handles.succeeded:
        return None
    if f"0x{handle}".encode() not in handles.stdout.lower().split():
        return False
    public = tools.run("tpm2_readpublic", "-c", f"0x{handle}")
    printed = _PRINTED_NAME.search(public.stdout) if public is not None and public.succeeded else None
    return None if printed is None else printed[1].decode() == name


def _recorded(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the handle and the name of each persistent key that a store depends on, in hexadecimal."""
    for (configuration,) in store.read(folder, "SELECT config FROM pobjects WHERE id IN (SELECT pid FROM tokens)"):
        serialised = _SERIALISED.search(str(configuration))
        if serialised is None or not serialised[1].startswith(_PERSISTENT):
            continue
        text = serialised[1].lower()
        yield text[_HANDLE], text[_NAME_BEGINS : _NAME_BEGINS + 2 * int(text[_LENGTH] or "0", 16)]
