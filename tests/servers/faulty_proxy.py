"""A proxy before a real S3 server that refuses, stalls, cuts, damages and slows what passes through it."""

from __future__ import annotations

import http.client
import re
import threading
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Generous: the longest any failing call may take, with all its attempts and pauses.
BOUND_S = 30.0
PIECE_BYTES = 65536


@dataclass(frozen=True)
class Fault:
    """What happens to one request: another answer, or bytes of the true one after which it stalls, ends or is wrong."""

    status: int | None = None
    code: str = "SlowDown"
    headers: tuple[tuple[str, str], ...] = ()
    stall_after: int | None = None
    cut_after: int | None = None
    damage_at: int | None = None
    without_range: bool = False  # the whole of what last passed, as a server that knows no ranges answers
    pace_s: float = 0.0  # a thin line: between two pieces of 64 KiB, both ways


PASS = Fault()


class FaultyProxy:
    """Passes requests on; each that matches `where` gets the next fault of `faults`, or `always`."""

    def __init__(self, upstream_port: int) -> None:
        self.faults: deque[Fault] = deque()
        self.always = PASS
        self.where = re.compile("GET .*object")
        self.seen: list[str] = []
        self.ranges: list[str | None] = []
        self.conditions: list[str | None] = []
        self.sent = 0
        self.received = 0
        self.whole = b""
        self.released = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.close_connection = True
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    proxy.pass_on(self, upstream_port)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that went away is what these tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fault(self, line: str) -> Fault:
        if not self.where.match(line):
            return PASS
        return self.faults.popleft() if self.faults else self.always

    def pass_on(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        line = f"{handler.command} {handler.path}"
        self.seen.append(line)
        if handler.command == "GET":
            self.ranges.append(handler.headers.get("Range"))
            self.conditions.append(handler.headers.get("If-Match"))
        fault = self.fault(line)
        body = self.receive(handler, int(handler.headers.get("Content-Length", 0)), fault)
        if body is None:
            return
        if fault.status is not None:
            self.answer(handler, fault)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            upstream.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            self.send(handler, upstream.getresponse(), fault)
        finally:
            upstream.close()

    def receive(self, handler: BaseHTTPRequestHandler, length: int, fault: Fault) -> bytes | None:
        """The body of a request; None where whoever sent it went away in the middle."""
        body = bytearray()
        while len(body) < length:
            piece = handler.rfile.read(min(PIECE_BYTES, length - len(body)))
            if not piece:
                return None
            body += piece
            self.received += len(piece)
            self.released.wait(fault.pace_s)
        return bytes(body)

    def answer(self, handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>by the proxy</Message></Error>".encode()
        handler.send_response_only(fault.status or 500)
        for name, value in (("Content-Length", str(len(text))), ("Connection", "close"), *fault.headers):
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(text)

    def send(self, handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, fault: Fault) -> None:
        whole = answer.read()
        if answer.status == 200:
            self.whole = whole
        left_out = {"connection", "transfer-encoding"}
        length = answer.getheader("Content-Length") or str(len(whole))  # of a HEAD it is not that of the body
        if fault.without_range:
            whole, length = self.whole, str(len(self.whole))
            left_out.add("content-range")
        handler.send_response_only(200 if fault.without_range else answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {*left_out, "content-length"}:
                handler.send_header(name, value)
        if answer.status not in (204, 304):
            handler.send_header("Content-Length", length)
        handler.send_header("Connection", "close")
        handler.end_headers()
        if fault.damage_at is not None:
            whole = whole[: fault.damage_at] + bytes([whole[fault.damage_at] ^ 1]) + whole[fault.damage_at + 1 :]
        limits = [limit for limit in (fault.stall_after, fault.cut_after) if limit is not None]
        for start in range(0, min([len(whole), *limits]), PIECE_BYTES):
            chunk = whole[start : min([start + PIECE_BYTES, len(whole), *limits])]
            handler.wfile.write(chunk)
            self.sent += len(chunk)
            self.released.wait(fault.pace_s)
        handler.wfile.flush()
        if fault.stall_after is not None:
            self.released.wait(BOUND_S)
