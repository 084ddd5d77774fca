"""Lambda's Runtime API on loopback: the side that a runtime interface client polls.

As documented in the Lambda developer guide, "Using the Lambda runtime API for custom runtimes", version 2018-06-01.
One invocation at a time, as Lambda gives them to one execution environment.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_TIME_LIMIT = 30.0  # seconds; API Gateway waits no longer
_ROOT = "/2018-06-01/runtime"
_ARN = "arn:aws:lambda:us-east-1:123456789012:function:hsm-enroll"
_REPORT = re.compile(rf"{_ROOT}/(?P<what>init/error|invocation/(?P<id>[^/]+)/(?P<outcome>response|error))")


@dataclass(frozen=True)
class Report:
    """What the client posted.

    Attributes:
        what: ``response``, ``error`` or ``init/error``.
        request_id: the invocation's, empty for ``init/error``.
        body: its JSON, parsed.
    """

    what: str
    request_id: str
    body: Any


class RuntimeApi(ThreadingHTTPServer):
    """The server. `invoke` is for the test, all else for the client."""

    daemon_threads = False  # closing waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Endpoint)
        self.invocations: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()

    @property
    def address(self) -> str:
        """What Lambda gives as AWS_LAMBDA_RUNTIME_API."""
        return f"127.0.0.1:{self.server_port}"

    def invoke(self, event: Mapping[str, Any]) -> Report:
        """Hand out one event and wait for what becomes of it, for as long as API Gateway would.

        Raises:
            queue.Empty: nothing came.
        """
        request_id = str(uuid.uuid4())
        self.invocations.put((request_id, json.dumps(event).encode()))
        report = self.next_report()
        assert report.request_id == request_id, report
        return report

    def next_report(self) -> Report:
        """Wait for what the client posts next, unasked if need be.

        Raises:
            queue.Empty: nothing came.
        """
        return self.reports.get(timeout=_TIME_LIMIT)


@contextmanager
def serving() -> Iterator[RuntimeApi]:
    """Serve until the block ends; the client must have ended by then."""
    with RuntimeApi() as api:
        thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            api.invocations.put(None)
            api.shutdown()
            thread.join(_TIME_LIMIT)


class _Endpoint(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == f"{_ROOT}/invocation/next"
        invocation = self.server.invocations.get()
        if invocation is None:
            self.close_connection = True
            return
        request_id, event = invocation
        self._answer(
            200,
            event,
            {
                "Lambda-Runtime-Aws-Request-Id": request_id,
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + _TIME_LIMIT) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": _ARN,
            },
        )

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        matched = _REPORT.fullmatch(self.path)
        assert matched is not None, self.path
        self._answer(202, b'{"status": "OK"}', {})
        self.server.reports.put(Report(matched["outcome"] or matched["what"], matched["id"] or "", json.loads(content)))

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""
