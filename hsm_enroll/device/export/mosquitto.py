"""mosquitto's clients: a script that runs one of them with the key by OpenSSL's engine for PKCS#11.

The clients open the key's file before they use an engine, so a file must exist whose name is the key's URI, in the
folder where they run (mosquitto 2.0, mosquitto_tls_set).
"""

from __future__ import annotations

import shlex

from hsm_enroll.device.export.values import MODULE_VARIABLE, Exported, File, header, listening
from hsm_enroll.errors import UsageError

_LONGEST_NAME = 255  # bytes of a file's name, on Linux's file systems
# AWS IoT Developer Guide, "Device communication protocols".
_ALPN_PORT, _ALPN = 443, "x-amzn-mqtt-ca"


def files(exported: Exported) -> list[File]:
    """Return ``mosquitto.sh``, and the empty file that has the key's URI as its name.

    Raises:
        UsageError: the URI is too long for a file's name.
    """
    uri = _uri(exported)
    if not is_possible(exported):
        raise UsageError(
            "mosquitto's clients need a file whose name is the key's URI, and this one is too long for that: "
            f"{len(uri)} of {_LONGEST_NAME} bytes",
            hint="Put the PIN into a file with a shorter path, and name it in HSM_ENROLL_PIN_FILE.",
        )
    return [File("mosquitto.sh", _script(exported, uri), 0o755), File(uri, "")]


def is_possible(exported: Exported) -> bool:
    """Whether the key's URI is short enough for a file's name."""
    return len(_uri(exported)) <= _LONGEST_NAME


def _uri(exported: Exported) -> str:
    # The id names the key; without its label the URI is shorter.
    return exported._replace(key=exported.key._replace(object=None)).key_uri


def _script(exported: Exported, uri: str) -> str:
    options = [
        *("-h", exported.endpoint, "-p", str(exported.port), "-I", f"{exported.thing_name}/mosquitto-"),
        *("--cafile", str(exported.ca_file), "--cert", str(exported.certificate_file)),
        *(("--tls-alpn", _ALPN) if exported.port == _ALPN_PORT else ()),
        *("--tls-engine", "pkcs11", "--keyform", "engine", "--key", uri),
    ]
    about = header(
        exported,
        "mosquitto",
        *exported._replace(server="").notes,  # the script starts it
        "To publish, from any folder:",
        f"sh mosquitto.sh mosquitto_pub -t device/{exported.thing_name}/temperature -m 21.5",
        "mosquitto_sub and mosquitto_rr work, too. Give the option -f a whole path: the clients run in this script's",
        "folder, since they want a file there whose name is the key's URI. It stays empty.",
    )
    variables = exported.assignments(**{MODULE_VARIABLE: str(exported.module)})
    run = f'"$program" {shlex.join(options)} "$@"'
    return (
        f"#!/bin/sh\n{about}"
        '[ $# -gt 0 ] || { echo "usage: sh mosquitto.sh mosquitto_pub|mosquitto_sub|mosquitto_rr [OPTION]..." >&2; '
        "exit 2; }\n"
        'cd "$(dirname "$(readlink -f "$0")")" || exit\n'
        f"export {variables}\n"
        f"program=$1\nshift\n{_with_server(exported.server, run) if exported.server else f'exec {run}'}\n"
    )


def _with_server(start: str, run: str) -> str:
    """Return the lines that run a client while p11-kit's server runs, and end that with it.

    The client runs in the background, with this script's stdin, since a shell acts on a signal only when what runs in
    the foreground has ended; ``wait`` is cut short by the signal, and so is repeated until the client has ended.
    """
    return (
        "# tpm2-pkcs11 fails in one process with the engine, so p11-kit's server loads it.\n"
        "folder=$(mktemp -d) || exit\n"
        f'started=$({start} --name "$folder/pkcs11") || exit\n'
        'eval "$started"\n'
        'trap \'kill "$P11_KIT_SERVER_PID"; rm -r "$folder"\' EXIT\n'
        f'until {listening("$folder/pkcs11")}; do kill -0 "$P11_KIT_SERVER_PID" || exit; sleep 0.1; done\n'
        "exec 3<&0\n"
        f"{run} <&3 &\n"
        "client=$!\ntrap 'kill \"$client\"' HUP INT TERM\n"
        'while kill -0 "$client" 2>/dev/null; do wait "$client"; status=$?; done\n'
        "exit $status"
    )
