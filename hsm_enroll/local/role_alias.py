"""The role alias that every local cloud has: devices get AWS credentials of its role from the credentials provider."""

from __future__ import annotations

import json

_NAME = "hsm-enroll-local"
# So that a program can be tried out with S3; moto does not evaluate it.
_PERMISSIONS = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::*"},
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject"],
            "Resource": "arn:aws:s3:::*/${credentials-iot:ThingName}/*",
        },
    ],
}

PARAMETERS = {"RoleAlias": _NAME, "RolePolicyDocument": json.dumps(_PERMISSIONS, separators=(",", ":"))}
"""The template's parameters for it."""
