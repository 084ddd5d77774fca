"""Where moto does otherwise than AWS documents, and this project depends on the difference."""

from __future__ import annotations

import base64
import copy
import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from moto.cloudformation import parsing
from moto.core.config import default_user_config
from moto.core.responses import ActionResult
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.models.table import Table
from moto.iot.exceptions import InvalidRequestException, ResourceAlreadyExistsException
from moto.iot.models import IoTBackend
from moto.iot.responses import IoTResponse

from hsm_enroll.local.authority import Authority, CsrRefusedError

# API_ListCertificates: the range of pageSize, and its default.
_LOWEST_PAGE_SIZE, _DEFAULT_PAGE_SIZE, _HIGHEST_PAGE_SIZE = 1, 25, 250


@contextmanager
def faithful(authority: Authority) -> Iterator[None]:
    """Override moto's methods until the block ends, in the whole process.

    Args:
        authority: issues the certificates.
    """
    overrides: list[tuple[Any, str, object]] = [
        (IoTBackend, "create_certificate_from_csr", _create_certificate_from_csr(authority)),
        (IoTBackend, "create_thing", _create_thing(IoTBackend.create_thing)),
        (IoTBackend, "delete_certificate", _delete_certificate(IoTBackend.delete_certificate)),
        (IoTResponse, "list_certificates", _list_certificates),
        (DynamoDBBackend, "transact_write_items", _transact_write_items(DynamoDBBackend.transact_write_items)),
        (parsing, "parse_resource", _parse_resource(parsing.parse_resource)),
        (parsing.logger, "disabled", True),
    ]
    configuration = default_user_config["iot"]
    with ExitStack() as undo:
        for owner, name, override in overrides:
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, override)
        undo.callback(default_user_config.__setitem__, "iot", configuration)
        # A certificate's id is the SHA-256 of its DER; moto's default is that of the PEM.
        default_user_config["iot"] = {**configuration, "use_valid_cert": True}
        yield


def _parse_resource(parse: Callable[..., Any]) -> Callable[..., Any]:
    # AWS makes a resource of any type. moto leaves out the types that it does not know, the API's and the alarms, and
    # warns of each of them, time and again. Nobody misses them here: `gateway` serves the routes.
    def parse_resource(resource: dict[str, Any], known: Any) -> Any:
        return parse(resource, known) if parsing.resource_class_from_type(resource["Type"]) else None

    return parse_resource


def _create_certificate_from_csr(authority: Authority) -> Callable[..., Any]:
    # API_CreateCertificateFromCsr "creates an X.509 certificate using the specified certificate signing request": for
    # that request's key, and inactive unless setAsActive. moto's is for a key of its own.
    def create_certificate_from_csr(self: Any, csr: str, set_as_active: object) -> Any:
        try:
            certificate = authority.issue_device(csr)
        except CsrRefusedError as error:
            raise InvalidRequestException(str(error)) from error
        pem = certificate.public_bytes(Encoding.PEM).decode()
        # It comes from the query string, as the text "false" too.
        registered = self.register_certificate(pem, None, set_as_active in {True, "true"}, "INACTIVE")
        registered.validity_not_before = certificate.not_valid_before_utc
        registered.validity_not_after = certificate.not_valid_after_utc
        return registered

    return create_certificate_from_csr


def _create_thing(create: Callable[..., Any]) -> Callable[..., Any]:
    # API_CreateThing: "If this call is made multiple times using the same thing name and configuration, the call will
    # succeed. If this call is made with the same thing name but different configuration a
    # ResourceAlreadyExistsException is thrown." moto puts the new Thing in the old one's place.
    def create_thing(
        self: Any,
        thing_name: str,
        thing_type_name: str | None,
        attribute_payload: dict[str, Any] | None,
        billing_group_name: str | None = None,
    ) -> Any:
        existing = next((thing for thing in self.things.values() if thing.thing_name == thing_name), None)
        if existing is None:
            return create(self, thing_name, thing_type_name, attribute_payload, billing_group_name)
        wanted = (thing_type_name, (attribute_payload or {}).get("attributes", {}), billing_group_name)
        thing_type = existing.thing_type and existing.thing_type.thing_type_name
        if wanted != (thing_type, existing.attributes, existing.billing_group_name):
            message = f"Thing {thing_name} already exists in account with different configuration"
            raise ResourceAlreadyExistsException(message, existing.thing_id, existing.arn)
        return existing

    return create_thing


