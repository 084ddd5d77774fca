"""A profile for AWS's SDKs and the AWS CLI, which get their credentials from ``hsm-enroll aws-credentials``."""

from __future__ import annotations

import shlex

from hsm_enroll.device.export.values import Exported, File, header

PROFILE = "hsm-enroll"
"""The profile's name, for ``AWS_PROFILE``."""


def files(exported: Exported) -> list[File]:
    """Return ``aws-config``, to be named in ``AWS_CONFIG_FILE`` or appended to ``~/.aws/config``."""
    about = header(
        exported,
        "aws",
        "For AWS's SDKs and the AWS CLI, in ~/.aws/config or named in AWS_CONFIG_FILE.",
        "To use it:",
        f"AWS_CONFIG_FILE=aws-config AWS_PROFILE={PROFILE} aws s3 ls",
        "Credentials in AWS_ACCESS_KEY_ID, if it is set, come first.",
    )
    lines = [f"[profile {PROFILE}]", f"credential_process = {shlex.join([*exported.command, 'aws-credentials'])}"]
    if exported.region is not None:
        lines.append(f"region = {exported.region}")
    return [File("aws-config", about + "\n".join(lines) + "\n")]
