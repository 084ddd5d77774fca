"""Corrects moto where it differs from AWS's documentation in a way that matters here."""

from __future__ import annotations

import base64
import json
import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from moto.cloudformation import parsing
from moto.cloudformation.models import ChangeSet
from moto.core.config import default_user_config
from moto.core.responses import ActionResult, EmptyResult
from moto.core.serialize import BaseJSONSerializer
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.table import Table
from moto.iot.exceptions import InvalidRequestException, ResourceAlreadyExistsException
from moto.iot.models import FakePolicy, FakeRoleAlias, IoTBackend, iot_backends
from moto.iot.responses import IoTResponse

from hsm_enroll.local.authority import Authority, CsrRefusedError
from hsm_enroll.local.dynamodb import copying_little, serialize_structure, update_table
from hsm_enroll.local.endpoints import CREDENTIALS_ENDPOINT, MQTT_ENDPOINT

_POLICY_VERSIONS = 5  # AWS IoT's quota, versions per policy
# API_ListCertificates: the range of pageSize, and its default.
_MIN_PAGE_SIZE, _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE = 1, 25, 250
_ENDPOINTS = {"iot:Data-ATS": MQTT_ENDPOINT, "iot:CredentialProvider": CREDENTIALS_ENDPOINT}
_EXCLUSIVE, _NOT_EXCLUSIVE = "EXCLUSIVE_THING", "NON_EXCLUSIVE_THING"


@contextmanager
def faithful(authority: Authority) -> Iterator[None]:
    """Override some of moto's methods until the block ends, in the whole process.

    An ``IoTBackend`` then has the attribute `exclusive_attachments`: the set of its attachments, as pairs of principal
    ARN and Thing name, whose type is EXCLUSIVE_THING.

    Args:
        authority: issues the certificates.
    """
    overrides: list[tuple[Any, str, object]] = [
        (IoTBackend, "attach_thing_principal", _attach_thing_principal(IoTBackend.attach_thing_principal)),
        (IoTBackend, "create_certificate_from_csr", _create_certificate_from_csr(authority)),
        (IoTBackend, "create_thing", _create_thing(IoTBackend.create_thing)),
        (IoTBackend, "delete_certificate", _delete_certificate(IoTBackend.delete_certificate)),
        (IoTBackend, "delete_thing", _delete_thing(IoTBackend.delete_thing)),
        (IoTBackend, "detach_thing_principal", _detach_thing_principal(IoTBackend.detach_thing_principal)),
        (IoTResponse, "attach_thing_principal", _attach_by_type),
        (IoTResponse, "list_certificates", _list_certificates),
        (IoTResponse, "list_principal_things_v2", _list_principal_things_v2),
        (IoTResponse, "list_thing_principals_v2", _list_thing_principals_v2),
        (FakePolicy, "update_from_cloudformation_json", update_policy),
        (FakeRoleAlias, "delete", delete_role_alias),  # None, which is what remains, is the same to moto as nothing
        (FakePolicy, "to_get_dict", policy_in_json(FakePolicy.to_get_dict)),
        (DynamoDBBackend, "transact_write_items", copying_little(DynamoDBBackend.transact_write_items)),
        (BaseJSONSerializer, "_serialize_type_structure", serialize_structure),
        (Table, "update_from_cloudformation_json", update_table),
        (IoTBackend, "describe_endpoint", _describe_endpoint(IoTBackend.describe_endpoint)),
        (ChangeSet, "apply", apply_change_set),
        (parsing, "clean_json", without_no_value(parsing.clean_json)),
        (parsing, "parse_and_update_resource", by_condition(parsing.parse_and_update_resource)),
        (parsing, "parse_resource", _parse_resource(parsing.parse_resource)),
        (parsing.logger, "disabled", True),
    ]
    configuration = default_user_config["iot"]
    with ExitStack() as undo:
        undo.callback(delattr, IoTBackend, "exclusive_attachments")
        IoTBackend.exclusive_attachments = property(_exclusive_attachments)
        for owner, name, override in overrides:
            undo.callback(setattr, owner, name, getattr(owner, name, None))
            setattr(owner, name, override)
        undo.callback(default_user_config.__setitem__, "iot", configuration)
        # With this setting, a certificate's id is the SHA-256 of its DER, as in AWS IoT, and not that of its PEM.
        default_user_config["iot"] = {**configuration, "use_valid_cert": True}
        yield


