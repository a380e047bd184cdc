"""Server processes of the tests: started on a leash, on a free port, with a folder of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

POLL_S = 0.02


class ServerFailed(Exception):
    """The server did not come up; the text has the end of its log."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Leashed(ABC):
    """A server that can be stopped, killed and started again on the same port and folder.

    A subclass says how it is run and when it is ready. `with` starts it, and stops it and removes its folder after.
    """

    name: str
    stop_signal = signal.SIGTERM  # asks it to end in order
    death_signal = signal.SIGKILL  # what it gets when the tests die

    def __init__(self, owner: tuple[int, int] | None = None) -> None:
        """`owner`: the user and group it runs as where the tests run as root; they own its folder."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"mediamill-{self.name}-"))
        self.log = self.folder / "server.log"
        self.port = free_port()
        self._owner = owner or (os.geteuid(), os.getegid())
        if os.geteuid() == 0:
            os.chown(self.folder, *self._owner)
        self._leash: subprocess.Popen[str] | None = None
        self._pid = 0

    @abstractmethod
    def command(self) -> Sequence[str]:
        """How it is run in the foreground; called at each start."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers."""

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended, by us or by itself."""
        return self._leash is not None and self._leash.poll() is None

    @property
    def pid(self) -> int:
        """The server's own process id. Raises RuntimeError where it does not run."""
        if self._leash is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._pid

    def start(self, within_s: float = 30.0) -> Self:
        """Start it and wait until it answers. Raises ServerFailed, or RuntimeError where it runs already."""
        if self._leash is not None:
            raise RuntimeError(f"{self.name} is running already")
        owner = [str(number) for number in self._owner]
        leash = [sys.executable, "-I", "-S", str(Path(__file__).with_name("leash.py"))]
        arguments = [str(self.log), str(self.folder), str(int(self.death_signal)), *owner, *self.command()]
        process = subprocess.Popen([*leash, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        self._pid = int(process.stdout.readline() or 0)
        self._leash = process
        deadline = time.monotonic() + within_s
        while not self.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self.log.read_text(errors="replace").splitlines()[-15:]
                raise ServerFailed("\n".join([f"{self.name} did not come up in {within_s:.0f} s", *tail]))
            time.sleep(POLL_S)
        return self

    def stop(self) -> None:
        """End it in order. Nothing happens where it does not run."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """SIGKILL: what was not written is lost. Nothing happens where it does not run."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Kill it, and start it again on what it had written."""
        self.kill()
        return self.start()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _end(self, how: signal.Signals) -> None:
        process, self._leash = self._leash, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        if process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("keep")
                process.stdin.flush()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.kill(self._pid, signal.SIGKILL)
            process.wait()
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(happens: Callable[[], bool], within_s: float, what: str) -> None:
    """Raises TimeoutError naming `what` where it has not happened within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not happens():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {within_s:g} s")
        time.sleep(POLL_S)
