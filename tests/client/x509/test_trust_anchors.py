"""Which certificates are trusted: the CA file's, the one's that the environment names, the system's."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_enroll.errors import UsageError
from hsm_enroll.x509 import trust_anchors
from tests.support.authority import Authority

_DAMAGED = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
_CRL = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA of its own."""
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


def _trusted(ca_file: Path | None) -> list[bytes]:
    return trust_anchors.context(ca_file).get_ca_certs(binary_form=True)


def _der(authority: Authority) -> bytes:
    return ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (lambda _: b"", r"it is empty"),
        (lambda _: b" \n", r"it is empty"),
        (lambda _: b"nothing like a certificate", r"does not contain PEM certificates$"),
        (lambda _: os.urandom(99).replace(b"-", b"x"), r"does not contain PEM certificates"),
        (lambda text: ssl.PEM_cert_to_DER_cert(text), r"it is in DER"),
        (lambda text: text.encode("utf-16"), r"it is UTF-16 text"),
        (lambda _: _CRL.encode(), r"does not contain PEM certificates$"),
        (lambda _: _DAMAGED.encode(), r"contains a certificate that is damaged"),
        (lambda text: f"{text}{_DAMAGED}".encode(), r"contains a certificate that is damaged"),
        (lambda text: text.replace("M", "é", 1).encode("latin-1"), r"contains a certificate that is damaged"),
        (lambda text: text[:200].encode(), r"does not contain PEM certificates$"),
        (lambda _: bytes(16 * 1024 * 1024 + 1), r"cannot be read: it is larger than 16384 KiB"),
    ],
    ids=[
        "empty",
        "blank",
        "text",
        "noise",
        "DER",
        "UTF-16",
        "CRL",
        "damaged",
        "half-damaged",
        "latin-1",
        "cut",
        "huge",
    ],
)
@pytest.mark.parametrize("read", [trust_anchors.pem, trust_anchors.context])
def test_a_file_without_usable_certificates_is_refused_by_name(
    read: Callable[[Path], object], content: Callable[[str], bytes], fault: str, authority: Authority, tmp_path: Path
) -> None:
    """D24: it is a usage error that says what the file is, and never means the system's authorities."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(content(authority.certificate.read_text()))
    with pytest.raises(UsageError, match=rf"{ca_file} .*{fault}") as refused:
        read(ca_file)
    assert "HSM_ENROLL_CA_FILE" in refused.value.hint


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda _: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: os.mkfifo(path), "it is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
    ids=["missing", "folder", "FIFO", "device", "loop"],
)
def test_what_is_no_readable_file_is_refused_by_name(
    make: Callable[[Path], object], fault: str, tmp_path: Path
) -> None:
    """D24: a path that leads to no regular file is a usage error at once, also where reading would never end."""
    ca_file = tmp_path / "ca.pem"
    make(ca_file)
    with pytest.raises(UsageError, match=rf"{ca_file} cannot be read: .*{fault}"):
        trust_anchors.pem(ca_file)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_of_a_bundle_only_the_certificates_are_used(line_end: str, authority: Authority, tmp_path: Path) -> None:
    """D24: a mark, comments, a CRL and a private key beside the certificates are left out of what is passed on."""
    other = Authority(tmp_path / "other")
    key = authority.issue_pair("localhost", ["localhost"]).key.read_text()
    parts = ("\ufeff# Autorité\n", authority.certificate.read_text(), _CRL, key, other.certificate.read_text())
    ca_file = tmp_path / "bundle.pem"
    ca_file.write_text("".join(parts), encoding="utf-8", newline=line_end)
    passed_on = trust_anchors.pem(ca_file)
    assert passed_on is not None
    assert passed_on.count(b"-----BEGIN ") == passed_on.count(b"-----BEGIN CERTIFICATE-----") == 2
    assert sorted(_trusted(ca_file)) == sorted([_der(authority), _der(other)])


def test_the_setting_precedes_requests_and_requests_precedes_openssl(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D25: HSM_ENROLL_CA_FILE, REQUESTS_CA_BUNDLE, SSL_CERT_FILE, in this order; the first alone is trusted."""
    requests, openssl = Authority(tmp_path / "requests"), Authority(tmp_path / "openssl")
    monkeypatch.setenv("SSL_CERT_FILE", str(openssl.certificate))
    assert _trusted(None) == [_der(openssl)]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(requests.certificate))
    assert _trusted(None) == [_der(requests)]
    assert _trusted(authority.certificate) == [_der(authority)]


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_variable_that_names_an_unusable_file_is_named(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D24: the hint names the variable to correct."""
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(UsageError, match="Is a directory") as refused:
        trust_anchors.context(None)
    assert variable in refused.value.hint


def test_without_any_name_the_systems_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing replaces the system's authorities; a variable that is empty is not set."""
    monkeypatch.setenv("SSL_CERT_FILE", "")
    assert trust_anchors.pem(None) is None
    system = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.delenv("SSL_CERT_FILE")
    system.load_default_certs()
    assert _trusted(None) == system.get_ca_certs(binary_form=True)


def test_a_system_without_authorities_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no trust store, that is the fault, and not the server's certificate."""
    nowhere = ssl.get_default_verify_paths()._replace(cafile=None, capath=None)  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)
    with pytest.raises(UsageError, match=r"no trusted CA certificates: neither /") as refused:
        trust_anchors.context(None)
    assert "ca-certificates" in refused.value.hint


def test_other_programs_get_the_file_that_is_trusted(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the chosen one, or else the system's, wherever that is; without any, the error says what to install."""
    monkeypatch.setattr(trust_anchors, "BUNDLES", (tmp_path / "debian", tmp_path / "other"))
    assert trust_anchors.file(authority.certificate) == authority.certificate
    with pytest.raises(UsageError, match="no file of trusted CA certificates") as caught:
        trust_anchors.file(None)
    assert "ca-certificates" in caught.value.hint
    (tmp_path / "other").touch()
    assert trust_anchors.file(None) == tmp_path / "other"
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    assert trust_anchors.file(None) == authority.certificate
    with pytest.raises(UsageError, match="does not contain PEM"):
        trust_anchors.file(tmp_path / "other")
