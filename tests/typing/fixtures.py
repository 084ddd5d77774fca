"""What an integrator's type checker sees of the pytest plugin; mypy is the test, nothing here runs."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from hsm_enroll import Identity, Secret
from hsm_enroll.testing import Endpoints, EnrolledDevice, SoftHsmToken


def a_test(enrolled_device: EnrolledDevice, softhsm_token: SoftHsmToken, local_cloud: Endpoints) -> None:
    """A test of a program's own."""
    assert_type(enrolled_device.identity, Identity)
    assert_type(enrolled_device.thing_name, str)
    assert_type(enrolled_device.token, SoftHsmToken)
    assert_type(enrolled_device.cloud, Endpoints)
    assert_type(softhsm_token.uri, str)
    assert_type(softhsm_token.label, str)
    assert_type(softhsm_token.module, Path)
    assert_type(softhsm_token.pin, Secret)
    assert_type(softhsm_token.home, Path)
    assert_type(local_cloud.api_url, str)
    assert_type(local_cloud.exports(), dict[str, str])
