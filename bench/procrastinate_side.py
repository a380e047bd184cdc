"""procrastinate's side of `bench.overhead`, run as a script by an interpreter that has it.

As its documentation recommends: the async worker with concurrency, LISTEN/NOTIFY on, `batch_defer` for many jobs.
`worker` runs until SIGTERM; `client` does what each line of standard input says, and answers each with one line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found, unused-ignore]

#: Jobs in one call of `batch_defer`.
BATCH = 500


def make_app(url: str, connections: int, began: Path) -> App:
    """Its tasks: one that does nothing, and one that notes how long ago it was sent."""
    app = App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=connections))

    @app.task(name="noop")  # type: ignore[untyped-decorator, unused-ignore]
    async def noop() -> None:
        pass

    @app.task(name="timed")  # type: ignore[untyped-decorator, unused-ignore]
    async def timed(sent_at: float) -> None:
        seconds = time.time() - sent_at
        with began.open("a") as file:
            file.write(f"{seconds}\n")

    return app


async def work(app: App, concurrency: int) -> None:
    """Its worker."""
    async with app.open_async():
        await app.run_worker_async(concurrency=concurrency)


async def client(app: App) -> None:
    """Puts jobs in: `migrate`, `put N` or `steady N PER_S`."""
    loop = asyncio.get_running_loop()
    async with app.open_async():
        while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
            match words:
                case ["migrate"]:
                    await app.schema_manager.apply_schema_async()
                case ["put", n]:
                    for at in range(0, int(n), BATCH):
                        some: list[dict[str, Any]] = [{}] * min(BATCH, int(n) - at)
                        await app.tasks["noop"].batch_defer_async(*some)
                case ["steady", n, per_s]:
                    started = time.monotonic()
                    for at in range(int(n)):
                        await asyncio.sleep(max(0.0, started + at / float(per_s) - time.monotonic()))
                        await app.tasks["timed"].defer_async(sent_at=time.time())
                case _:
                    raise SystemExit(f"not understood: {words}")
            print(json.dumps({"version": version("procrastinate")}), flush=True)


def main() -> None:
    """The command."""
    role, url, concurrency, began = sys.argv[1:]
    app = make_app(url, 10, Path(began))
    asyncio.run(work(app, int(concurrency)) if role == "worker" else client(app))


if __name__ == "__main__":
    main()
