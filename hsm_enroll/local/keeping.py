"""Keeps what moto knows, all of AWS's resources, in a file of the home between two runs of a local cloud.

The file is a line of JSON, which names the versions of moto and Python that wrote it, and a pickle of moto's backends.
A pickle can run any code when it is loaded: the file is in the home, whose owner alone can write to it, beside the CA's
key. moto does not promise that another version can read its objects, so only the same version does.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import weakref
from collections import defaultdict
from importlib.metadata import version
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from moto.backends import get_backend
from moto.core.base_backend import BackendDict

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.home import Home, write


def save(home: Home) -> None:
    """Write the state of moto to the home.

    Raises:
        LocalCloudError: it cannot be written. The state that was kept before is still there.
    """
    state = {
        backends.service_name: [(account, region, backend) for account, region, backend in backends.iter_backends()]
        for backends in BackendDict._instances  # noqa: SLF001 - moto has no other list of the backends in use
    }
    content = io.BytesIO()
    content.write(json.dumps(_versions()).encode() + b"\n")
    try:
        _Pickler(content).dump(state)
        write(home.kept_state, content.getvalue())
    except Exception as error:  # whatever an object raises that cannot be pickled
        raise LocalCloudError(
            f"The state of the local cloud cannot be kept in {home.kept_state}: {error}.",
            hint="The state that was kept before, if any, is still there.",
        ) from error


def restore(home: Home) -> bool:
    """Give moto, which has been reset, the state that was kept in the home; return whether there is one.

    Raises:
        LocalCloudError: it is damaged, or of another version of moto or Python.
    """
    try:
        content = home.kept_state.read_bytes()
    except FileNotFoundError:
        return False
    header, _, pickled = content.partition(b"\n")
    try:
        versions = json.loads(header)
        if versions == _versions():
            _restore(pickle.loads(pickled))  # noqa: S301 - see above
            return True
    except Exception as error:  # damaged pickles raise anything
        raise LocalCloudError(f"{home.kept_state} is damaged.", hint=_start_anew(home)) from error
    wrote = " and ".join(f"{name} {number}" for name, number in versions.items())
    raise LocalCloudError(
        f"{home.kept_state} was written with {wrote}, and cannot be read with other versions.", hint=_start_anew(home)
    )


def _restore(state: dict[str, list[tuple[str, str, Any]]]) -> None:
    for service, found in state.items():
        for account, region, backend in found:
            get_backend(service)[account][region] = backend


def _versions() -> dict[str, str]:
    return {"moto": version("moto"), "Python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def _start_anew(home: Home) -> str:
    return f"Remove the file to start without that state; devices then have to be enrolled again: rm {home.kept_state}"


def _private_key(der: bytes) -> Any:
    return load_der_private_key(der, None)


def _makes_dicts(factory: Any) -> bool:
    return getattr(factory, "__name__", "") == "<lambda>" and factory() == {}


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        """Return how to rebuild the objects in moto's backends that pickle cannot handle by itself."""
        if isinstance(obj, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            der = obj.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            return _private_key, (der,)
        if isinstance(obj, weakref.WeakValueDictionary):
            return weakref.WeakValueDictionary, (dict(obj),)
        if isinstance(obj, defaultdict) and obj.default_factory is not dict and _makes_dicts(obj.default_factory):
            return defaultdict, (dict,), None, None, iter(obj.items())
        return NotImplemented
