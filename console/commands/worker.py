"""`mediamill worker`: the daemon."""

from __future__ import annotations

from contextlib import ExitStack

import anyio
import click
import structlog

from console import logs
from console.assembly import worker_parts
from console.compose import Deployment
from worker.daemon import serve
from worker.health_server import HealthServer
from worker.sandbox import set_undumpable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@click.command()
def worker() -> None:
    """Run jobs until told to stop.

    SIGTERM or Ctrl-C drains: nothing more is claimed, what runs may finish within MEDIAMILL_DRAIN_GRACE_S. A second
    signal leaves at once. An embedded database is migrated at the start; a configured one never: `mediamill migrate`.
    """
    with Deployment.load() as deployment:
        logs.configure(deployment.settings)
        _guard_credentials()
        parts = worker_parts(deployment)
        with ExitStack() as held:
            if (address := deployment.settings.http_address) is not None:
                server = held.enter_context(HealthServer(parts.health, parts.metrics.text, address))
                log.info("health and metrics are served", host=address[0], port=server.port)
            end = anyio.run(lambda: serve(parts))
        log.info("gone", end=end)


def _guard_credentials() -> None:
    """Before any child exists: what runs as the same user may else read the environment of this process."""
    try:
        set_undumpable()
    except OSError as error:
        log.warning("this process's environment is not closed to others of its user", error=str(error))
