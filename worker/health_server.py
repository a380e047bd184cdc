"""`/healthz`, `/readyz` and `/metrics` over HTTP, from threads that nothing else in the process can hold up."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from worker.health import Check, Health, alive, ready
from worker.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

#: What one request may take altogether, and how many may be under way: a slow client costs a thread, for so long.
REQUEST_S = 5.0
MOST_REQUESTS = 64


class CannotListen(Exception):
    """The address cannot be listened on; the message names the setting."""


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


class HealthServer:
    """A context in which the answers are served. `metrics` gives Prometheus's text; port 0 takes a free one.

    Raises CannotListen.
    """

    def __init__(
        self, health: Health, metrics: Callable[[], bytes], address: tuple[str, int], *, request_s: float = REQUEST_S
    ) -> None:
        answers: dict[str, Callable[[], _Answer]] = {
            "/healthz": lambda: _verdict(health, alive),
            "/readyz": lambda: _verdict(health, ready),
            "/metrics": lambda: _Answer(HTTPStatus.OK, CONTENT_TYPE, metrics()),
        }
        try:
            self._server = _Server(address, answers, request_s)
        except (OSError, OverflowError) as error:
            host, port = address
            raise CannotListen(
                f"cannot listen on {host}:{port} ({error}): set MEDIAMILL_HTTP_BIND to another address, or to off"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> HealthServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _verdict(health: Health, judge: Callable[[list[Check]], bool]) -> _Answer:
    checks = health.checks()
    ok = judge(checks)
    body = json.dumps({"ok": ok, "checks": [check.as_json() for check in checks]}, indent=1)
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    return _Answer(status, "application/json", body.encode() + b"\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Closing does not wait for a slow client: its socket is closed by the time limit.
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], answers: dict[str, Callable[[], _Answer]], request_s: float) -> None:
        self.answers = answers
        self.request_s = request_s
        self._room = threading.BoundedSemaphore(MOST_REQUESTS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name server for the host's name, and may wait long for it.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread is to be had
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # A time limit of the socket is one of each read: a client that sends a byte a second would stay for ever.
        limit = threading.Timer(self.request_s, _cut, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a health request ended early", exc_info=True)


def _cut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("a slow client was gone already")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "mediamill"
    sys_version = ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        make = self.server.answers.get(self.path.partition("?")[0])
        if make is None:
            known = ", ".join(self.server.answers)
            self._send(_Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"there are {known}\n".encode()))
            return
        self._send(make())

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
