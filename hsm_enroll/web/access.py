"""Who may use the page: the browser that was given its address, on this machine, and nobody else.

Any program on this machine can connect to the port, and any page in the browser can send requests to it. Therefore:
- the address has a random key, which the browser exchanges for a cookie;
- all pages are below a random path, so that other servers on this machine, on other ports, are not sent the cookie;
- a host name that somebody else has pointed at this machine (DNS rebinding) is refused;
- a form has to contain a random token, which no other site knows.
"""

from __future__ import annotations

import hmac
import secrets

from flask import Blueprint, Flask, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

ADDRESS = "127.0.0.1"

_COOKIE = "hsm-enroll"
# No scripts or images from elsewhere, no frames, no forms that go elsewhere.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Access:
    """The secrets of one run of the page.

    Args:
        port: the TCP port of the server.

    Attributes:
        place: the path below which all pages are.
        token: what every form has to contain.
    """

    def __init__(self, port: int) -> None:
        self._host = f"{ADDRESS}:{port}"
        self._key = secrets.token_urlsafe(24)
        self._cookie = secrets.token_urlsafe(24)
        self.place = f"/{secrets.token_urlsafe(9)}"
        self.token = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """The address that lets a browser in."""
        return f"http://{self._host}{self.place}/?key={self._key}"

    def guard(self, app: Flask, pages: Blueprint) -> None:
        """Have an application refuse everybody else, and tell browsers what its pages may do."""
        app.before_request(self._check_host)
        pages.before_request(self._check_browser)
        app.after_request(_with_headers)

    def keep(self, response: AnyResponse, name: str, value: str) -> None:
        """Give the browser a cookie for the pages alone."""
        response.set_cookie(name, value, path=self.place, httponly=True, samesite="Strict")

    def _check_host(self) -> Response | None:
        if request.headers.get("Host") == self._host:
            return None
        return Response(f"This is {self._host} alone.\n", 421, mimetype="text/plain")

    def _check_browser(self) -> AnyResponse | tuple[str, int] | None:
        if request.endpoint == "pages.static":
            return None
        if _is(request.args.get("key"), self._key):
            entered = redirect(request.path, 303)
            self.keep(entered, _COOKIE, self._cookie)
            return entered
        if not _is(request.cookies.get(_COOKIE), self._cookie):
            return render_template("denied.html", title="denied.closed", why="denied.key"), 403
        if request.method == "POST" and not _is(request.form.get("token"), self.token):
            return render_template("denied.html", title="denied.refused", why="denied.token"), 403
        return None


def _is(given: str | None, secret: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(errors="surrogatepass"), secret.encode())


def _with_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response
