"""Which keys ``token prune`` has to keep, decided by what the state folder says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsm_enroll.device import pruning
from hsm_enroll.device.pruning import Reason
from hsm_enroll.key import KeyType, key_label
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.token.reports import OwnKey
from tests.support.identities import TOKEN, identity

_ID, _OTHER_ID = bytes.fromhex("0102030405060708"), bytes.fromhex("0807060504030201")
_IDENTITY = identity(key_label=key_label(_ID), key_id=_ID)
_CERTIFIED = _IDENTITY.certificate.public_key.dump()
_ATTEMPT = Attempt(TOKEN, KeyType.EC_P256, key_label(_ID), _ID, new_key=True)


def _key(key_id: bytes = _OTHER_ID, label: str = key_label(_OTHER_ID), public_key: bytes = b"another") -> OwnKey:
    return OwnKey(
        label=label,
        id=key_id,
        halves=("private", "public"),
        key_type=KeyType.EC_P256,
        public_keys=(public_key,),
        has_certificate=False,
        is_changed=False,
    )


def test_a_key_that_nothing_names_goes() -> None:
    """A key that neither the identity nor the journal names is not kept, and nor is any where there are neither."""
    assert pruning.reason_to_keep(_key(), _IDENTITY, _ATTEMPT) is None
    assert pruning.reason_to_keep(_key(), None, None) is None


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(_key(_ID, key_label(_ID), _CERTIFIED), id="the key"),
        pytest.param(_key(_ID), id="its id"),
        pytest.param(_key(label=key_label(_ID)), id="its label"),
        pytest.param(_key(public_key=_CERTIFIED), id="its public key under another name"),
        pytest.param(_key()._replace(public_keys=(b"another", _CERTIFIED)), id="its public key beside another"),
        pytest.param(_key(_ID, key_label(_ID))._replace(halves=("private",), public_keys=()), id="its private half"),
    ],
)
def test_the_enrolled_key_stays(key: OwnKey) -> None:
    """The identity's key is known by its id, its label, or its certificate's public key: one of them is enough."""
    assert pruning.reason_to_keep(key, _IDENTITY, None) is Reason.IDENTITY


@pytest.mark.parametrize("key", [_key(_ID), _key(label=key_label(_ID))], ids=["its id", "its label"])
def test_the_journalled_key_stays(key: OwnKey) -> None:
    """The key of an enrollment in progress is known by its id or its label."""
    assert pruning.reason_to_keep(key, None, _ATTEMPT) is Reason.JOURNAL


@pytest.mark.parametrize("key", [_key(_ID), _key(label=key_label(_ID))], ids=["its id", "its label"])
def test_both_keys_of_a_renewal_stay(key: OwnKey) -> None:
    """The one that it makes, and the one that it replaces, are known by their id or label."""
    renewal = Renewal.begin(identity(key_id=b"another", key_label="another"))
    new = replace(renewal, key_id=_ID, key_label=key_label(_ID))
    old = replace(renewal, old_key_id=_ID, old_key_label=key_label(_ID))
    assert pruning.reason_to_keep(key, None, None, new) is Reason.RENEWAL
    assert pruning.reason_to_keep(key, None, None, old) is Reason.RENEWAL
    assert pruning.reason_to_keep(key, None, None, renewal) is None


def test_a_key_with_a_sign_of_use_stays() -> None:
    """A key with a certificate in the token, or one that was renamed in part, is somebody's."""
    assert pruning.reason_to_keep(_key()._replace(has_certificate=True), None, None) is Reason.CERTIFICATE
    assert pruning.reason_to_keep(_key()._replace(is_changed=True), None, None) is Reason.CHANGED


def test_a_key_survives_its_journey() -> None:
    """What a worker finds arrives as it was."""
    for key in (_key(), _key()._replace(halves=("private",), key_type=None, public_keys=())):
        assert OwnKey.from_json(key.to_json()) == key
