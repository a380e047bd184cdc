"""A TCP line to a server that can be cut, or fall silent: it then accepts and keeps connections, and never answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from enum import Enum, auto
from typing import Self

_CHUNK_BYTES = 1 << 16


class State(Enum):
    """What happens to what comes."""

    OPEN = auto()
    CUT = auto()
    SILENT = auto()


class Line:
    """Passes connections on to a port of this host; `with` opens it."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._state = State.OPEN
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        #: Set when something came in that gets no answer.
        self.ignored = threading.Event()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def cut(self) -> None:
        """Ends all connections, and refuses new ones."""
        self._state = State.CUT
        self._drop_all()

    def fall_silent(self) -> None:
        """Keeps all connections and takes new ones; nothing passes."""
        self.ignored.clear()
        self._state = State.SILENT

    def mend(self) -> None:
        """Passes on new connections again; old ones, which have lost bytes, are ended."""
        self._drop_all()
        self._state = State.OPEN

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._drop_all()
        self._threads[0].join()  # it starts the others
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _drop_all(self) -> None:
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._state is State.CUT:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._upstream_port))
            with self._lock:
                self._ends |= {client, server}
            for source, sink in ((client, server), (server, client)):
                thread = threading.Thread(target=self._pass_on, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                if self._state is State.SILENT:
                    self.ignored.set()
                else:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._ends.discard(source)
        source.close()
