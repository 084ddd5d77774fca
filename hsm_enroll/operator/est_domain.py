"""The domain name with mutual TLS that EST's simplereenroll needs (RFC 7030 §4.2.2), as a part of a deployment."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_enroll.errors import UsageError

_DOMAIN, _TARGET = "EstDomainName", "EstTarget"
_NEEDED = {"EstCertificate": "--est-certificate", "EstTruststore": "--est-truststore"}


def check(parameters: Mapping[str, str]) -> None:
    """Refuse a domain name that API Gateway could not serve.

    Args:
        parameters: the stack's, as kept and as asked for.

    Raises:
        UsageError: it has no server certificate, or no truststore.
    """
    missing = [option for name, option in _NEEDED.items() if not parameters.get(name)]
    if parameters.get(_DOMAIN) and missing:
        raise UsageError(
            f"the domain name {parameters[_DOMAIN]} needs a certificate and a truststore",
            hint=f"Pass {' and '.join(missing)} too.",
        )


def notes(parameters: Mapping[str, str], outputs: Mapping[str, str]) -> list[str]:
    """Return what the operator has to do for the domain name of a stack; nothing if there is none."""
    name, target = parameters.get(_DOMAIN), outputs.get(_TARGET)
    return [f"DNS has to have {name} as a CNAME of {target}"] if name and target else []
