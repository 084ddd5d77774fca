"""A stand-in for API Gateway and the backend behind it: HTTPS on loopback, and no answer without a right signature.

It speaks the contract of the operator's routes from memory. The signature is computed anew, by botocore, from what
arrived: method, path, the query decoded and encoded again, the signed headers, the body.
"""

from __future__ import annotations

import json
import re
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.authority import Authority

REGION = "eu-west-3"
ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET_ACCESS_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EXPIRES = "2026-11-24T10:00:00Z"
OPERATOR = "arn:aws:iam::123456789012:user/operator"
_LARGEST_BODY = 16 * 1024
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d{8})/([a-z0-9-]+)/execute-api/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)

Reply = tuple[int, dict[str, str], bytes]


def json_reply(status: int, content: object, **headers: str) -> Reply:
    """Return an answer in JSON; underscores of header names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json", **named}, json.dumps(content).encode()


def problem(status: int, code: str, **headers: str) -> Reply:
    """Return a problem document (RFC 9457)."""
    status, named, body = json_reply(
        status, {"status": status, "code": code, "detail": f"Detail of {code}.", "requestId": "the-request"}, **headers
    )
    return status, {**named, "Content-Type": "application/problem+json"}, body


@dataclass
class Received:
    """One request whose signature was right."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class Backend:
    """What the stand-in holds, and what happened to it.

    Attributes:
        replies: given instead of the contract's answer, by the request's number from 0 on.
        stubborn: Things that cannot be revoked, with the answer to it.
        sweeps: the parts of a sweep, as they are answered where they are not only looked at.
        rebuilds: the parts of a rebuild.
        attached: what AWS IoT has attached to a Thing, besides its own certificate.
        eks: the manifest, by fingerprint.
        authorities: the CAs of EK certificates that are trusted, by fingerprint.
        ca_ends: when a certificate of such a CA expires.
        token: what a page's token begins with. It has every character that has to be escaped, and is to come back as it
            was.
    """

    url: str = ""
    invites: dict[str, dict[str, Any]] = field(default_factory=dict)
    codes: list[str] = field(default_factory=list)
    things: dict[str, dict[str, Any]] = field(default_factory=dict)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    rebuilds: list[dict[str, Any]] = field(default_factory=list)
    attached: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    eks: dict[str, dict[str, Any]] = field(default_factory=dict)
    authorities: dict[str, dict[str, Any]] = field(default_factory=dict)
    ca_ends: str = "2049-12-31T00:00:00Z"
    received: list[Received] = field(default_factory=list)
    refused: int = 0
    replies: dict[int, Reply] = field(default_factory=dict)
    stubborn: dict[str, Reply] = field(default_factory=dict)
    page: int = 100
    token: str = "+/=&~*'%20:"

    def add_thing(self, thing: str, status: str = "issued") -> None:
        """Put a Thing into the ledger."""
        self.things[thing] = {
            "thing": thing,
            "status": status,
            "spkiSha256": secrets.token_hex(32),
            "certificateId": None if status == "claimed" else secrets.token_hex(32),
            "claimed": "2026-11-23T09:59:58Z",
            "enrolled": None if status == "claimed" else "2026-11-23T10:00:00Z",
            "revoked": "2026-11-23T11:30:00Z" if status == "revoked" else None,
            "inviteId": "0123456789abcdef",
            "keyType": None if status == "claimed" else "ec-p256",
            "renewed": None,
            "renewalDue": False,
            "renewalPending": False,
            "renewalUndone": None,
            "renewalUndoneBecause": None,
            "attested": False,
            "ekSha256": None,
            "ekCertificateSha256": None,
            "tpmManufacturer": None,
            "tpmFirmware": None,
        }

    def answer(self, request: Received) -> Reply:
        """Answer as the contract says."""
        forced = self.replies.get(len(self.received))
        self.received.append(request)
        if forced is not None:
            return forced
        routes = {
            ("POST", "/v1/operator/invites"): self._create,
            ("GET", "/v1/operator/invites"): self._list_invites,
            ("DELETE", "/v1/operator/invites"): self._revoke_invite,
            ("POST", "/v1/operator/replacements"): self._create_replacement,
            ("GET", "/v1/operator/fleet"): self._fleet,
            ("DELETE", "/v1/operator/fleet"): self._revoke_thing,
            ("POST", "/v1/operator/sweep"): self._sweep,
            ("POST", "/v1/operator/rebuild"): self._rebuild,
            ("POST", "/v1/operator/eks"): self._import_eks,
            ("GET", "/v1/operator/eks"): self._list_eks,
            ("DELETE", "/v1/operator/eks"): self._forget_ek,
            ("POST", "/v1/operator/ek-authorities"): self._add_authority,
            ("GET", "/v1/operator/ek-authorities"): self._list_authorities,
            ("DELETE", "/v1/operator/ek-authorities"): self._remove_authority,
        }
        return routes[request.method, request.path](request)

    def _create(self, request: Received) -> Reply:
        return self._created(request.body["invites"])

    def _create_replacement(self, request: Received) -> Reply:
        if request.body["thing"] not in self.things:
            return problem(404, "thing-unknown")
        return self._created([{**request.body, "uses": 1, "replacesKey": True}])

    def _created(self, requested: list[dict[str, Any]]) -> Reply:
        made = []
        for asked in requested:
            symbols = "".join(secrets.choice(_ALPHABET) for _ in range(25))
            code = "-".join(symbols[start : start + 5] for start in range(0, 25, 5))
            one = {"id": secrets.token_hex(8), "thing": asked["thing"], "uses": asked["uses"], "expires": EXPIRES}
            self.codes.append(code)
            self.invites[one["id"]] = {
                **one,
                "usesLeft": asked["uses"],
                "created": "2026-11-23T10:00:00Z",
                "createdBy": OPERATOR,
                "status": "open",
                "existingThing": asked.get("existingThing", False),
                "replacesKey": asked.get("replacesKey", False),
                "requireTpm": asked.get("requireTpm", False) or "ekSha256" in asked,
                "reuseTpm": asked.get("reuseTpm", False),
                **({"ekSha256": asked["ekSha256"]} if "ekSha256" in asked else {}),
            }
            status = self.things.get(asked["thing"], {}).get("status")
            made.append({**one, "code": code, "thingStatus": status})
        return json_reply(201, {"invites": made})

    def _list_invites(self, request: Received) -> Reply:
        return self._page("invites", list(self.invites.values()), request.query)

    def _revoke_invite(self, request: Received) -> Reply:
        if request.query["id"] not in self.invites:
            return problem(404, "invite-unknown")
        self.invites[request.query["id"]]["status"] = "revoked"
        return 204, {}, b""

    def _fleet(self, request: Received) -> Reply:
        if "things" in request.query:
            known = [self.things[name] for name in request.query["things"].split(",") if name in self.things]
            return json_reply(200, {"things": known, "next": None})
        if "thing" not in request.query:
            return self._page("things", list(self.things.values()), request.query)
        found = self.things.get(request.query["thing"])
        if found is None:
            return problem(404, "thing-unknown")
        own = {"certificateId": found["certificateId"], "active": True, "created": "2026-11-23T10:00:00Z"}
        certificates = [*([own] if own["certificateId"] else []), *self.attached.get(found["thing"], [])]
        return json_reply(200, {"thing": found, "certificates": certificates})

    def _revoke_thing(self, request: Received) -> Reply:
        if request.query["thing"] not in self.things:
            return problem(404, "thing-unknown")
        if request.query["thing"] in self.stubborn:
            return self.stubborn[request.query["thing"]]
        self.things[request.query["thing"]]["status"] = "revoked"
        others = self.attached.get(request.query["thing"], [])
        if request.query["others"] == "deactivate":
            others = [{**one, "active": False} for one in others]
        return json_reply(200, {"thing": request.query["thing"], "otherCertificates": others})

    def _import_eks(self, request: Received) -> Reply:
        outcome: dict[str, Any] = {"added": 0, "unchanged": 0, "conflicts": []}
        for key in request.body["keys"]:
            listed = self.eks.setdefault(key["ekSha256"], {**key, "created": EXPIRES, "createdBy": OPERATOR})
            if listed["thing"] != key["thing"]:
                outcome["conflicts"].append({"ekSha256": key["ekSha256"], "thing": listed["thing"]})
            else:
                outcome["unchanged" if "seen" in listed else "added"] += 1
                listed["seen"] = True
        return json_reply(200, outcome)

    def _list_eks(self, request: Received) -> Reply:
        keys = [{name: one[name] for name in one if name != "seen"} for one in self.eks.values()]
        return self._page("keys", keys, request.query)

    def _forget_ek(self, request: Received) -> Reply:
        known = self.eks.pop(request.query["ekSha256"], None)
        return problem(404, "ek-not-listed") if known is None else (204, {}, b"")

    def _add_authority(self, request: Received) -> Reply:
        added = {"sha256": request.body["sha256"], "subject": "CN=Vendor root", "root": True, "notAfter": self.ca_ends}
        self.authorities[added["sha256"]] = {**added, "created": EXPIRES, "createdBy": OPERATOR}
        return json_reply(201, self.authorities[added["sha256"]])

    def _list_authorities(self, _request: Received) -> Reply:
        return json_reply(200, {"authorities": list(self.authorities.values())})

    def _remove_authority(self, request: Received) -> Reply:
        known = self.authorities.pop(request.query["sha256"], None)
        return problem(404, "ek-ca-unknown") if known is None else (204, {}, b"")

    def _sweep(self, request: Received) -> Reply:
        place = int(request.body.get("next", "p:0").removeprefix("p:"))
        following = f"p:{place + 1}" if place + 1 < len(self.sweeps) else None
        part = self.sweeps[place]
        found = [{"reason": "revoked", "counts": True, **one} for one in part["disabled"]]
        disabled = [{name: one[name] for name in ("certificateId", "created")} for one in part["disabled"]]
        answer = {**part, "disabled": [] if request.body.get("lookOnly") else disabled, "found": found}
        return json_reply(200, {**answer, "limit": 20, "next": following})

    def _rebuild(self, request: Received) -> Reply:
        place = int(request.body.get("next", "p:0").removeprefix("p:"))
        following = f"p:{place + 1}" if place + 1 < len(self.rebuilds) else None
        return json_reply(200, {**self.rebuilds[place], "next": following})

    def _page(self, name: str, everything: list[Any], query: dict[str, str]) -> Reply:
        wanted = {name: query[name] for name in ("status", "attested") if name in query}
        everything = [
            one
            for one in everything
            if one["thing"].startswith(query.get("prefix", ""))
            and wanted.items() <= {**one, "attested": "yes" if one.get("attested") else "no"}.items()
        ]
        start = int(query.get("next", f"{self.token}0").removeprefix(self.token))
        end = start + min(self.page, int(query.get("limit", self.page)))
        following = f"{self.token}{end}" if end < len(everything) else None
        return json_reply(200, {name: everything[start:end], "next": following})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    backend: Backend

    def do_GET(self) -> None:
        """Answer any method: the signature decides first."""
        self._serve()

    def do_POST(self) -> None:
        """See above."""
        self._serve()

    def do_DELETE(self) -> None:
        """See above."""
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if len(body) > _LARGEST_BODY:
            self.backend.refused += 1
            status, named, answer = problem(413, "body-too-large")
        elif _is_signed(self.command, parts.path, query, headers, body):
            content = json.loads(body) if body else None
            status, named, answer = self.backend.answer(Received(self.command, parts.path, query, content, headers))
        else:
            self.backend.refused += 1
            status, named, answer = json_reply(403, {"message": "Forbidden"}, apigw_requestid="gateway-request")
        self.send_response(status)
        for name, value in named.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


@contextmanager
def operator_backend(authority: Authority) -> Iterator[Backend]:
    """Run the stand-in until the block ends."""
    pair = authority.issue_pair("localhost", ["localhost", "127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    backend = Backend()
    handler = type("Handler", (_Handler,), {"backend": backend})
    with _Server(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        backend.url = f"https://localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield backend
        server.shutdown()
        thread.join(timeout=10)
        assert not thread.is_alive()


def _is_signed(method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> bool:
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if match is None or match[1] != ACCESS_KEY_ID or match[3] != REGION:
        return False
    stamp, names = headers["x-amz-date"], match[4].split(";")
    moment = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if stamp[:8] != match[2] or abs(datetime.now(UTC) - moment) > timedelta(minutes=5):
        return False
    if not {"host", "x-amz-date"} <= set(names) or ("content-type" in headers) != ("content-type" in names):
        return False
    token = headers.get("x-amz-security-token")
    if token is not None and "x-amz-security-token" not in names:
        return False
    request = AWSRequest(
        method, f"https://{headers['host']}{path}", {name: headers[name] for name in names}, body, query
    )
    request.context["timestamp"] = stamp
    signer = SigV4Auth(Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY, token), "execute-api", REGION)
    return signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request) == match[5]