def update_policy(*, original_resource: Any, cloudformation_json: Any, **where: Any) -> Any:
    """Update a policy as CloudFormation does. Replaces `FakePolicy.update_from_cloudformation_json`."""
    # AWS::IoT::Policy, PolicyDocument: "Update requires: No interruption". CloudFormation creates a new default version
    # of the same policy, and deletes the oldest version if there are five. Unless the template names the policy, moto
    # replaces it by one with another name, and fails if it is attached.
    backend = iot_backends[where["account_id"]][where["region_name"]]
    document, name = cloudformation_json["Properties"]["PolicyDocument"], original_resource.name
    if document == original_resource.document:
        return original_resource
    if len(original_resource.versions) == _POLICY_VERSIONS:
        backend.delete_policy_version(name, original_resource.versions[0].version_id)
    backend.create_policy_version(name, document, set_as_default=True)
    return original_resource


def apply_change_set(change_set: Any) -> None:
    """Carry a change set out with its outputs, parameters and tags. Replaces `ChangeSet.apply`."""
    # API_ExecuteChangeSet "updates a stack using the input information that was provided when the specified change set
    # was created". In moto the stack's outputs remain what they were, and so do the parameters that the next change set
    # is compared with.
    stack = change_set.stack
    stack.tags = change_set.tags
    stack.template_dict, stack.parameters = change_set.template_dict, change_set.parameters
    stack.resource_map.update(stack.template_dict, stack.parameters)
    stack.output_map = parsing.OutputMap(stack.resource_map, stack.template_dict, stack.stack_id)


