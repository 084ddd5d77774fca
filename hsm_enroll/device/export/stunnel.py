"""stunnel's configuration, and mosquitto's for a bridge through it.

mosquitto's own bridge cannot use an engine (2.0: "DECODER routines::unsupported"), stunnel can.
"""

from __future__ import annotations

from hsm_enroll.device.export.values import Exported, File, header
from hsm_enroll.errors import UsageError

TUNNEL_PORT = 8884
"""The loopback port at which stunnel accepts connections."""

_ALPN_PORT = 443


def files(exported: Exported) -> list[File]:
    """Return ``stunnel.conf`` and ``bridge.conf``.

    Raises:
        UsageError: the broker's port is one for which stunnel would have to negotiate a protocol.
    """
    if exported.port == _ALPN_PORT:
        raise UsageError(
            f"stunnel cannot use port {_ALPN_PORT} of AWS IoT: it does not negotiate a protocol (ALPN)",
            hint="Use port 8883: HSM_ENROLL_MQTT_PORT=8883 hsm-enroll export stunnel",
        )
    return [File("stunnel.conf", _tunnel(exported)), File("bridge.conf", _bridge(exported))]


def _tunnel(exported: Exported) -> str:
    about = header(
        exported,
        "stunnel",
        *exported.notes,
        "To run it:",
        exported.command_line("stunnel4 stunnel.conf"),
        "For Debian's service stunnel@NAME, name this file /etc/stunnel/NAME.conf.",
        f"Whoever can connect to port {TUNNEL_PORT} of this machine is this device for the broker.",
    )
    return (
        f"{about}"
        "foreground = yes\npid =\n"
        f"engine = pkcs11\nengineCtrl = MODULE_PATH:{exported.module}\n"
        "\n[aws-iot]\nclient = yes\n"
        f"accept = 127.0.0.1:{TUNNEL_PORT}\n"
        f"connect = {exported.endpoint}:{exported.port}\n"
        f"sni = {exported.endpoint}\n"
        f"CAfile = {exported.ca_file}\nverifyChain = yes\ncheckHost = {exported.endpoint}\n"
        "sslVersionMin = TLSv1.2\n"
        f"cert = {exported.certificate_file}\nengineId = pkcs11\nkey = {exported.key_uri}\n"
    )


def _bridge(exported: Exported) -> str:
    about = header(
        exported,
        "stunnel",
        "For mosquitto, in /etc/mosquitto/conf.d: a bridge through the tunnel of stunnel.conf.",
        "What is published here below the first topic goes to the broker; what it sends below the second arrives here.",
    )
    topic = f"device/{exported.thing_name}"
    return (
        f"{about}"
        f"connection aws-iot\naddress 127.0.0.1:{TUNNEL_PORT}\n"
        f"remote_clientid {exported.thing_name}/bridge\n"
        "bridge_protocol_version mqttv311\n"
        # Messages wait here while there is no connection.
        "cleansession true\nlocal_cleansession false\n"
        # AWS IoT ends a connection that uses mosquitto's own topics or protocol.
        "notifications false\ntry_private false\nbridge_attempt_unsubscribe false\n"
        f"topic {topic}/# out 1\ntopic {topic}/commands/# in 1\n"
    )
