"""The test servers themselves: what every other integration test relies on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import psycopg2.extras
import pytest

from tests.servers.leashed import ServerFailed, alive, wait_until
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket, S3Server

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def session(url: str) -> Iterator[psycopg2.extensions.cursor]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def test_the_postgres_is_version_18_with_pgvector(empty_database: str) -> None:
    with session(empty_database) as cursor:
        cursor.execute("CREATE EXTENSION vector; SELECT current_setting('server_version_num')::int / 10000")
        assert cursor.fetchone() == (18,)
        cursor.execute("SELECT '[1,0]'::halfvec <=> '[0,1]'::halfvec")
        assert cursor.fetchone() == (1.0,)


def test_a_database_made_from_a_template_has_what_the_template_has(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as template:
        with session(template) as cursor:
            cursor.execute("CREATE TABLE shelf AS SELECT 7 AS book")
        with postgres_server.database(template=template.rsplit("/", 1)[1]) as copy, session(copy) as cursor:
            cursor.execute("SELECT book FROM shelf")
            assert cursor.fetchone() == (7,)


def test_a_killed_postgres_comes_back_with_what_was_committed_and_nothing_else() -> None:
    with PostgresServer() as server:
        with session(server.url) as cursor:
            cursor.execute("CREATE TABLE shelf (book int); INSERT INTO shelf VALUES (1)")
        open_connection = psycopg2.connect(server.url)
        open_connection.cursor().execute("INSERT INTO shelf VALUES (2)")
        first = server.pid
        server.restart()
        open_connection.close()
        assert server.pid != first
        with session(server.url) as cursor:
            cursor.execute("SELECT array_agg(book) FROM shelf")
            assert cursor.fetchone() == ([1],)
        assert "automatic recovery in progress" in server.log.read_text()


def test_a_postgres_that_is_killed_at_work_can_be_started_at_once() -> None:
    with PostgresServer() as server:
        connection = psycopg2.connect(server.url, async_=True)
        psycopg2.extras.wait_select(connection)
        connection.cursor().execute("SELECT count(*) FROM generate_series(1, 1000000000)")
        server.restart()
        connection.close()
        with session(server.url) as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)


def test_two_postgres_servers_run_beside_each_other(postgres_server: PostgresServer) -> None:
    with PostgresServer({"max_connections": "20"}) as other:
        assert other.port != postgres_server.port
        with session(other.url) as cursor:
            cursor.execute("SHOW max_connections")
            assert cursor.fetchone() == ("20",)
        folder = other.folder
    assert not folder.exists()


def test_a_server_that_does_not_come_up_says_why_with_its_log() -> None:
    with pytest.raises(ServerFailed, match="shelf_life"), PostgresServer({"shelf_life": "long"}):
        raise AssertionError("it came up")


def test_an_object_put_into_a_bucket_is_read_back(s3_bucket: S3Bucket) -> None:
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="a/ü x.txt", Body=b"seven", ChecksumAlgorithm="SHA256")
    answer = s3_bucket.client.get_object(Bucket=s3_bucket.name, Key="a/ü x.txt", Range="bytes=1-3")
    with answer["Body"] as body:
        assert body.read() == b"eve"


def test_a_killed_s3_server_comes_back_on_its_port_with_its_objects() -> None:
    with S3Server() as server:
        client = server.client()
        bucket = S3Bucket.create(server, client)
        client.put_object(Bucket=bucket.name, Key="k", Body=b"kept")
        endpoint = server.endpoint
        server.kill()
        assert not server.ready()
        server.start()
        assert server.endpoint == endpoint
        with client.get_object(Bucket=bucket.name, Key="k")["Body"] as body:
            assert body.read() == b"kept"
        client.close()


def test_servers_and_their_folders_go_when_the_process_that_started_them_is_killed() -> None:
    script = """
        import sys
        from tests.servers.postgres import PostgresServer
        from tests.servers.s3 import S3Server
        for server in (PostgresServer().start(), S3Server().start()):
            print(server.pid, server.folder, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        started = [tests.stdout.readline().split() for _ in range(2)]
        assert all(alive(int(pid)) and Path(folder).exists() for pid, folder in started)
        tests.kill()
    wait_until(lambda: not any(alive(int(pid)) for pid, _ in started), 10, "the end of both servers")
    wait_until(lambda: not any(Path(folder).exists() for _, folder in started), 10, "the removal of their folders")


def test_a_server_dies_with_its_leash() -> None:
    server = PostgresServer().start()
    pid = server.pid
    leash = int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])
    os.kill(leash, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 10, "the end of the server")
    server.close()
    assert not server.folder.exists()