def policy_in_json(original: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Return a replacement for `FakePolicy.to_get_dict` that returns the document as JSON, as GetPolicy does."""

    # API_GetPolicy: "The JSON document that describes the policy." moto returns the repr of CloudFormation's dict.
    def to_get_dict(policy: Any) -> dict[str, Any]:
        document = policy.document
        return original(policy) | {"policyDocument": document if isinstance(document, str) else json.dumps(document)}

    return to_get_dict


def without_no_value(clean: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a replacement for ``parsing.clean_json`` that leaves AWS::NoValue out of lists."""

    # CloudFormation user guide, "Pseudo parameters reference": AWS::NoValue "removes the resource property", which for
    # an element of a list is that element. moto leaves None there.
    def clean_json(resource_json: Any, resources_map: Any) -> Any:
        cleaned = clean(resource_json, resources_map)
        if not isinstance(resource_json, list):
            return cleaned
        return [element for element in cleaned if element is not None]

    return clean_json


def delete_role_alias(alias: Any, account_id: str, region: str) -> None:
    """Delete a role alias with its stack. Becomes `FakeRoleAlias.delete`."""
    # moto looks for a role alias whose name is the Ref to a parameter that the template has in its place.
    iot_backends[account_id][region].delete_role_alias(alias.role_alias)


def by_condition(update: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement for ``parsing.parse_and_update_resource`` that knows what a resource's condition says."""

    # CloudFormation user guide, "Conditions section": a resource whose condition is true is created, and when the stack
    # is updated, conditions are evaluated anew. moto updates resources whatever their conditions say, also those that
    # it has not created.
    def parse_and_update_resource(name: str, resource_json: dict[str, Any], known: Any, **where: Any) -> Any:
        condition, existing = resource_json.get("Condition"), known[name]
        if condition is None or (known.lazy_condition_map[condition] and existing is not None):
            return update(name, resource_json, known, **where)
        if existing is None:
            return parsing.parse_and_create_resource(name, resource_json, known, **where)
        known._delete_resource(existing, resource_json)  # noqa: SLF001 - moto has no other way
        return None

    return parse_and_update_resource


def _describe_endpoint(describe: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    # API_DescribeEndpoint "returns or creates a unique endpoint specific to the Amazon Web Services account making the
    # call". moto returns another one each time; here it is where broker and credentials provider are.
    def describe_endpoint(self: Any, endpoint_type: str) -> Any:
        endpoint = describe(self, endpoint_type)
        endpoint.endpoint = _ENDPOINTS.get(endpoint_type, endpoint.endpoint)
        return endpoint

    return describe_endpoint


def _parse_resource(parse: Callable[..., Any]) -> Callable[..., Any]:
    # moto skips resources of types that it does not support, which are the API's and the alarms, and warns about each
    # one several times. They are not needed here, since `gateway` serves the routes; so skip them without a warning.
    def parse_resource(resource: dict[str, Any], known: Any) -> Any:
        return parse(resource, known) if parsing.resource_class_from_type(resource["Type"]) else None

    return parse_resource


def _create_certificate_from_csr(authority: Authority) -> Callable[..., Any]:
    # API_CreateCertificateFromCsr "creates an X.509 certificate using the specified certificate signing request": for
    # the key in the request, and inactive unless setAsActive. moto issues a certificate for a new key instead.
    def create_certificate_from_csr(self: Any, csr: str, set_as_active: object) -> Any:
        try:
            certificate = authority.issue_device(csr)
        except CsrRefusedError as error:
            raise InvalidRequestException(str(error)) from error
        pem = certificate.public_bytes(Encoding.PEM).decode()
        # `set_as_active` comes from the query string, so False may be the text "false".
        registered = self.register_certificate(pem, None, set_as_active in {True, "true"}, "INACTIVE")
        registered.validity_not_before = certificate.not_valid_before_utc
        registered.validity_not_after = certificate.not_valid_after_utc
        return registered

    return create_certificate_from_csr


def _create_thing(create: Callable[..., Any]) -> Callable[..., Any]:
    # API_CreateThing: "If this call is made multiple times using the same thing name and configuration, the call will
    # succeed. If this call is made with the same thing name but different configuration a
    # ResourceAlreadyExistsException is thrown." moto replaces the existing Thing.
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
        requested = (thing_type_name, (attribute_payload or {}).get("attributes", {}), billing_group_name)
        thing_type = existing.thing_type and existing.thing_type.thing_type_name
        if requested != (thing_type, existing.attributes, existing.billing_group_name):
            message = f"Thing {thing_name} already exists in account with different configuration"
            raise ResourceAlreadyExistsException(message, existing.thing_id, existing.arn)
        return existing

    return create_thing


def _delete_certificate(delete: Callable[..., Any]) -> Callable[..., Any]:
    # API_DeleteCertificate: forceDelete deletes a certificate even if policies are attached to it. moto keeps these
    # attachments, and every later DeleteCertificate then fails, because their certificate is missing.
    def delete_certificate(self: Any, certificate_id: str, force_delete: bool) -> None:
        arn = self.describe_certificate(certificate_id).arn
        delete(self, certificate_id, force_delete)
        for attachment in [attachment for attachment in self.principal_policies if attachment[0] == arn]:
            del self.principal_policies[attachment]

    return delete_certificate


def _delete_thing(delete: Callable[..., Any]) -> Callable[..., Any]:
    # API_DeleteThing: "Returns successfully with no error if the deletion is successful or you specify a thing that
    # doesn't exist." moto raises ResourceNotFoundException for a Thing that does not exist.
    def delete_thing(self: Any, thing_name: str) -> None:
        if any(thing.thing_name == thing_name for thing in self.things.values()):
            delete(self, thing_name)

    return delete_thing


def _exclusive_attachments(backend: Any) -> set[tuple[str, str]]:
    attachments: set[tuple[str, str]] = vars(backend).setdefault("exclusive_attachments", set())
    return attachments


def _attach_thing_principal(attach: Callable[..., Any]) -> Callable[..., Any]:
    # Developer guide, "Associating an AWS IoT thing to an MQTT client connection": a certificate that is attached
    # exclusively cannot be attached to another Thing. moto does not support types of attachment. The two errors are
    # those that Terraform's tests against AWS IoT expect (terraform-provider-aws, thing_principal_attachment_test.go).
    # It is not documented whether AWS IoT changes the type of an attachment. Here it does not, as the errors suggest.
    def attach_thing_principal(
        self: Any, thing_name: str, principal_arn: str, thing_principal_type: str | None = None
    ) -> None:
        exclusive = thing_principal_type == _EXCLUSIVE
        attached = [pair for pair in self.principal_things if pair[0] == principal_arn]
        exclusively = [pair for pair in attached if pair in self.exclusive_attachments]
        requested = (principal_arn, thing_name)
        if exclusive and attached and exclusively != [requested]:
            raise InvalidRequestException("Principal already has a Thing attached to it")
        if exclusively and not exclusive:
            raise InvalidRequestException("Principal already has an exclusive Thing attached to it")
        attach(self, thing_name, principal_arn)
        if exclusive:
            self.exclusive_attachments.add(requested)

    return attach_thing_principal


def _detach_thing_principal(detach: Callable[..., Any]) -> Callable[..., Any]:
    # This is the only way to end an attachment: attached Things and certificates cannot be deleted.
    def detach_thing_principal(self: Any, thing_name: str, principal_arn: str) -> None:
        detach(self, thing_name, principal_arn)
        self.exclusive_attachments.discard((principal_arn, thing_name))

    return detach_thing_principal


def _attach_by_type(self: Any) -> Any:
    kind = self._get_param("thingPrincipalType")
    if kind not in {None, _EXCLUSIVE, _NOT_EXCLUSIVE}:
        raise InvalidRequestException(f"{kind} is not a thingPrincipalType")
    self.iot_backend.attach_thing_principal(self._get_param("thingName"), self.headers.get("x-amzn-principal"), kind)
    return EmptyResult()


def _list_principal_things_v2(self: Any) -> Any:
    principal, wanted = self.headers.get("x-amzn-principal"), self._get_param("thingPrincipalType")
    things = self.iot_backend.list_principal_things_v2(principal)
    typed = _typed(self.iot_backend, [(principal, thing) for thing in things], wanted)
    return ActionResult({"principalThingObjects": [{"thingName": thing, **kind} for (_, thing), kind in typed]})


def _list_thing_principals_v2(self: Any) -> Any:
    thing, wanted = self._get_param("thingName"), self._get_param("thingPrincipalType")
    principals = self.iot_backend.list_thing_principals_v2(thing)
    typed = _typed(self.iot_backend, [(principal, thing) for principal in principals], wanted)
    return ActionResult({"thingPrincipalObjects": [{"principal": arn, **kind} for (arn, _), kind in typed]})


def _typed(
    backend: Any, attachments: list[tuple[str, str]], wanted: str | None
) -> list[tuple[tuple[str, str], dict[str, str]]]:
    """Return the attachments of one type, or all if `wanted` is None, each with its type."""
    typed = [(pair, _EXCLUSIVE if pair in backend.exclusive_attachments else _NOT_EXCLUSIVE) for pair in attachments]
    return [(pair, {"thingPrincipalType": kind}) for pair, kind in typed if wanted in {None, kind}]


def _list_certificates(self: Any) -> Any:
    # API_ListCertificates: in order of creation, newest first unless isAscendingOrder. "The results are paginated with
    # a default page size of 25." moto returns all of them at once, oldest first.
    size = self._get_int_param("pageSize", _DEFAULT_PAGE_SIZE)
    if not _MIN_PAGE_SIZE <= size <= _MAX_PAGE_SIZE:
        raise InvalidRequestException(f"pageSize must be from {_MIN_PAGE_SIZE} to {_MAX_PAGE_SIZE}")
    ascending = self._get_bool_param("isAscendingOrder", False)
    found = sorted(self.iot_backend.certificates.values(), key=_sort_key, reverse=not ascending)
    marker = self._get_param("marker")
    if marker is not None:
        last = _decode_marker(marker)
        comes_after = operator.gt if ascending else operator.lt
        found = [certificate for certificate in found if comes_after(_sort_key(certificate), last)]
    response: dict[str, Any] = {"certificates": [certificate.to_dict() for certificate in found[:size]]}
    if len(found) > size:
        response["nextMarker"] = _encode_marker(found[size - 1])
    return ActionResult(response)


def _sort_key(certificate: Any) -> tuple[str, str]:
    """Return the creation date; and the id, since two certificates may have the same date."""
    return certificate.creation_date.isoformat(timespec="microseconds"), certificate.certificate_id


def _encode_marker(certificate: Any) -> str:
    """Return the sort key of a page's last certificate; it remains valid if that certificate is deleted."""
    return base64.b64encode(" ".join(_sort_key(certificate)).encode()).decode()


def _decode_marker(marker: str) -> tuple[str, str]:
    try:
        created, certificate_id = base64.b64decode(marker, validate=True).decode().split(" ")
    except ValueError as error:
        raise InvalidRequestException("The marker is invalid.") from error
    return created, certificate_id
