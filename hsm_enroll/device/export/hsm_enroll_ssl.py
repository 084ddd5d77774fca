"""An SSLContext that connects as this device: its token signs the handshake, by OpenSSL's engine for PKCS#11 (libp11).

For http.client, urllib, paho-mqtt (tls_set_context) and all else that takes an SSLContext::

    import hsm_enroll_ssl

    context = hsm_enroll_ssl.context()

Python's ssl reads keys from files alone, so the key is given to the OpenSSL that ssl itself uses, by ctypes. It needs
CPython whose ssl is linked with OpenSSL as a shared library, as distributions have it, and the engine: Debian's package
libengine-pkcs11-openssl.
"""

from __future__ import annotations

import _ssl
import ctypes
import os
import ssl
from functools import cache
from typing import Any

MODULE = ""
KEY = ""
CERTIFICATE_FILE = ""
CA_FILE = ""
ENVIRONMENT: dict[str, str] = {}

_INIT_ENGINE_DYNAMIC = 0x400  # openssl/crypto.h, OPENSSL_INIT_ENGINE_DYNAMIC
_ERROR_BYTES = 256  # ERR_error_string_n(3)
_ARGUMENTS: dict[str, list[Any]] = {
    "OPENSSL_init_crypto": [ctypes.c_uint64, ctypes.c_void_p],
    "ENGINE_by_id": [ctypes.c_char_p],
    "ENGINE_ctrl_cmd_string": [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int],
    "ENGINE_init": [ctypes.c_void_p],
    "ENGINE_load_private_key": [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p],
    "UI_OpenSSL": [],
    "SSL_CTX_get_options": [ctypes.c_void_p],
    "SSL_CTX_use_certificate_chain_file": [ctypes.c_void_p, ctypes.c_char_p],
    "SSL_CTX_use_PrivateKey": [ctypes.c_void_p, ctypes.c_void_p],
    "ERR_get_error": [],
    "ERR_error_string_n": [ctypes.c_ulong, ctypes.c_char_p, ctypes.c_size_t],
    "OpenSSL_version_num": [],
}
_RESULTS: dict[str, Any] = {
    "ENGINE_by_id": ctypes.c_void_p,
    "ENGINE_load_private_key": ctypes.c_void_p,
    "UI_OpenSSL": ctypes.c_void_p,
    "SSL_CTX_get_options": ctypes.c_uint64,
    "ERR_get_error": ctypes.c_ulong,
    "ERR_error_string_n": None,
    "OpenSSL_version_num": ctypes.c_ulong,
}


def context() -> ssl.SSLContext:
    """Return a client context that has the device's certificate and key, and checks the server's chain and name.

    The first call logs in to the token.

    Raises:
        RuntimeError: this Python's OpenSSL cannot be used for that.
        ssl.SSLError: the engine, the token, the key or the certificate cannot be used.
        OSError: the file of the authorities that are trusted cannot be read.
    """
    made = ssl.create_default_context(cafile=CA_FILE)
    library = _library()
    # The structure of an SSLContext begins with its SSL_CTX (CPython, Modules/_ssl.c, PySSLContext).
    pointer = ctypes.c_void_p.from_address(id(made) + object.__basicsize__)
    if library.SSL_CTX_get_options(pointer) != made.options & 0xFFFFFFFFFFFFFFFF:
        raise RuntimeError("this Python's SSLContext is not known: hsm_enroll_ssl.py needs CPython")
    key = _key()
    _check(library.SSL_CTX_use_certificate_chain_file(pointer, os.fsencode(CERTIFICATE_FILE)), CERTIFICATE_FILE)
    _check(library.SSL_CTX_use_PrivateKey(pointer, key), "the key is not the certificate's")
    return made


@cache
def _key() -> int:
    """Return the key, an EVP_PKEY that stays for as long as the process does."""
    library = _library()
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    library.OPENSSL_init_crypto(_INIT_ENGINE_DYNAMIC, None)
    missing = "OpenSSL's engine pkcs11 is missing; Debian has it in the package libengine-pkcs11-openssl"
    engine = _check(library.ENGINE_by_id(b"pkcs11"), missing)
    _check(library.ENGINE_ctrl_cmd_string(engine, b"MODULE_PATH", os.fsencode(MODULE), 0), MODULE)
    _check(library.ENGINE_init(engine), MODULE)
    return _check(library.ENGINE_load_private_key(engine, KEY.encode(), library.UI_OpenSSL(), None), "the token's key")


@cache
def _library() -> ctypes.CDLL:
    """Return the libraries that ssl uses: what its own module is linked with."""
    library = ctypes.CDLL(getattr(_ssl, "__file__", None))
    try:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _RESULTS.get(name, ctypes.c_int)
    except AttributeError as error:
        raise RuntimeError(
            f"{ssl.OPENSSL_VERSION} of this Python cannot use an engine: it is built into Python, or has no engines. "
            "Use the distribution's own Python"
        ) from error
    if library.OpenSSL_version_num() != ssl.OPENSSL_VERSION_NUMBER:
        raise RuntimeError(f"the library that was found is not {ssl.OPENSSL_VERSION}, which this Python's ssl uses")
    return library


def _check(result: int | None, what: str) -> int:
    """Return a result of OpenSSL's, if it is not one that says that something failed."""
    if result is not None and result > 0:
        return result
    library, reasons = _library(), []
    while code := library.ERR_get_error():
        text = ctypes.create_string_buffer(_ERROR_BYTES)
        library.ERR_error_string_n(code, text, _ERROR_BYTES)
        reasons.append(text.value.decode())
    raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"{what}: {'; '.join(reasons) or 'no reason given'}")
