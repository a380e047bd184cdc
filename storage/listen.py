"""LISTEN on a connection of its own: what wakes idle workers. Polling stays the safety net.

It needs a direct connection to Postgres: a transaction pooler forgets LISTEN. Without one, everything works by polling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg2
import psycopg2.extensions

from storage.database import Unreachable


@dataclass(frozen=True, slots=True)
class Notification:
    """One NOTIFY; equal ones of a transaction arrive once."""

    channel: str
    payload: str


class Listener:
    """A connection that listens. Made, polled and closed by one thread at a time."""

    def __init__(self, url: str, channels: Sequence[str], *, connect_timeout_s: int = 5) -> None:
        """Connects and listens. Raises Unreachable."""
        try:
            self._connection = psycopg2.connect(
                url,
                connect_timeout=connect_timeout_s,
                application_name="mediamill listen",
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
            )
            self._connection.autocommit = True
            with self._connection.cursor() as cursor:
                for channel in channels:
                    cursor.execute(f"LISTEN {channel}")
        except psycopg2.Error as error:  # a standby that is to become the server refuses LISTEN in words of its own
            raise Unreachable(str(error).strip()) from error

    def fileno(self) -> int:
        """The socket, to wait on until it can be read."""
        return self._connection.fileno()

    def received(self) -> list[Notification]:
        """What has arrived; does not block. Raises Unreachable when the connection is gone."""
        try:
            self._connection.poll()
        except psycopg2.Error as error:
            raise Unreachable(str(error).strip()) from error
        notifications = [Notification(n.channel, n.payload) for n in self._connection.notifies]
        self._connection.notifies.clear()
        return notifications

    def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(psycopg2.Error):
            self._connection.close()
