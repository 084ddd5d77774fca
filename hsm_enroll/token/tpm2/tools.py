"""Run tpm2-tools on the TPM that tpm2-pkcs11 uses; a command without them goes on with less knowledge."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from hsm_enroll.secret import PIN_VARIABLE

# A tool takes milliseconds, but waits for ever while another program has the TPM open.
TIME_LIMIT_SECONDS = 5.0


class Output(NamedTuple):
    """What a tool did.

    Attributes:
        succeeded: whether it exited with 0.
        stdout: what it printed.
        complaint: the last line that it wrote to stderr, or "".
    """

    succeeded: bool
    stdout: bytes
    complaint: str


def run(*command: str, time_limit: float = TIME_LIMIT_SECONDS) -> Output | None:
    """Run a tool in a child process.

    It uses the TPM that ``TPM2_PKCS11_TCTI`` names, or else this machine's own. Does *not* support a TPM that is named
    only in the token's store.

    Args:
        command: the tool's name and its arguments.
        time_limit: seconds until it is killed.

    Returns:
        What it did; None if it is not installed, cannot be started, or took too long.
    """
    import subprocess

    try:
        tool = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=time_limit,
            check=False,
            env=_environment(os.environ),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = tool.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    return Output(tool.returncode == 0, tool.stdout, lines[-1] if lines else "")


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    # TPM2TOOLS_TCTI may name another TPM than the module's; and the tool does not need our PIN.
    kept = {name: value for name, value in inherited.items() if name not in {"TPM2TOOLS_TCTI", PIN_VARIABLE}}
    if "TPM2_PKCS11_TCTI" in inherited:
        kept["TPM2TOOLS_TCTI"] = inherited["TPM2_PKCS11_TCTI"]
    return kept
