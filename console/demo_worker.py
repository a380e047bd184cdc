"""The demo's `mediamill worker`: a process that is watched while it is needed, drained at the end, and never left."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from console.failures import CommandFailed, unreachable

#: What a drain may take, when nothing is left to do.
DRAIN_S = 40.0
#: What each signal may take to work, when the demo was interrupted.
HASTE_S = 3.0
_LOOK_S = 0.1
_LAST_LINES = 15


class Worker:
    """A worker that runs. Its log is a file, one JSON object a line."""

    def __init__(self, process: anyio.abc.Process, port: int, log: Path) -> None:
        self._process = process
        self._port = port
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ready(self) -> None:
        """Returns when `/readyz` is green."""
        while True:
            if await self._look() == []:
                return
            await anyio.sleep(_LOOK_S)

    async def watch(self) -> None:
        """Raises CommandFailed, with the end of its log, when the process ends."""
        code = await self._process.wait()
        raise unreachable(f"the worker ended with {code}; the end of {self._log}:", *self.last_words())

    async def why_slow(self) -> CommandFailed:
        """What to say when it took too long: what `/readyz` says is wrong, and the end of its log."""
        wrong = await self._look()
        said = ["it does not answer"] if wrong is None else wrong or ["it says that it is well"]
        return unreachable(f"the worker: {'; '.join(said)}; the end of {self._log}:", *self.last_words())

    async def drain(self) -> None:
        """SIGTERM, and waits for its end. Raises CommandFailed where that is not as it should be."""
        self._process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(DRAIN_S):
            if (code := await self._process.wait()) == 0:
                return
            raise unreachable(f"the drained worker ended with {code}; the end of {self._log}:", *self.last_words())
        raise unreachable(f"the worker did not drain in {DRAIN_S:.0f} s; the end of {self._log}:", *self.last_words())

    def last_words(self) -> list[str]:
        """The last lines of its log, each cut."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [f"  {line[:500]}" for line in lines[-_LAST_LINES:]]

    async def end(self) -> None:
        """Makes sure that it is gone, its children with it: they die with their parent."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):  # the second one means: at once
            if self._process.returncode is not None:
                return
            self._process.send_signal(number)
            with anyio.move_on_after(HASTE_S):
                await self._process.wait()

    async def _look(self) -> list[str] | None:
        """What `/readyz` says is wrong; None where it does not answer."""
        return await anyio.to_thread.run_sync(_wrong, f"http://127.0.0.1:{self._port}/readyz", abandon_on_cancel=True)


@asynccontextmanager
async def started(command: Sequence[str], environ: Mapping[str, str], *, port: int, log: Path) -> AsyncIterator[Worker]:
    """A worker process with health on a port of this host; it has ended when the context has."""
    environ = {**environ, "MEDIAMILL_HTTP_BIND": f"127.0.0.1:{port}", "MEDIAMILL_LOG_FORMAT": "json"}
    with log.open("wb") as out:
        # In a session of its own: a Ctrl-C is ours to handle, and drains nothing behind our back.
        process = await anyio.open_process(
            [*command, "worker"], env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    worker = Worker(process, port, log)
    try:
        yield worker
    finally:
        with anyio.CancelScope(shield=True):
            await worker.end()
            await process.aclose()


def _wrong(url: str) -> list[str] | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 the URL is ours
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except OSError:
        return None
    checks: list[dict[str, Any]] = json.loads(body)["checks"]
    return [f"{one['name']}: {one['why']}" for one in checks if not one["ok"] and one["effect"] != "warning"]
