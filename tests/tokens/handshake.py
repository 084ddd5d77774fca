"""A TLS handshake between awscrt, with a key in a token, and Python's ssl module, which is another implementation.

``python -m tests.tokens.handshake`` is the client: its request, with the PIN, comes on stdin. It is a process of its
own since awscrt and python-pkcs11 cannot share one.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.keypair import KeyPair

TLS_1_2, TLS_1_3 = "TLSv1.2", "TLSv1.3"

_TIME_LIMIT = 60.0
_ROOT = Path(__file__).parents[2]
_VERSIONS = {TLS_1_2: ssl.TLSVersion.TLSv1_2, TLS_1_3: ssl.TLSVersion.TLSv1_3}


@dataclass
class _Server:
    """One connection with a required client certificate, in one version of TLS."""

    context: ssl.SSLContext
    peer: bytes | None = None
    version: str | None = None
    error: str = ""
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def serve(self) -> None:
        self.listener.settimeout(_TIME_LIMIT)
        try:
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(_TIME_LIMIT)
                with self.context.wrap_socket(connection, server_side=True) as secure:
                    # In TLS 1.3 wrap_socket returns once the client's signature has been verified (RFC 8446 §2).
                    self.peer, self.version = secure.getpeercert(binary_form=True), secure.version()
                    # Until the client closes: it takes an end that comes right behind the handshake for a failure.
                    secure.recv(1)
        except OSError as error:
            self.error = str(error)


def shake(
    name: TokenName, pin: Secret | None, pair: KeyPair, version: str, folder: Path, *, signing: str | None = None
) -> str:
    """Have awscrt connect with a key, its certificate made by a CA of this call's own.

    Args:
        name: the token; its label and the key's are unique.
        pin: its PIN; None asks at a protected authentication path.
        pair: the key that the certificate is for.
        version: ``TLS_1_2`` or ``TLS_1_3``, the only one that the server takes.
        folder: a folder for certificates.
        signing: label of the key that signs; None is the certificate's.

    Returns:
        The version negotiated, where the server saw the certificate and a good signature; else what went wrong.
    """
    authority = ec.generate_private_key(ec.SECP256R1())
    root = _certificate("a CA", authority.public_key(), authority)
    server_key = ec.generate_private_key(ec.SECP256R1())
    client = _certificate("device", load_der_public_key(pair.public_key_info), authority)
    (folder / "ca.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "server.pem").write_bytes(
        _certificate("localhost", server_key.public_key(), authority).public_bytes(Encoding.PEM)
        + server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    server = _Server(_context(folder, version))
    thread = threading.Thread(target=server.serve)
    thread.start()
    request = {
        "module": str(name.module),
        "token": name.label,
        "key": signing or pair.label,
        "pin": None if pin is None else pin.reveal(),
        "certificate": client.public_bytes(Encoding.PEM).decode(),
        "ca": root.public_bytes(Encoding.PEM).decode(),
        "port": server.listener.getsockname()[1],
        "tls13": version == TLS_1_3,
    }
    environment = {variable: value for variable, value in os.environ.items() if variable != "HSM_ENROLL_PIN"}
    try:
        run = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(request), text=True, capture_output=True, timeout=_TIME_LIMIT, check=False,
            env=environment | {"PYTHONPATH": str(_ROOT)},
        )  # fmt: skip
        if run.returncode != 0:
            return run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"the client ended: {run.returncode}"
    finally:
        # Where the client never came, the server is not waited for: its listener's end ends it.
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        thread.join(_TIME_LIMIT)
    assert server.version is None or server.peer == client.public_bytes(Encoding.DER)
    return server.version or server.error


def _context(folder: Path, version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = _VERSIONS[version]
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem")
    return context


def _certificate(common_name: str, public_key: object, authority: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA")]),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]),
        public_key,  # type: ignore[arg-type]
        x509.random_serial_number(),
        now - day,
        now + day,
    )
    if common_name == "a CA":
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    if common_name == "localhost":
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(authority, hashes.SHA256())


def _child() -> None:
    from awscrt import http, io

    request = json.load(sys.stdin)
    library = io.Pkcs11Lib(file=request["module"], behavior=io.Pkcs11Lib.InitializeFinalizeBehavior.DEFAULT)
    options = io.TlsContextOptions.create_client_with_mtls_pkcs11(
        pkcs11_lib=library,
        user_pin=request["pin"],
        token_label=request["token"],
        private_key_label=request["key"],
        cert_file_contents=request["certificate"].encode(),
    )
    options.min_tls_ver = io.TlsVersion.TLSv1_2
    if request["tls13"]:
        options.cipher_pref = io.TlsCipherPref.TLSv1_2_2025_07
    options.override_default_trust_store(request["ca"].encode())
    connection = io.ClientTlsContext(options).new_connection_options()
    connection.set_server_name("localhost")
    group = io.EventLoopGroup(1)
    bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))
    opened = http.HttpClientConnection.new(
        host_name="127.0.0.1",
        port=request["port"],
        bootstrap=bootstrap,
        socket_options=io.SocketOptions(),
        tls_connection_options=connection,
    )
    opened.result(_TIME_LIMIT).close().result(_TIME_LIMIT)


if __name__ == "__main__":
    _child()
