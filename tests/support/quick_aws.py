"""moto without what would take most of the tests' time."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import yaml
from botocore.client import ClientCreator
from botocore.compat import accepts_kwargs
from botocore.hooks import EventAliaser
from botocore.loaders import JSONFileLoader, Loader
from botocore.signers import RequestSigner
from botocore.useragent import UserAgentString
from moto import mock_aws
from moto.cloudformation import parsing
from moto.core.serialize import AttributePickerContext, XFormedAttributePicker
from moto.core.utils import method_names_from_class
from moto.iot.models import FakeRoleAlias

from hsm_enroll.local.fidelity import by_condition, delete_role_alias, without_no_value
from tests.support.quick_table import quick_table


@contextmanager
def quick_aws() -> Iterator[None]:
    """Give botocore an empty account, in which a new client costs little.

    Each session of botocore looks for AWS's API models anew and reads them, makes classes of clients from them, and
    finds out the same about its own handlers and events; here all sessions share what that gives. moto parses
    a template for each look at its stack; here only once. So it is with the names by which it looks for each member of
    an answer, and for its own methods. Its hundreds of patterns for the library requests, which botocore does not use,
    are left out. A signature with the tests' own credentials, which nobody checks, is not computed, and the header
    User-Agent says only what a client's configuration adds to it. And AWS::NoValue and conditions mean what they mean
    to CloudFormation.
    """
    with (
        mock.patch.object(JSONFileLoader, "load_file", lambda _, path: _model(path)),
        mock.patch.object(Loader, "list_available_services", lambda _, type_name: _services(type_name)),
        mock.patch("moto.core.models.RESPONSES_METHODS", []),
        mock.patch("yaml.load", lambda text, Loader: copy.deepcopy(_parsed(text, Loader))),  # noqa: N803 - PyYAML's
        mock.patch.object(XFormedAttributePicker, "__call__", _pick),
        mock.patch("moto.core.responses.method_names_from_class", _method_names),
        mock.patch.object(ClientCreator, "_create_client_class", _client_class),
        mock.patch.object(EventAliaser, "_alias_event_name", _aliased),
        mock.patch("botocore.hooks.accepts_kwargs", _accepts_kwargs),
        mock.patch.object(RequestSigner, "sign", _sign),
        mock.patch.object(UserAgentString, "to_string", _user_agent),
        quick_table(),
        mock.patch.object(parsing, "clean_json", _clean_json),
        mock.patch.object(parsing, "parse_and_update_resource", _update_resource),
        mock.patch.object(FakeRoleAlias, "delete", delete_role_alias, create=True),
        mock_aws(),
    ):
        yield


_update_resource = by_condition(parsing.parse_and_update_resource)
_clean_json = without_no_value(parsing.clean_json)
_load_file = JSONFileLoader.load_file
_yaml_load = yaml.load
_list_available_services = Loader.list_available_services
_pick_slowly = XFormedAttributePicker.__call__
_method_names = cache(method_names_from_class)
_really_sign = RequestSigner.sign
_alias_slowly: Any = vars(EventAliaser)["_alias_event_name"]
_make_client_class: Any = vars(ClientCreator)["_create_client_class"]
_client_classes: dict[str, Any] = {}
_aliases: dict[str, str] = {}
_OWN_ACCESS_KEY_IDS = {"testing", "FOOBARKEY"}  # the latter is what moto puts into the environment


@cache
def _model(path: str) -> Any:
    return _load_file(JSONFileLoader(), path)


@cache
def _parsed(text: str, loader: Any) -> Any:
    return _yaml_load(text, loader)


@cache
def _services(type_name: str) -> Any:
    return _list_available_services(Loader(), type_name)


def _pick(picker: XFormedAttributePicker, context: AttributePickerContext) -> Any:
    """Return a member of an answer, which is a dictionary almost always."""
    answer = context.obj
    if type(answer) is not dict or picker.response_transformers:
        return _pick_slowly(picker, context)
    names = _names(tuple(picker.alias_providers), context.key, context.shape)
    return next((answer[name] for name in names if name in answer), None)


@cache
def _names(providers: tuple[Any, ...], key: str, shape: Any) -> tuple[str, ...]:
    """Return the names by which moto looks for a member in a dictionary."""
    return tuple(XFormedAttributePicker(list(providers)).get_possible_keys(AttributePickerContext({}, key, shape)))


def _client_class(creator: Any, service_name: str, service_model: Any) -> Any:
    if service_name not in _client_classes:
        _client_classes[service_name] = _make_client_class(creator, service_name, service_model)
    return _client_classes[service_name]


def _aliased(aliaser: Any, event_name: str) -> str:
    if event_name not in _aliases:
        _aliases[event_name] = str(_alias_slowly(aliaser, event_name))
    return _aliases[event_name]


def _accepts_kwargs(handler: Any) -> bool:
    """Return whether a function takes any keyword argument, which its code says."""
    code = getattr(handler, "__code__", None)
    return bool(accepts_kwargs(handler) if code is None else code.co_flags & inspect.CO_VARKEYWORDS)


def _sign(signer: Any, operation_name: str, request: Any, **more: Any) -> None:
    """Say who calls, and in which region, which is all that moto reads; sign only what it may check."""
    credentials = signer._credentials  # noqa: SLF001
    if credentials is None or credentials.access_key not in _OWN_ACCESS_KEY_IDS:
        _really_sign(signer, operation_name, request, **more)
        return
    scope = f"{credentials.access_key}/20260101/{signer.region_name}/{signer.signing_name}/aws4_request"
    request.headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"


def _user_agent(string: Any) -> str:
    config = string._client_config  # noqa: SLF001
    return f"Boto3 {(config and config.user_agent_extra) or ''}".rstrip()
