"""What an integrator's type checker sees of the public API; mypy is the test, nothing here runs."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from asn1crypto.x509 import Certificate

from hsm_enroll import HsmEnrollError, Identity, __version__, connect
from hsm_enroll.errors import NotEnrolledError, StateError
from hsm_enroll.key import KeyOrigin, KeyType, TokenName
from hsm_enroll.uri import Pkcs11Uri

assert_type(__version__, str)


def an_identity_is_loaded_from_the_usual_place_or_a_folder(folder: Path) -> None:
    """Both forms give an Identity, never None."""
    assert_type(Identity.load(), Identity)
    assert_type(Identity.load(None), Identity)
    assert_type(Identity.load(folder), Identity)
    Identity.load("/var/lib/hsm-enroll")  # type: ignore[arg-type]


def its_members_are_typed(identity: Identity) -> None:
    """Each member has the type that its documentation says."""
    assert_type(identity.thing_name, str)
    assert_type(identity.certificate_id, str)
    assert_type(identity.certificate_pem, str)
    assert_type(identity.token, TokenName)
    assert_type(identity.key_label, str)
    assert_type(identity.key_id, bytes)
    assert_type(identity.key_type, KeyType)
    assert_type(identity.key_origin, KeyOrigin)
    assert_type(identity.api, str)
    assert_type(identity.mqtt_endpoint, str)
    assert_type(identity.mqtt_port, int)
    assert_type(identity.attested, bool)
    assert_type(identity.key_uri, Pkcs11Uri)
    certificate: Certificate = identity.certificate
    assert certificate


def it_cannot_be_changed(identity: Identity) -> None:
    """An Identity is a value."""
    identity.thing_name = "another"  # type: ignore[misc]
    identity.key_uri = Pkcs11Uri()  # type: ignore[misc]


def it_is_saved_into_a_folder(identity: Identity, folder: Path) -> None:
    """Saving returns nothing and wants to know where."""
    assert_type(identity.save(folder), None)
    identity.save()  # type: ignore[call-arg]


def a_connection_tells_what_it_has_done_without(identity: Identity) -> None:
    """Each fallback is a sentence, or None."""
    with connect(identity) as connection:
        assert_type(connection.tls_fallback, str | None)
        assert_type(connection.client_id_fallback, str | None)
        connection.client_id_fallback = None  # type: ignore[misc]


def errors_carry_data(error: HsmEnrollError) -> None:
    """What ``--json`` says of an error is typed."""
    assert_type(error.code, str)
    assert_type(error.exit_status, int)
    assert_type(error.retryable, bool)
    assert_type(error.message, str)
    assert_type(error.hint, str)


def errors_are_one_tree() -> None:
    """One ``except`` catches them all, and each can be caught by itself."""
    try:
        Identity.load()
    except NotEnrolledError as missing:
        as_base: HsmEnrollError = missing
        assert as_base
    except StateError as unusable:
        as_exception: Exception = unusable
        assert as_exception
    except HsmEnrollError as error:
        assert_type(error, HsmEnrollError)


def an_error_is_made_with_a_message_and_perhaps_a_hint() -> None:
    """The hint is given by name."""
    HsmEnrollError("what happened")
    HsmEnrollError("what happened", hint="what to do")
    HsmEnrollError("what happened", "what to do")  # type: ignore[call-arg]
