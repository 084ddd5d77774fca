"""What a Thing's attributes in AWS IoT say about its key."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment_backend.claims import Attestation
from enrollment_backend.thing_attributes import attestation_in, describe

# AWS IoT, CreateThing, AttributePayload: names and values, and how long values may be.
NAME, VALUE = re.compile(r"[a-zA-Z0-9_.,@/:#-]+"), re.compile(r"[a-zA-Z0-9_.,@/:#=\[\]-]*")
LONGEST = 800

attestations = st.builds(
    Attestation,
    ek_sha256=st.just("0f" * 32),
    ek_certificate_sha256=st.none(),
    manufacturer=st.none() | st.text(max_size=64),
    firmware=st.none() | st.just("7.85.4555.0"),
)


@given(attestations)
def test_attributes_are_ones_that_aws_iot_takes(attestation: Attestation) -> None:
    """Whatever a certificate says about who made the TPM."""
    for name, value in describe("rsa-4096", attestation).items():
        assert NAME.fullmatch(name)
        assert VALUE.fullmatch(value)
        assert len(value) <= LONGEST
    read = attestation_in(describe("rsa-4096", attestation))
    assert read is not None
    assert (read.ek_sha256, read.firmware) == (attestation.ek_sha256, attestation.firmware)


@pytest.mark.parametrize(
    ("attestation", "key"),
    [
        (Attestation("0f" * 32), f"ec-p256,ek={'0f' * 32}"),
        (Attestation("0f" * 32, None, "STM", "1.2.3.4"), f"ec-p256,ek={'0f' * 32},manufacturer=STM,firmware=1.2.3.4"),
    ],
)
def test_a_tpm_is_read_back_as_it_was_written(attestation: Attestation, key: str) -> None:
    """`fleet rebuild` restores it from there; the certificate's fingerprint is not among it."""
    assert describe("ec-p256", attestation) == {"attested": "true", "key": key}
    assert attestation_in(describe("ec-p256", attestation)) == attestation


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        describe("ec-p256", None),
        {"attested": "true", "key": "ec-p256"},
        {"attested": "true", "key": "ec-p256,ek=0f"},
        {"attested": "false", "key": f"ec-p256,ek={'0f' * 32}"},
        {"key": "drawer 7,ek"},
    ],
)
def test_what_names_no_tpm_is_no_attestation(attributes: dict[str, str]) -> None:
    """Nor do attributes that somebody else has given the Thing."""
    assert attestation_in(attributes) is None
