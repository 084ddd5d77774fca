"""moto without what would take most of the tests' time."""

from __future__ import annotations

import inspect
import pickle
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
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
from moto.core.utils import MISSING, get_value, method_names_from_class
from moto.iot.models import FakeRoleAlias
from moto.kms.utils import generate_private_key

from hsm_enroll.local.fidelity import by_condition, delete_role_alias, without_no_value
from tests.support.quick_table import quick_table


@contextmanager
def quick_aws() -> Iterator[None]:
    """Give botocore an empty account, in which a new client costs little.

    Each session of botocore looks for AWS's API models anew and reads them, makes classes of clients from them, and
    finds out the same about its own handlers and events; here all sessions share what that gives. moto parses
    a template for each look at its stack, and both write it as a form's field and read it from one; here only once. So
    it is with the names by which it looks for each member of an answer, and for its own methods. Its hundreds of
    patterns for the library requests, which botocore does not use, are left out. A signature with the tests' own
    credentials, which nobody checks, is not computed, and the header User-Agent says only what a client's configuration
    adds to it. An answer's id is always the same, and so is the key that each account has in KMS. And AWS::NoValue and
    conditions mean what they mean to CloudFormation.
    """
    with (
        mock.patch.object(JSONFileLoader, "load_file", lambda _, path: _model(path)),
        mock.patch.object(Loader, "list_available_services", lambda _, type_name: _services(type_name)),
        mock.patch("moto.core.models.RESPONSES_METHODS", []),
        mock.patch("yaml.load", lambda text, Loader: pickle.loads(_parsed(text, Loader))),  # noqa: N803, S301 - PyYAML's
        mock.patch("urllib.parse.quote_from_bytes", _quoted),
        mock.patch("urllib.parse.unquote_to_bytes", _unquoted),
        mock.patch.object(XFormedAttributePicker, "__call__", _pick),
        mock.patch("moto.core.responses.method_names_from_class", _method_names),
        mock.patch.object(ClientCreator, "_create_client_class", _client_class),
        mock.patch.object(EventAliaser, "_alias_event_name", _aliased),
        mock.patch("botocore.hooks.accepts_kwargs", _accepts_kwargs),
        mock.patch.object(RequestSigner, "sign", _sign),
        mock.patch.object(UserAgentString, "to_string", _user_agent),
        mock.patch("moto.core.responses.gen_amzn_requestid_long", _request_id),
        mock.patch("moto.kms.models.generate_private_key", _kms_key),
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
_quoted = lru_cache(200)(urllib.parse.quote_from_bytes)
_unquoted = lru_cache(200)(urllib.parse.unquote_to_bytes)
_method_names = cache(method_names_from_class)
_kms_key = cache(generate_private_key)
_really_sign = RequestSigner.sign
_alias_slowly: Any = vars(EventAliaser)["_alias_event_name"]
_make_client_class: Any = vars(ClientCreator)["_create_client_class"]
_client_classes: dict[str, Any] = {}
_aliases: dict[str, str] = {}
_picked_names: dict[tuple[Any, ...], tuple[str, ...]] = {}
_OWN_ACCESS_KEY_IDS = {"testing", "FOOBARKEY"}  # the latter is what moto puts into the environment


@cache
def _model(path: str) -> Any:
    return _load_file(JSONFileLoader(), path)


@cache
def _parsed(text: str, loader: Any) -> bytes:
    return pickle.dumps(_yaml_load(text, loader))


@cache
def _services(type_name: str) -> Any:
    return _list_available_services(Loader(), type_name)


def _pick(picker: XFormedAttributePicker, context: AttributePickerContext) -> Any:
    """Return a member of an answer."""
    answer = context.obj
    names = _names(picker, context)
    if type(answer) is dict:
        value = next((answer[name] for name in names if name in answer), None)
    else:
        found = (get_value(answer, name, MISSING) for name in names)
        value = next((one for one in found if one is not MISSING), None)
    path = f"{context.key_path}.{context.key}"
    transforms = picker.response_transformers.items()
    return next((transform(value) for ending, transform in transforms if path.endswith(ending)), value)


def _names(picker: XFormedAttributePicker, context: AttributePickerContext) -> tuple[str, ...]:
    """Return the names by which moto looks for a member, which depend on what kind of thing the answer is."""
    looked_for = (*picker.alias_providers, context.key, context.shape, type(context.obj))
    if looked_for not in _picked_names:
        _picked_names[looked_for] = tuple(dict.fromkeys(picker.get_possible_keys(context)))
    return _picked_names[looked_for]


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


def _request_id(headers: dict[str, str]) -> str:
    headers["x-amzn-requestid"] = "A" * 52
    return headers["x-amzn-requestid"]
