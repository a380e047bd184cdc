from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from worker.health import Health
from worker.health_server import MOST_REQUESTS, CannotListen, HealthServer
from worker.metrics import Metrics


@pytest.fixture
def health() -> Health:
    health = Health()
    health.report("database", ok=True)
    health.report("executor", ok=True, why="ready")
    return health


@pytest.fixture
def server(health: Health) -> Iterator[HealthServer]:
    with HealthServer(health, Metrics().text, ("127.0.0.1", 0)) as server:
        yield server


def ask(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers.get_content_type(), answer.read()
    finally:
        connection.close()


def test_a_worker_that_is_well_answers_200_with_every_check(server: HealthServer) -> None:
    for path in ("/healthz", "/readyz", "/readyz?verbose"):
        status, kind, body = ask(server, path)
        assert (status, kind) == (200, "application/json")
        told = json.loads(body)
        assert told["ok"] is True
        assert [(check["name"], check["ok"]) for check in told["checks"]] == [("database", True), ("executor", True)]
        assert all(check.keys() >= {"name", "ok", "why", "since_s"} for check in told["checks"])


def test_a_worker_that_is_not_ready_answers_503_and_stays_alive(server: HealthServer, health: Health) -> None:
    health.report("draining", ok=False, why="the worker was told to stop")
    status, _, body = ask(server, "/readyz")
    assert status == 503
    assert "the worker was told to stop" in body.decode()
    assert ask(server, "/healthz")[0] == 200


def test_metrics_are_served_in_prometheus_format(server: HealthServer) -> None:
    status, kind, body = ask(server, "/metrics")
    assert (status, kind) == (200, "text/plain")
    assert b"# TYPE mediamill_claims_total counter" in body


def test_head_is_answered_without_a_body(server: HealthServer) -> None:
    assert ask(server, "/healthz", "HEAD") == (200, "application/json", b"")


@pytest.mark.parametrize("path", ["/", "/healthz/", "/../etc/passwd", "/%00", "/healthz%20"])
def test_an_unknown_path_is_not_found_and_names_the_known_ones(server: HealthServer, path: str) -> None:
    status, _, body = ask(server, path)
    assert (status, body) == (404, b"there are /healthz, /readyz, /metrics\n")


def test_other_methods_are_refused(server: HealthServer) -> None:
    assert ask(server, "/healthz", "DELETE")[:2] == (501, "text/plain")


def test_no_client_however_slow_holds_up_another(server: HealthServer) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(10)]
    try:
        for one in slow:
            one.sendall(b"GET /healthz HT")
        assert ask(server, "/healthz")[0] == 200
    finally:
        for one in slow:
            one.close()


def test_a_client_that_never_ends_its_request_is_cut_off(health: Health) -> None:
    with (
        HealthServer(health, bytes, ("127.0.0.1", 0), request_s=0.1) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow,
    ):
        slow.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        assert slow.recv(1) == b""


def test_more_slow_clients_than_there_is_room_for_are_cut_off_and_then_it_answers_again(health: Health) -> None:
    with HealthServer(health, bytes, ("127.0.0.1", 0), request_s=0.5) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(MOST_REQUESTS + 1)]
        for one in slow:
            assert one.recv(1) == b""
            one.close()
        assert ask(server, "/healthz")[0] == 200


def test_it_answers_while_another_thread_reports(server: HealthServer, health: Health) -> None:
    stop = threading.Event()

    def report() -> None:
        while not stop.is_set():
            health.tick("loop")
            health.report("executor", ok=True, why="ready")

    thread = threading.Thread(target=report)
    thread.start()
    try:
        assert {ask(server, "/readyz")[0] for _ in range(20)} == {200}
    finally:
        stop.set()
        thread.join()


def test_a_port_that_is_taken_is_one_clear_sentence(server: HealthServer, health: Health) -> None:
    with pytest.raises(CannotListen, match=rf"cannot listen on 127.0.0.1:{server.port} .*MEDIAMILL_HTTP_BIND"):
        HealthServer(health, bytes, ("127.0.0.1", server.port))


def test_nothing_is_listened_on_once_it_has_ended(health: Health) -> None:
    with HealthServer(health, bytes, ("127.0.0.1", 0)) as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
