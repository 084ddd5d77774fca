"""moto without what would take most of the tests' time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import yaml
from botocore.loaders import JSONFileLoader, Loader
from moto import mock_aws
from moto.core.serialize import AttributePickerContext, XFormedAttributePicker
from moto.core.utils import method_names_from_class


@contextmanager
def quick_aws() -> Iterator[None]:
    """Give botocore an empty account, in which a new client costs little.

    Each session of botocore looks for AWS's API models anew and reads them; here all sessions share them. moto parses
    a template for each look at its stack; here only once. So it is with the names by which it looks for each member of
    an answer, and for its own methods. Its hundreds of patterns for the library requests, which botocore does not use,
    are left out.
    """
    with (
        mock.patch.object(JSONFileLoader, "load_file", lambda _, path: _model(path)),
        mock.patch.object(Loader, "list_available_services", lambda _, type_name: _services(type_name)),
        mock.patch("moto.core.models.RESPONSES_METHODS", []),
        mock.patch("yaml.load", lambda text, Loader: copy.deepcopy(_parsed(text, Loader))),  # noqa: N803 - PyYAML's
        mock.patch.object(XFormedAttributePicker, "__call__", _pick),
        mock.patch("moto.core.responses.method_names_from_class", _method_names),
        mock_aws(),
    ):
        yield


_load_file = JSONFileLoader.load_file
_yaml_load = yaml.load
_list_available_services = Loader.list_available_services
_pick_slowly = XFormedAttributePicker.__call__
_method_names = cache(method_names_from_class)


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