def _delete_certificate(delete: Callable[..., Any]) -> Callable[..., Any]:
    # API_DeleteCertificate: with forceDelete also while policies are attached. moto leaves the attachments behind, and
    # then fails at every later DeleteCertificate, for want of their certificate.
    def delete_certificate(self: Any, certificate_id: str, force_delete: bool) -> None:
        arn = self.describe_certificate(certificate_id).arn
        delete(self, certificate_id, force_delete)
        for attachment in [attachment for attachment in self.principal_policies if attachment[0] == arn]:
            del self.principal_policies[attachment]

    return delete_certificate


def _transact_write_items(transact: Callable[..., Any]) -> Callable[..., Any]:
    # moto copies the whole table once for each write of a transaction, to put it back should one fail: a ledger of a
    # thousand entries then takes seconds over each. Here only the items that are written are copied and put back.
    def transact_write_items(self: Any, transact_items: list[dict[str, Any]]) -> None:
        before = [_item_of(self, write) for operation in transact_items for write in operation.values()]
        Table.__deepcopy__ = lambda table, _memo: table
        try:
            transact(self, transact_items)
        except Exception:
            for table, hash_key, range_key, item in before:
                table.items[hash_key].pop(range_key, None)
                if item is not None:
                    table.items[hash_key][range_key] = item
            raise
        finally:
            del Table.__deepcopy__

    return transact_write_items


def _item_of(backend: Any, write: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Return table, hash key, range key and a copy of what a write of a transaction is about."""
    table = backend.get_table(write["TableName"])
    named = write.get("Key") or write["Item"]
    hash_key, range_key = (DynamoType(named[name]) for name in (table.hash_key_attr, table.range_key_attr))
    return table, hash_key, range_key, copy.deepcopy(table.get_item(hash_key, range_key))


def _list_certificates(self: Any) -> Any:
    # API_ListCertificates: in the order of creation, the latest first unless isAscendingOrder. "The results are
    # paginated with a default page size of 25." moto gives all of them at once, the earliest first.
    size = self._get_int_param("pageSize", _DEFAULT_PAGE_SIZE)
    if not _LOWEST_PAGE_SIZE <= size <= _HIGHEST_PAGE_SIZE:
        raise InvalidRequestException(f"pageSize is not from {_LOWEST_PAGE_SIZE} to {_HIGHEST_PAGE_SIZE}")
    ascending = self._get_bool_param("isAscendingOrder", False)
    found = sorted(self.iot_backend.certificates.values(), key=_place, reverse=not ascending)
    marker = self._get_param("marker")
    if marker is not None:
        last = _marked(marker)
        beyond = operator.gt if ascending else operator.lt
        found = [certificate for certificate in found if beyond(_place(certificate), last)]
    answer: dict[str, Any] = {"certificates": [certificate.to_dict() for certificate in found[:size]]}
    if len(found) > size:
        answer["nextMarker"] = _marker(found[size - 1])
    return ActionResult(answer)


def _place(certificate: Any) -> tuple[str, str]:
    """Return what certificates are ordered by: two may have been created at the same moment."""
    return certificate.creation_date.isoformat(timespec="microseconds"), certificate.certificate_id


def _marker(certificate: Any) -> str:
    """Return the place of a page's last certificate, which stays a place when the certificate is deleted meanwhile."""
    return base64.b64encode(" ".join(_place(certificate)).encode()).decode()


def _marked(marker: str) -> tuple[str, str]:
    try:
        created, certificate_id = base64.b64decode(marker, validate=True).decode().split(" ")
    except ValueError as error:
        raise InvalidRequestException("The marker is not one of ours.") from error
    return created, certificate_id
