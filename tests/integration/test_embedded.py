"""The embedded Postgres: one server for a folder, whoever comes, goes and dies."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from storage.embedded import EmbeddedError, EmbeddedPostgres

LINGER_S = 0.4
PATIENCE_S = 20.0
USER = """
import sys
from pathlib import Path
from storage.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), linger_s=float(sys.argv[2])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


class User:
    """Another process that uses the server until it is told to leave, or is killed."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder), str(LINGER_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        """Waits until it has the server."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate("")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it becomes true in time: what another process does on its own, nobody can await."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


def postmaster(folder: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        return int((folder / "postmaster.pid").read_text().splitlines()[0])
    return None


def keepers(folder: Path) -> list[int]:
    wanted = os.fsencode(folder)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if wanted in words and b"--linger" in words:
                found.append(int(process.name))
    return found


def keeper(folder: Path) -> int:
    """The one keeper. It is waited for: right after its start a process has no command line for a moment."""
    assert eventually(lambda: len(keepers(folder)) == 1), keepers(folder)
    return keepers(folder)[0]


def ends_within(pid: int | None, seconds: float) -> bool:
    """Whether a process ends in this time; waits for the end itself, and not longer."""
    assert pid is not None
    process = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([process], [], [], seconds)
    finally:
        os.close(process)
    return bool(ended)


def answers(url: str) -> bool:
    try:
        connection = psycopg2.connect(url)
    except psycopg2.OperationalError:
        return False
    connection.close()
    return True


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home" / "pgdata"
    yield folder
    assert eventually(lambda: postmaster(folder) is None), "a server was left behind"
    assert eventually(lambda: not keepers(folder)), "a keeper was left behind"


def test_it_has_pgvector_and_can_be_used_at_once(folder: Path) -> None:
    with EmbeddedPostgres(folder, linger_s=LINGER_S) as server:
        connection = psycopg2.connect(server.url)
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION vector")
            cursor.execute("SELECT '[1,2]'::halfvec <=> '[1,2]'::halfvec")
            assert cursor.fetchone() == (0,)
        connection.close()


def test_all_users_of_a_folder_share_one_server(folder: Path) -> None:
    users = [User(folder) for _ in range(4)]
    urls = {user.url() for user in users}
    pid = postmaster(folder)
    with EmbeddedPostgres(folder, linger_s=LINGER_S) as server:
        assert urls == {server.url}
        assert postmaster(folder) == pid
        assert keeper(folder)
    for user in users:
        user.leave()


def test_a_short_user_does_not_stop_the_server_under_a_long_one(folder: Path) -> None:
    with EmbeddedPostgres(folder, linger_s=LINGER_S) as server:
        pid = postmaster(folder)
        for _ in range(3):
            user = User(folder)
            user.url()
            user.leave()
        assert not ends_within(pid, 3 * LINGER_S)
        assert postmaster(folder) == pid
        assert answers(server.url)


def test_a_killed_user_takes_no_other_along_and_keeps_nothing(folder: Path) -> None:
    killed, other = User(folder), User(folder)
    url = killed.url()
    assert other.url() == url
    pid = postmaster(folder)
    killed.kill()
    assert not ends_within(pid, 3 * LINGER_S)
    assert postmaster(folder) == pid
    assert answers(url)
    other.kill()
    assert eventually(lambda: postmaster(folder) is None)


def test_it_is_kept_for_a_while_and_then_stopped(folder: Path) -> None:
    with EmbeddedPostgres(folder, linger_s=LINGER_S):
        pid = postmaster(folder)
    assert postmaster(folder) == pid
    assert eventually(lambda: postmaster(folder) is None)
    with EmbeddedPostgres(folder, linger_s=LINGER_S) as server:
        assert answers(server.url)


def test_a_server_that_was_killed_is_started_again_for_its_users(folder: Path) -> None:
    with EmbeddedPostgres(folder, linger_s=LINGER_S) as server:
        pid = postmaster(folder)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: postmaster(folder) not in (pid, None) and answers(server.url))


def test_everything_killed_at_once_leaves_nothing_that_prevents_the_next_start(folder: Path) -> None:
    user = User(folder)
    user.url()
    pid = postmaster(folder)
    assert pid is not None
    os.kill(keeper(folder), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    user.kill()
    assert eventually(
        lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    with EmbeddedPostgres(folder, linger_s=LINGER_S) as server:
        assert answers(server.url)
        assert keeper(folder)


def test_a_stale_pid_file_whose_number_another_process_has_now_is_seen_through(folder: Path) -> None:
    with EmbeddedPostgres(folder, linger_s=0):
        content = (folder / "postmaster.pid").read_text()
    assert eventually(lambda: postmaster(folder) is None)
    # A process of the server's own user: of others Postgres itself knows that they cannot be a server.
    stranger = subprocess.Popen(["sleep", "60"], user=folder.stat().st_uid)
    try:
        lines = content.splitlines()
        lines[0], lines[6] = str(stranger.pid), ""
        (folder / "postmaster.pid").write_text("\n".join(lines) + "\n")
        with EmbeddedPostgres(folder, linger_s=LINGER_S) as server:
            assert answers(server.url)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_keeper_that_was_killed_is_replaced_by_the_next_user(folder: Path) -> None:
    user = User(folder)
    user.url()
    os.kill(keeper(folder), signal.SIGKILL)
    assert eventually(lambda: not keepers(folder))
    second = User(folder)
    second.url()
    assert keeper(folder)
    user.leave()
    second.leave()


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25) / "pgdata"
    with EmbeddedPostgres(folder, linger_s=0) as server:
        assert answers(server.url)
    assert eventually(lambda: postmaster(folder) is None)


def test_an_interrupted_first_start_is_begun_anew(folder: Path) -> None:
    half = folder.with_name("pgdata.new")
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder, linger_s=LINGER_S) as server:
        assert answers(server.url)


def test_the_data_of_another_major_version_is_refused_with_a_way_out(folder: Path) -> None:
    with EmbeddedPostgres(folder, linger_s=0):
        pass
    assert eventually(lambda: postmaster(folder) is None)
    (folder / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedError, match=r"was made by Postgres 16.*MEDIAMILL_DATABASE_URL"):
        EmbeddedPostgres(folder).start()


@pytest.mark.parametrize("name", ["short", "long" * 30])
def test_the_socket_lies_in_a_folder_that_we_alone_can_pass(tmp_path: Path, name: str) -> None:
    """Also as root, where the server is nobody: whoever is nobody too would be its superuser."""
    with EmbeddedPostgres(tmp_path / name / "pg", linger_s=LINGER_S) as server:
        folder = Path(psycopg2.extensions.parse_dsn(server.url)["host"])
        assert (folder / ".s.PGSQL.5432").exists()
        assert (folder.stat().st_uid, folder.stat().st_mode & 0o077) == (os.geteuid(), 0)
